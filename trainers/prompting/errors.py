"""The exception for a user's mistake, and helpers that format messages."""

import errno
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches

# control characters, bytes that are not UTF-8, and characters that break or reverse a line
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


# Errors of the system where files are written or read, and what a user can do about them.
REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "choose another folder",
    errno.EISDIR: "a file belongs there: remove that folder",
    errno.EEXIST: "a folder belongs there: remove that file",
    errno.ENOTDIR: "a file is where a folder belongs: remove it, or choose another folder",
}


class UserError(ValueError):
    """Bad input, described in one sentence: what is wrong, where, and what to do.

    A command prints only the sentence and exits with `exit_code`: 2 for a wrong request, 1 for a
    right one that could not be carried out.

    Examples:
        >>> UserError("M is -1: give 0 or more").exit_code
        2
    """

    exit_code = 2

    def __init__(self, message: str = "", exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


class ClosedSide(UserError):
    """The error for a method that needs the inside of a side of a CLIP that is used as a whole.

    `side` is `image` or `text`; `does` is what the method does there, and `remedy` what to do.
    """

    def __init__(self, side: str, does: str, remedy: str = ""):
        self.side, self.does, self.remedy = side, does, remedy
        super().__init__(
            f"The method {does}, but the {side} side of this backbone is closed, which means that "
            "its encoder is used as a whole (docs/backbones.md): "
            + (remedy or "choose another method or backbone")
        )


def nearest(name: object, valid: Iterable[object]) -> str:
    """Return a hint `did you mean 'X'?` with the valid name nearest to `name`, and all names.

    Examples:
        >>> nearest("CoOp, M 3", ["CoOp, M 1", "CoOp, M 2"])
        "did you mean 'CoOp, M 2'? (valid: CoOp, M 1; CoOp, M 2)"
    """
    valid = sorted(map(str, valid))
    names = ("; " if any(", " in v for v in valid) else ", ").join(valid)
    folded = {v.lower(): v for v in reversed(valid)}
    close = get_close_matches(str(name).lower(), folded, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{folded[close[0]]}'? (valid: {names})"
    return f"choose one of {names}" if valid else "there are none"


def check_name(kind: str, name: str, valid: Iterable[object]) -> str:
    """Return `name`; raises UserError with the nearest one if it is not among `valid`."""
    valid = list(valid)
    if name not in valid:
        raise UserError(f"There is no {kind} '{name:.100}': {nearest(name, valid)}")
    return name


def need(condition: object, sentence: str) -> None:
    """Raise a `UserError` with this sentence unless the condition holds."""
    if not condition:
        raise UserError(sentence)


def one_of(name: str, value: object, valid: Iterable[str]) -> None:
    """Raise a `UserError` unless the value of a key is one of the valid words."""
    valid = list(valid)
    need(value in valid, f"{name} is '{value}' but must be one of {', '.join(map(str, valid))}")


def not_negative(name: str, value: float) -> None:
    """Raise a `UserError` unless the value of a key is finite and 0 or more."""
    need(0 <= value < math.inf, f"{name} is {value} but must be 0 or more")


def positive(name: str, value: float) -> None:
    """Raise a `UserError` unless the value of a key is finite and above 0."""
    need(0 < value < math.inf, f"{name} is {value} but must be positive")


def from_1(name: str, value: int) -> None:
    """Raise a `UserError` unless the value of a key is 1 or more."""
    need(value >= 1, f"{name} is {value}: at least 1 is needed")


def fraction(name: str, value: float) -> None:
    """Raise a `UserError` unless the value of a key is from 0 to 1."""
    need(0 <= value <= 1, f"{name} is {value} but must be in [0, 1]")


def by_system(error: BaseException) -> UserError | None:
    """Return an error of the system as a user's mistake, such as a full disk; None for others."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = f"'{error.filename}'" if error.filename else "A file"
        return UserError(
            f"{where} cannot be written or read ({error.strerror}): {REMEDIES[error.errno]}, then "
            "rerun",
            exit_code=1,
        )
    return None


def printable(text: object) -> str:
    r"""Return text from outside on one line: control characters are escaped, as `\\x1b`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def in_short(error: BaseException, most: int = 200) -> str:
    """Return the type and message of an error in one line of at most `most` characters."""
    return " ".join(f"{type(error).__name__} {error}".split())[:most]
