"""Note where the host waits for a GPU."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
NOT_HERE = (Path(__file__).resolve(), ROOT / "tests" / "accelerator")


@contextmanager
def note_waits() -> Iterator[list[str]]:
    """Collect the waits of the host for the GPU inside the `with` block.

    PyTorch does not report waits of `torch.cuda.synchronize`, which no step calls.

    Yields:
        `file:line function` of each wait: the innermost line of this repository, or `PyTorch`.
    """
    places: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        usual = warnings.showwarning

        def show(message, *args, **kwargs):
            if "called a synchronizing" in str(message):  # turning the mode on warns, too
                places.append(_place())
            else:
                usual(message, *args, **kwargs)

        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        ours = path.is_relative_to(ROOT) and "site-packages" not in path.parts  # of a .venv in it
        if ours and not any(map(path.is_relative_to, NOT_HERE)):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "PyTorch"
