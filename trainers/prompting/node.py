"""The keys of a method's cfg node: their types, defaults, and the values that a user may set."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from .errors import UserError, fraction, from_1, nearest, not_negative, one_of, positive

From0: TypeAlias = Annotated[int, not_negative]
From1: TypeAlias = Annotated[int, from_1]
NotNegative: TypeAlias = Annotated[float, not_negative]
Positive: TypeAlias = Annotated[float, positive]
Fraction: TypeAlias = Annotated[float, fraction]
Switch: TypeAlias = object  # any true value turns it on
Words: TypeAlias = str | list[str] | None  # a template, or a list of them


def clean(words: str) -> str:
    """Return the words with underscores as spaces and runs of white space as one space."""
    return " ".join(words.replace("_", " ").split())


@dataclass(frozen=True)
class Settings:
    """Base class of the settings of every method, which adds a field for each key of its node.

    Attributes:
        dataset: name of the data set; not a key of the node.
        sentences: those that a run asks for, `Asked` or a `ClassText`, or None; not a key either.
        several: True if images have several labels; not a key either.
        PREC: precision, `fp16`, `fp32` or `amp`.
        CALIBRATE: True adds TCPT's terms to the loss (docs/methods.md, section 10).
    """

    dataset: str = ""
    sentences: Any = None
    several: bool = False
    PREC: str = "fp16"
    CALIBRATE: bool = False

    def __post_init__(self) -> None:
        """Check what the types of the fields do not say; a subclass may call it first."""


def defaults_of(settings: type[Settings]) -> dict[str, Any]:
    """Return the keys of a method's node with their defaults."""
    return {
        key.name: key.default if key.default_factory is MISSING else key.default_factory()
        for key in fields(settings)
        if key.name not in ("dataset", "sentences", "several")
    }


def check_values(
    settings: type[Settings], values: Mapping[str, object], place: Callable[[str], str]
) -> None:
    """Check the values in a node, by key, against the types of the fields, which may have a range.

    `place` returns the dotted place of a key in the cfg, for the message.
    """
    types = get_type_hints(settings, include_extras=True)
    for key, value in values.items():
        kind, where = types[key], place(key)
        if get_origin(kind) is Literal:
            one_of(where, value, get_args(kind))
        plain, *ranges = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        holds, what = KINDS.get(plain, (lambda value: True, ""))
        if not holds(value):
            raise UserError(f"{where} is {value!r} but must be {what}")
        for check in ranges:
            check(where, value)


def read_node(
    method: Any,
    values: Mapping[str, Any],
    dataset: str = "",
    sentences: Any = None,
    several: bool = False,
) -> Any:
    """Return the complete settings of a method, with defaults in place of None.

    Args:
        method: the class.
        values: keys of the method's node; missing ones, and those that are None, take the
            defaults. A printed warning names keys that the method ignores.
        dataset: name of the data set.
        sentences: those that the run asks for.
        several: True if images have several labels.
    """
    for key in values:
        if key not in method.defaults and key not in method.public.ignored:
            raise UserError(
                f"TRAINER.{method.node} has no key '{key}': {nearest(key, method.defaults)}"
            )
    warn_ignored([method.place(k) for k in method.public.ignored if values.get(k) is not None])
    settings = {
        key: value
        for key, value in values.items()
        if value is not None and key not in method.public.ignored
    }
    check_values(method.Settings, settings, method.place)
    if settings.get("CTX_INIT") is False and not isinstance(method.defaults["CTX_INIT"], bool):
        settings["CTX_INIT"] = ""
    return method.Settings(**settings, dataset=dataset, sentences=sentences, several=several)


def fill(value: Any, of_run: Mapping[str, object]) -> Any:
    """Return a value with what a run says in place of `{seed}` and others, if it is a text."""
    if isinstance(value, str):
        for name, said in of_run.items():
            value = value.replace(f"{{{name}}}", str(said))
    return value


def warn_ignored(places: list[str]) -> None:
    """Print a warning that names keys, if there are any."""
    if places:
        print(f"warning: ignored, as this method does not use them: {', '.join(places)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value % 1 == 0


def _are_numbers(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_number, value))


def _are_words(value: object) -> bool:
    if value is False:  # no words, in checkouts whose own methods read a switch
        return True
    words = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(word, str) for word in words)


KINDS: dict[object, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: value in (True, False), "True or False"),
    int: (_is_whole, "a whole number"),
    float: (_is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a word"),
    list[float]: (_are_numbers, "a list of numbers, such as [7, 3]"),
    list[int]: (
        lambda value: _are_numbers(value) and all(map(_is_whole, value)),
        "a list of whole numbers, such as [7, 3]",
    ),
    list[str]: (
        lambda value: isinstance(value, (list, tuple)) and _are_words(value),
        "a list of words, such as ['q', 'v']",
    ),
    Words: (_are_words, "words, such as 'a photo of a'"),
}
