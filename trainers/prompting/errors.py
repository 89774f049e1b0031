"""The one exception for a user's mistake."""


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what to do.

    `exit_code` marks it for `train.py`, which prints the sentence alone and leaves with the code.
    """

    exit_code = 2


def nearest(name: str, valid) -> str:
    """A hint `; did you mean X?` with the valid name nearest to `name`, and the list of all."""
    from difflib import get_close_matches

    valid = sorted(map(str, valid))
    folded = {v.lower(): v for v in reversed(valid)}
    close = get_close_matches(str(name).lower(), folded, n=1, cutoff=0.4)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    return f"{hint}(valid: {', '.join(valid)})"
