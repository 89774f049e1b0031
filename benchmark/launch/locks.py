"""One writer for each folder of a run."""

import contextlib
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.files import held

from ..protocols.base import Run

LOCK = ".launch.lock"  # held by the launcher, from the start of a run to its end
TRAIN_LOCK = ".lock"  # held by train.py itself, which may outlive a launcher that was killed


class Locked(UserError):
    """Another process writes this folder."""


def hold(run: Run) -> contextlib.ExitStack:
    """Keep other launchers out of the run's folder until the stack is closed.

    Raises:
        Locked: another launcher, or a train.py that it has left behind, writes there.
        OSError: the folder cannot be made or written.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        _take(stack, run.folder / LOCK)
        with contextlib.ExitStack() as probe:  # the child of ours takes it next
            _take(probe, run.folder / TRAIN_LOCK)
        return stack.pop_all()


def check_free(run: Run) -> None:
    """
    Raises:
        Locked: another process writes the run's folder.
    """
    if run.folder.exists():
        with contextlib.suppress(OSError):  # whatever else is wrong shows when the run starts
            hold(run).close()


def _take(stack: contextlib.ExitStack, path: Path) -> None:
    if not stack.enter_context(held(path)):
        raise Locked(
            f"{path.parent} is being written by another process: "
            "wait until that has ended, or choose another --output"
        )
