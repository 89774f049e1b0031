"""The one answer to "is this the run that is asked for?".

A run is a method with its settings, what its training saw and did, its CLIP, what it begins from,
and how it is tested: an `Identity`. `run.json` in its folder holds it, written before the first
step, next to what a launcher started there; `results.json` holds that of what was evaluated.
KEYS gives every key one role: two runs that differ in it compute the same weights (`machine`,
`place`: not compared), the same weights but other predictions (`test`), or other weights
(`training`, `data`). A key of a method's node needs no role, and one that nobody listed counts as
`training`. Who asks `differences`: a launcher (is it done?), a run (may it resume?), an evaluation
(was it trained so?) and the report (is it of one line?). Needs neither PyTorch nor yacs.
"""

import json
import os
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..embedded import file_sha256, other_weights
from ..errors import UserError, need, printable
from ..storage.files import read_json, write_whole
from ..storage.run_record import RUN, sentences_text, stream_text
from .keys import KEYS, role_of

BY_PROCESS = (
    "if the files are the same, the code of the data set depends on the process (the order of a "
    "set, hash, a shuffle without a seed): sort names, and seed what is drawn"
)
UNKNOWN = "unknown"  # of public checkpoints, which do not say it
MOST = 8  # differences in a message
FACTS = ("images", "fingerprint", "classes", "division")  # of `data`, which no key gives


class Identity(NamedTuple):
    """What a run is, as JSON in `run.json` and `results.json`.

    `settings`, `training` and `test` have values by dotted key, as given: not filled in by the data
    set. So has `data`, and what its names, images and files hold, as far as it is known.
    """

    method: str = ""
    settings: dict[str, Any] = {}  # of the method, with its defaults
    training: dict[str, Any] = {}
    test: dict[str, Any] = {}
    data: dict[str, Any] = {}  # also FACTS; class names and division stay in checkpoints
    clip: dict[str, Any] = {}  # name, sha256
    earlier: dict[str, Any] = {}  # `teacher`, `start`: digests of their weights
    code: dict[str, str] = {}  # hashes by name

    @classmethod
    def of(cls, content: Any, source: str, remedy: str) -> Self:
        """Return that in a JSON object; `source` and `remedy` are of the message if it has none."""
        try:
            found = cls(**content)
            groups = all(isinstance(group, dict) for group in found[1:])
            texts = (found.method, *(text or "" for text in found.clip.values()))
            if groups and all(isinstance(text, str) for text in texts):
                return found
        except (AttributeError, TypeError):
            pass
        raise UserError(f"{source} does not say what its run is, as those of 0.6: {remedy}")

    @property
    def keys(self) -> dict[str, Any]:
        """The values of all keys."""
        return {**self.settings, **self.training, **self.test, **self.data}

    @property
    def cfg_keys(self) -> dict[str, Any]:
        """The values of those that are keys of a cfg, and no facts about the data."""
        return {key: value for key, value in self.keys.items() if key not in FACTS}

    def as_json(self) -> dict[str, Any]:
        """Return it without the names and the division of its data, which checkpoints hold."""
        data = {key: x for key, x in self.data.items() if key not in ("classes", "division")}
        return self._replace(data=data)._asdict()

    def value(self, place: str) -> Any:
        """Return the value of a dotted key; None if it has none."""
        return self.keys.get(place)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every entry of a config."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def as_compared(place: str, value: Any) -> Any:
    """Return the value of a key as an identity has it: of a file what it holds."""
    if place == "DATASET.ROOT":  # empty for the embedded data, which lie elsewhere
        return os.path.realpath(os.path.expanduser(value)) if value else ""
    if place == "DATASET.SENTENCES":
        return sentences_text(value)
    if place == "DATASET.FEATURES":
        return file_sha256(value) if value else ""
    if place == "TEST.STREAM":
        return stream_text(value)
    return plain(value)


def in_groups(keys: Iterable[tuple[str, Any]], own: Container[str] = ()) -> dict[str, dict]:
    """Return the values of dotted keys by the group of an identity; `own` are in `settings`."""
    groups: dict[str, dict] = {name: {} for name in ("settings", "training", "test", "data")}
    for place, value in keys:
        role = "settings" if place in own else role_of(place)
        if role in groups:
            groups[role][place] = as_compared(place, value)
    return groups


def identity(
    cfg: Mapping[str, Any], method: Any = None, data: Any = None, clip: Mapping | None = None
) -> Identity:
    """Return what the run of a config is, without what it begins from, and its code.

    Args:
        cfg: nested.
        method: its class; None for a trainer of other code, which may read all nodes.
        data: its data set, which may have a `fingerprint` and a `division`.
        clip: `name` and `sha256`.
    """
    own = {method.place(key): default for key, default in method.defaults.items()} if method else {}
    others = tuple(f"TRAINER.{node}." for node in method.other_nodes()) if method else ()
    given = [
        (place, own.get(place) if value is None else value)
        for place, value in leaves(cfg)
        if place in own or not place.startswith(others)
    ]
    groups, of_images = in_groups(given, own), cfg["INPUT"]
    names = ("SIZE", "PIXEL_MEAN", "PIXEL_STD", "INTERPOLATION", "RESIZE")
    groups["data"]["images"] = {n.lower(): plain(of_images[n]) for n in names if n in of_images}
    groups["data"]["fingerprint"] = getattr(data, "fingerprint", None)
    if data is not None:
        groups["data"]["classes"] = list(data.classnames)
        groups["data"]["division"] = getattr(data, "division", None) or None
    return Identity(cfg["TRAINER"]["NAME"], **groups, clip=dict(clip or {}))


ALL = ("settings", "training", "test", "data", "clip", "earlier", "code")
# Two runs that differ in these have other weights.
OF_WEIGHTS = ("settings", "training", "data", "clip", "earlier")


def as_tested(own: Identity, then: Identity | None, method: Any, adapts: bool) -> Identity:
    """Return what an evaluation is: what concerns the training is that of `then`, if it is known.

    The seed of a method that `adapts` while testing stays that of the evaluation.
    """
    places = {method.place(key) for key in method.training_only}
    if then is None:  # of public code, which does not say it
        start = own.training.get("MODEL.INIT_WEIGHTS")
        training = dict.fromkeys(own.training, UNKNOWN) | {"MODEL.INIT_WEIGHTS": start}
        known = {key: UNKNOWN for key in own.settings if key in places}
    else:
        training = {**own.training, **then.training}
        known = {key: then.settings[key] for key in then.settings if key in places}
    if adapts:
        training["SEED"] = own.training.get("SEED")
    earlier = own.earlier if then is None else then.earlier
    return own._replace(settings={**own.settings, **known}, training=training, earlier=earlier)


def differences(
    one: Identity, other: Identity, roles: Sequence[str] = ALL, without: Container[str] = ()
) -> list[str]:
    """Return how two runs differ in some roles, a clause each: `LR is 0.1 here and 0.01 there`.

    A key that only one side has is not compared: it is of another checkout, or was not asked for.

    Args:
        one: the one that is here.
        other: the one that is there.
        roles: which groups of an `Identity` are compared; `method` always is.
        without: dotted keys that are not.

    Examples:
        >>> one, other = (Identity("CoOp", training={"OPTIM.LR": lr}) for lr in (0.1, 0.01))
        >>> differences(one, other)
        ['OPTIM.LR is 0.1 here and 0.01 there']
    """
    found: dict[str, tuple] = {"the method": (one.method, other.method)} if other.method else {}
    there = other.keys
    for role in roles:
        if role in ("settings", "training", "test"):
            mine = getattr(one, role)
            found |= {x: (mine[x], there[x]) for x in unlike(mine, there) if x not in without}
        elif role == "data":
            found |= _of_data(one.data, {**there, **other.data}, without)
        elif role != "clip":
            mine, theirs = getattr(one, role), getattr(other, role)
            found |= {f"the {x}": (mine[x], theirs[x]) for x in mine if x in theirs}
    texts = [
        f"{x} is {_text(a)} here and {_text(b)} there" for x, (a, b) in found.items() if a != b
    ]
    why = "clip" in roles and other_clip(one.clip, other.clip)
    return [*texts, why] if why else texts


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys that both sides have, with different values."""
    return [key for key, value in one.items() if key in other and other[key] != value]


def _of_data(one: Mapping, other: Mapping, without: Container[str]) -> dict[str, tuple]:
    """Return what both sides say of their data, by name: class by class, part by part."""
    hashes = [data.get("fingerprint") for data in (one, other)]
    root = {"DATASET.ROOT"} if all(hashes) else set()  # the images decide, wherever they lie
    told = {"fingerprint"} if one.get("division") and other.get("division") else set()
    names = [x for x in one if x in other and x not in root | told and x not in without]
    found: dict[str, tuple] = {}
    for name in names:
        mine, theirs = one[name], other[name]
        if name == "classes":
            found["the number of classes"] = (len(mine), len(theirs))
            pairs = enumerate(zip_longest(mine, theirs))
            found |= {f"class {k}": pair for k, pair in pairs}
        elif isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            parts = {**mine, **theirs}
            what = "images of" if name == "division" else name
            found |= {f"{what} {k}": (mine.get(k), theirs.get(k)) for k in parts}
        elif mine is not None and theirs is not None:
            found["the images' hash" if name == "fingerprint" else name] = mine, theirs
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value)
    return "none" if value is None else str(value)


def other_clip(one: Mapping, other: Mapping) -> str | None:
    """Return how a CLIP differs from another, which equal weights never do; None if not."""
    names = [clip_name(clip.get("name")) for clip in (one, other)]
    weights = one.get("sha256"), other.get("sha256")
    same = None in names or names[0] == names[1]
    if all(weights) and (same or weights[0] == weights[1]):
        return other_weights(str(other.get("name")), *weights)
    return None if same else f"the CLIP is {names[0]} here and {names[1]} there"


def clip_name(name: str | None) -> str | None:
    """Return the name of a CLIP without the folder that its file lies in."""
    if name is None:
        return None
    begin = name.partition("/")[0] + "/" if name.startswith(("open_clip:", "hf-hub:")) else ""
    is_file = os.path.isabs(name) or name.endswith((".pt", ".bin", ".safetensors"))
    return begin + os.path.basename(name) if begin or is_file else name


def in_words(texts: Sequence[str]) -> str:
    """Return differences as the part of a sentence."""
    more = [f"and {len(texts) - MOST:,} more"] * (len(texts) > MOST)
    return "; ".join([*texts[:MOST], *more])


def begun_otherwise(folder: str | os.PathLike[str], texts: Sequence[str]) -> UserError:
    """Return the error about a run that was begun with other settings, classes or images."""
    return UserError(
        f"The run in '{folder}' was begun otherwise ({in_words(texts)}): go back to what is there, "
        "give this one another --output-dir, or delete that folder to train again"
    )


def no_settings(folder: str | os.PathLike[str]) -> None:
    """Say that a checkpoint does not name the settings of its training."""
    print(f"The checkpoint in '{folder}' has no settings: check that they agree with this run")


def note_edited(files: Collection[str]) -> None:
    """Say that files of the code were edited since a training that is resumed began, if any."""
    if files:
        print(f"The code has changed since this training began: {', '.join(map(printable, files))}")


# ------------------------------------------------------------------ the file


def write_run(folder: str | os.PathLike[str], **parts: Any) -> None:
    """Write parts of `run.json`, `launch` or `run`, and keep the other; raises OSError."""
    path = Path(folder) / RUN
    try:
        content = read_json(path, "") if path.exists() else {}
    except UserError:  # a broken one is of no use
        content = {}
    write_whole(path, json.dumps({**content, **parts}, indent=1) + "\n")


def read_run(folder: str | os.PathLike[str], remedy: str) -> dict[str, Any] | None:
    """Return the content of `run.json` in a folder; None without one."""
    try:
        return read_json(Path(folder) / RUN, remedy)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def run_in(folder: str | os.PathLike[str], remedy: str) -> Identity | None:
    """Return the identity of the run in a folder; None if it is not known."""
    content = (read_run(folder, remedy) or {}).get("run")
    if content is None:
        return None
    where = f"'{os.path.join(folder, RUN)}'"
    found = Identity.of(content, where, remedy)
    for place, value in found.cfg_keys.items():
        kind: Any = type(KEYS[place].default) if place in KEYS else object
        kind = {float: (int, float), tuple: list}.get(kind, kind)
        need(
            value is None or isinstance(value, kind),
            f"{where} has {value!r:.50} for the setting {place}, which is impossible: {remedy}",
        )
    return found
