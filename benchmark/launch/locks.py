"""One writer for each folder of a run."""

import contextlib

from trainers.prompting.storage.files import held

from ..protocols.base import Run

LOCK = ".launch.lock"  # held by the launcher, from the start of a run to its end
TRAIN_LOCK = ".lock"  # held by train.py itself, which may outlive a launcher that was killed


def hold(run: Run) -> contextlib.ExitStack | None:
    """Keep other launchers out of the run's folder until the stack is closed.

    Returns:
        None where another launcher, or a train.py that it has left behind, writes there.

    Raises:
        OSError: the folder cannot be made or written.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(held(run.folder / LOCK)):
            return None
        with held(run.folder / TRAIN_LOCK) as free:  # the child of ours takes it next
            return stack.pop_all() if free else None


def is_held(run: Run) -> bool:
    """Whether a process writes the run's folder, as far as this machine can see."""
    for name in (LOCK, TRAIN_LOCK):
        if (run.folder / name).exists():
            with contextlib.suppress(OSError), held(run.folder / name) as free:
                if not free:
                    return True
    return False
