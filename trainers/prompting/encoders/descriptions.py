"""Reads sentences about classes as people have them, and matches them to class names.

Nothing in a file is executed.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, nearest, need, printable
from ..images.class_folders import some
from ..node import clean
from ..storage.files import once, read_json
from .class_text import ClassText
from .templates import CLIP, IMAGENET

TEMPLATES = {"clip7": IMAGENET, "clip80": CLIP}
EMBEDDED = Path(__file__).parents[1] / "embedded"
FILES = {name: EMBEDDED / f"{name}_sentences.json" for name in ("emoji", "medical")}


class Asked(NamedTuple):
    """What a run asks for: DATASET.SENTENCES and SENTENCES_RULE.

    source: a JSON file or its content, a list by name, or templates with `|` between them.
    """

    source: str | Mapping[str, Any]
    rule: str = ""


def describe(asked: Asked, classnames: Sequence[str], clip_model: Any) -> ClassText:
    """Return the sentences for K classes; `note` says what was matched, errors what was not."""
    source, names = asked.source, [clean(name) for name in classnames]
    text, where = ClassText([], names, asked.rule, asked=asked), f"'{printable(source)}'"
    sets = getattr(clip_model, "sentence_sets", {})  # of a file of features
    if isinstance(source, Mapping):
        about, where = source, "DATASET.SENTENCES"
    elif source in sets or "{}" in source or source in TEMPLATES:
        if source not in sets:
            rows = TEMPLATES.get(source) or [clean(row) for row in source.split("|")]
            wrong = [row for row in rows if row.count("{}") != 1]
            need(not wrong, f"DATASET.SENTENCES has the template {wrong[:1]}: write one {{}} in it")
            return text._replace(rows=rows, note=f"{where}, {len(rows)} for each class")
        about = sets[source]
    else:
        about = read_about(source, "DATASET.SENTENCES", sets)
    lists, how = match(about, names, where)
    if isinstance(source, Mapping) or source.endswith(".json"):
        own = dict(zip(names, lists, strict=True))
        text = text._replace(about=own | {key: about[key] for key in ("*",) if key in about})
    lists = with_names(lists, names)
    counts = {len(own) for own in lists}
    note = f"{where}: {how}; {' to '.join(map(str, sorted({min(counts), max(counts)})))} for each"
    pairs = zip(names, lists, strict=True)
    if text.about and not any(name.lower() in s.lower() for name, own in pairs for s in own):
        note += ", none with its name (write whole sentences)"
    if counts != {1} and asked.rule != "score_max":
        return text._replace(lists=lists, note=note)
    repeated = [islice(cycle(own), max(counts)) for own in lists]
    return text._replace(rows=[*zip(*repeated, strict=True)], note=note)


def with_names(lists: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    """Return lists with the class name in place of `{}`, and of what is empty."""
    return [
        [text.replace("{}", name) if text.strip() else name for text in own or [""]]
        for own, name in zip(lists, names, strict=True)
    ]


def match(
    about: Mapping[str, Any], names: Sequence[str], where: str
) -> tuple[list[list[str]], str]:
    """Return the list of each class, and how they were found: by name, by case, or under `*`.

    In names `_` reads as a space; by case, `-` does, too. Attributes may divide a list.
    """
    alike: tuple[dict[str, list[str]], ...] = defaultdict(list), defaultdict(list)
    for key in about:
        alike[0][clean(key)].append(key)
        alike[1][_fold(key)].append(key)
    lists, how, own_names, used = [], Counter[str](), {*names}, {"*"}
    for name in names:
        ways = [("name", alike[0].get(name)), ("case", alike[1].get(_fold(name)))]
        way, keys = next(((way, keys) for way, keys in ways if keys), ("'*'", alike[0].get("*")))
        if not keys or (own := _flat(about[keys[0]])) is None:
            raise UserError(
                f"{where} has no list of sentences for the class '{name}': add one, or one under "
                "'*' for all classes that are not listed"
            )
        written = [key for key in alike[1].get(_fold(name), ()) if clean(key) not in own_names]
        keys = [*dict.fromkeys([*keys, *(written if way != "'*'" else ())])]
        same = all(about[key] == about[keys[0]] for key in keys)
        need(same, f"{where} has {' and '.join(keys)} for the class '{name}': keep one of them")
        need(
            all(isinstance(text, str) for text in own),
            f"{where} has structures, not sentences, for the class '{name}': list texts",
        )
        lists.append(own)
        used |= {*keys}
        how[way] += 1
    parts = [f"{how[way]} by {way}" for way in ("name", "case", "'*'") if how[way]]
    parts[0] = parts[0].replace(" by", f" of {len(names)} classes by")
    bare = [
        name for name, own in zip(names, lists, strict=True) if not all(map(str.strip, own or [""]))
    ]
    if bare:
        parts.append(f"only the name where a list or text is empty ({some(bare)})")
    if "*" in about and (unused := [key for key in about if key not in used]):
        parts.append(f"of no class: {some(unused)}")
    return lists, ", ".join(parts)


def _fold(name: str) -> str:
    return clean(name.replace("-", " ")).casefold()


def _flat(value: Any) -> list[Any] | None:
    """Return a list, or those of a mapping, one after the other; None if it is neither."""
    if isinstance(value, Mapping):
        parts = [part if isinstance(part, list) else [part] for part in value.values()]
        return [text for part in parts for text in part]
    return value if isinstance(value, list) else None


def read_about(source: str, key: str, more: Collection[str] = ()) -> Mapping[str, Any]:
    """Return the content of a JSON file, or of an embedded one; `more` are other names."""
    path = Path(FILES.get(source, source))
    if not str(path).endswith(".json"):  # of others, records do not say what they hold
        names = nearest(source, {*TEMPLATES, *FILES, *more})
        raise UserError(f"{key}: there is no list or .json file '{printable(source)}': {names}")
    remedy = f'{key} needs one like {{"class name": ["a sentence about it", ...], ...}}'
    return read_json(path, remedy, once)
