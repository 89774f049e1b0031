"""Bad input, and how it is told."""

import argparse
from difflib import get_close_matches


class BadInput(Exception):
    """A request that cannot be carried out; the message is one sentence for the user."""


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def check_name(kind: str, name: str, valid) -> str:
    """Return `name` if it is one of `valid`; else raise BadInput with the nearest valid name."""
    valid = sorted(valid)
    if name in valid:
        return name
    folded = {v.lower(): v for v in valid}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=0.4)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    raise BadInput(f"unknown {kind} '{name}': {hint}(valid: {', '.join(valid) or 'none'})")
