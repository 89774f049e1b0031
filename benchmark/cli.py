"""Argument types and helpers that commands share, including those of `trainers.prompting`."""

import argparse
from collections.abc import Callable

from trainers.prompting.use.commands.arguments import (
    Parser,
    add_plugin,
    command_parser,
    files_below,
    from_one,
    write_output,
)

__all__ = [
    "Parser", "add_plugin", "command_parser", "each", "files_below", "from_one",
    "from_zero", "seed", "words", "write_output",
]  # fmt: skip


def words(text: str) -> list[str]:
    """Argument type: words separated by spaces or commas, without duplicates."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def each(kind: Callable) -> Callable[[str], list]:
    """Make an argument type: several values of one kind, without duplicates."""
    return lambda text: list(dict.fromkeys(kind(word) for word in words(text)))


def from_zero(text: str) -> int:
    """Argument type: a whole number from 0 on."""
    return from_one(text, least=0)


def seed(text: str) -> int:
    """Argument type: a seed that every random generator accepts."""
    if from_zero(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a seed from 0 to {2**32 - 1}")
    return int(text)
