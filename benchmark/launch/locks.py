"""Locks that allow one writer for each run folder."""

import contextlib

from trainers.prompting.storage.files import hold_lock

from ..protocols.base import Run

LOCK = ".launch.lock"  # held by the launcher, from the start of a run to its end
TRAIN_LOCK = ".lock"  # held by train.py itself, which may outlive a launcher that was killed


def hold(run: Run) -> contextlib.ExitStack | None:
    """Lock the run's folder for other launchers until the returned stack is closed.

    Returns:
        None if another launcher writes there, or a train.py that outlived its launcher.

    Raises:
        OSError: the folder cannot be created or written.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(hold_lock(run.folder / LOCK)):
            return None
        with hold_lock(run.folder / TRAIN_LOCK) as free:  # our child takes this lock itself
            return stack.pop_all() if free else None


def is_held(run: Run) -> bool:
    """Return True if a process, visible to this machine, writes to the run's folder."""
    for name in (LOCK, TRAIN_LOCK):
        if (run.folder / name).exists():
            with contextlib.suppress(OSError), hold_lock(run.folder / name) as free:
                if not free:
                    return True
    return False
