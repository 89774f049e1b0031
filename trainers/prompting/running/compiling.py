"""torch.compile, and what keeps it from working, in a sentence: a run goes on without it."""

import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_folder() -> Path:
    """Where the compiler keeps what it has compiled."""
    default = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return Path(os.environ.get(CACHE, default))


def obstacle(example: torch.Tensor) -> str | None:
    """Why nothing can be compiled here, tried on an example; None if it can.

    A compiler that works with an empty cache, but not with the one it has, was ended while it
    wrote there.
    """
    reason = _failure(example)
    if reason is None:
        return None
    cache, before = cache_folder(), os.environ.get(CACHE)
    with tempfile.TemporaryDirectory() as empty:
        os.environ[CACHE] = empty
        try:
            works = _failure(example) is None
        finally:
            os.environ.pop(CACHE)
            if before is not None:
                os.environ[CACHE] = before
    return f"the compiler's cache is broken: delete '{cache}'" if works else reason


def _failure(example: torch.Tensor) -> str | None:
    try:
        torch.compile(torch.sin)(example)
    except Exception as error:  # whatever the compiler has to say
        return in_words(error)
    return None


def in_words(error: Exception) -> str:
    """The type of an error, and what it says, in one line."""
    reason, *more = str(error).splitlines() or [""]
    if reason.endswith("raised:") and more:  # by the compiler's backend, which tells in the next
        reason += f" {more[0]}"
    return f"{type(error).__name__}: {reason}"


def compiled(function: Callable) -> Callable:
    """The function under torch.compile; as it is, with a line about it, once the compiler fails."""
    current = torch.compile(function)

    def run(*args):
        nonlocal current
        try:
            return current(*args)
        except Exception as error:
            if current is function or not _of_the_compiler(error):
                raise
            print(
                f"COMPILE: the compiler fails, running without ({in_words(error)}); if it was "
                f"ended while it wrote, its cache is broken: delete '{cache_folder()}'"
            )
            current = function
            return function(*args)

    return run


def _of_the_compiler(error: Exception) -> bool:
    broken_file = isinstance(error, (ImportError, OSError))
    return broken_file or type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
