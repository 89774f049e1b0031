"""The one exception for a user's mistake, and texts for messages."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# control characters, bytes of names that are not UTF-8, and what breaks or turns a line
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what to do.

    A program prints the sentence alone and leaves with `exit_code`: 2 for a wrong request, 1 for
    a right one that could not be carried out.

    Examples:
        >>> UserError("M is -1: give 0 or more").exit_code
        2
    """

    exit_code = 2

    def __init__(self, message: str = "", exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: object, valid: Iterable[object]) -> str:
    """A hint `did you mean 'X'?` with the valid name nearest to `name`, and the list of all."""
    valid = sorted(map(str, valid))
    folded = {v.lower(): v for v in reversed(valid)}
    close = get_close_matches(str(name).lower(), folded, n=1, cutoff=0.4)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    return f"{hint}(valid: {', '.join(valid) or 'none'})"


def check_name(kind: str, name: str, valid: Iterable[object]) -> str:
    """Return `name`.

    Raises:
        UserError: it is none of `valid`; says which is nearest.
    """
    valid = list(valid)
    if name not in valid:
        raise UserError(f"There is no {kind} '{name:.100}': {nearest(name, valid)}")
    return name


@contextmanager
def no_exit(whose: str) -> Iterator[None]:
    """Run the code of others, which may not end the program: it would look like a success.

    Raises:
        UserError: it has called `sys.exit`.
    """
    try:
        yield
    except SystemExit as error:
        raise UserError(
            f"{whose} calls sys.exit({error.code!r}), which ends all without a result: raise an "
            "error there instead",
            exit_code=1,
        ) from error


def printable(text: object) -> str:
    r"""Text from a file, or a file's name, on one line: control characters become `\\x1b`."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def in_short(error: BaseException, most: int = 200) -> str:
    """The type and the words of an error in one line of at most so many characters."""
    return " ".join(f"{type(error).__name__} {error}".split())[:most]
