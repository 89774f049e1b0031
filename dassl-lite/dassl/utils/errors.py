"""Exceptions for a user's mistakes, each described in one sentence."""

from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user: what is wrong, where, and what to do, in one sentence.

    A caller prints only the message, and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, message="", exit_code=None):
        super().__init__(self._own_sentence(str(message)))
        if exit_code is not None:
            self.exit_code = exit_code

    @classmethod
    def _own_sentence(cls, message):
        # A DataLoader rebuilds a worker's exception from the text of the worker's whole traceback.
        marker = f"\n{cls.__module__}.{cls.__qualname__}: "
        if "Traceback (most recent call last)" in message and marker in message:
            return message.rpartition(marker)[2].strip()
        return message


class DataError(UserError):
    """An error in the data on disk, and not in the command."""

    exit_code = 1


class LossNotFinite(UserError, FloatingPointError):
    """An error of a training whose loss is infinite or not a number."""

    exit_code = 1


def unknown_name(kind, name, valid):
    """Return the UserError about an unknown name, with the nearest valid names."""
    valid = sorted(map(str, valid))
    folded = {v.lower(): v for v in valid}
    near = [folded[n] for n in get_close_matches(str(name).lower(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"Unknown {kind} '{name}': {hint}(valid: {', '.join(valid)})")
