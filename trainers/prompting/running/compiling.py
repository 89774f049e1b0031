"""Applies torch.compile; if it fails, the run continues without it and the reason is printed."""

import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_folder() -> Path:
    """Return the folder of the compiler's cache."""
    default = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return Path(os.environ.get(CACHE, default))


def obstacle(example: torch.Tensor) -> str | None:
    """Compile a small function on an example tensor; return why that fails, or None if it works.

    If it works with an empty cache only, a killed process has left a broken file in the cache.
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
    except Exception as error:  # the compiler raises many types
        return in_words(error)
    return None


def in_words(error: Exception) -> str:
    """Return the type and the message of an error in one line."""
    reason, *more = str(error).splitlines() or [""]
    if reason.endswith("raised:") and more:  # the message of the compiler's backend follows
        reason += f" {more[0]}"
    return f"{type(error).__name__}: {reason}"


def compile_blocks(method: Any) -> str | None:
    """Compile the blocks of a method's encoders, which fuses all but matrix products.

    Returns:
        None, or the reason why the compiler does not work; then nothing changes.
    """
    reason = obstacle(method.logit_scale)
    if reason is None:
        for encoder in (method.image_encoder, method.text_encoder):
            encoder._block = compiled(encoder._block)
    return reason


def compiled(function: Callable) -> Callable:
    """Return the function under torch.compile.

    If the compiler fails in a call, the reason is printed, and the original function is used.
    """
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
                f"killed while it wrote, its cache is broken: delete '{cache_folder()}'"
            )
            current = function
            return function(*args)

    return run


def _of_the_compiler(error: Exception) -> bool:
    broken_file = isinstance(error, (ImportError, OSError))
    return broken_file or type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
