"""Find runs below folders: those that a launcher started, by their run.json, and single runs."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainers.prompting.checkpoint.identity import RUN
from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.run_record import RECORD

from . import PROTOCOLS
from .base import Run
from .launches import CONSOLE, read_launch
from .transfer import places_of_sources, shared_trainings

OLD = re.compile(r"\.old\d*$")  # ends the names of folders that were set aside


@dataclass
class Found:
    """The runs below a folder.

    `runs` are those of launchers, by output: the folder that holds the folders of protocols. Of
    outputs inside one another only the outer one counts.
    """

    runs: dict[Path, list[Run]] = field(default_factory=dict)
    singles: list[Path] = field(default_factory=list)  # finished runs of train.py itself
    undescribed: list[Path] = field(default_factory=list)  # of a launcher, without a run.json
    problems: list[str] = field(default_factory=list)  # sentences

    @property
    def notes(self) -> list[str]:
        """Sentences on what `runs` do not show as it is on disk."""
        notes = list(dict.fromkeys(self.problems))
        if self.undescribed:
            notes.append(f"left out: {_several(self.undescribed, 'runs')}, made by 0.6: run again")
        if self.singles:
            notes.append(
                f"left out: {_several(self.singles, 'single runs')}, which `report RUN` shows"
            )
        return [*map(printable, notes)]


def find(root: Path) -> Found:
    """Return the runs in a folder and below it, by protocol and part, then by folder."""
    found, placed, moved = Found(), defaultdict(list), []
    for folder, names in _folders(root):
        before = len(found.problems)
        run = _read(folder, found.problems) if RUN in names else None
        if run is None:
            if CONSOLE in names and len(found.problems) == before:
                found.undescribed.append(folder)
            elif RECORD in names and len(found.problems) == before:
                found.singles.append(folder)
        elif around := _output(run):
            placed[around].append(run)
        else:
            moved.append(run)
    for place, runs in placed.items():
        if not any(place.startswith(f"{other}/") for other in placed):
            found.runs[_as_given(place, root)] = runs
    for run in moved:
        outputs = (path for path in found.runs if path in run.folder.parents)
        found.runs.setdefault(next(outputs, root), []).append(run)
    for output, runs in found.runs.items():
        sources = (_read(output / place, found.problems) for place in places_of_sources(runs))
        runs += filter(None, sources)
        shared = shared_trainings(_each_once(runs, output, found.problems))
        found.runs[output] = sorted(shared, key=_rank)
    return found


def runs_in(output: Path) -> list[Run]:
    """Return the runs of one output; raises UserError as `find`."""
    return find(output).runs.get(output, [])


def is_run(folder: Path) -> bool:
    """Return True for the folder of a finished run."""
    return os.path.isfile(folder / RECORD)


def _folders(root: Path) -> Iterator[tuple[Path, Collection[str]]]:
    """Yield the folders of runs at a folder or below, with the names in them.

    Links are followed out of the folder only, and so none in a circle.
    """
    top = os.path.realpath(root)
    for folder, below, files in os.walk(root, onerror=_refuse, followlinks=True):
        is_leaf = not {RUN, RECORD, CONSOLE}.isdisjoint(files)
        if is_leaf:
            yield Path(folder), files
        names = [] if is_leaf else [n for n in sorted(below) if n[0] != "." and not OLD.search(n)]
        below[:] = [name for name in names if not _leads_into(top, os.path.join(folder, name))]


def _leads_into(top: str, path: str) -> bool:
    """Return True for a link to a folder or to one below it."""
    return os.path.islink(path) and f"{os.path.realpath(path)}/".startswith(f"{top}/")


def _refuse(error: OSError) -> None:
    """Raise the error of a folder that may not be read: it is not taken for an empty one."""
    if isinstance(error, PermissionError):
        raise error


def _rank(run: Run) -> tuple[int, int]:
    """Return the places of a run's protocol and part among others."""
    return [*PROTOCOLS].index(run.protocol.name), [*run.protocol.parts].index(run.part)


def _read(folder: Path, problems: list[str]) -> Run | None:
    """Return what was started in a folder; None if nothing, or if a new problem says why not."""
    try:
        return read_launch(folder)
    except UserError as error:
        problems.append(f"left out: {error}")
        return None


def _output(run: Run) -> str | None:
    """Return the absolute output around a run, if it is in its planned place there."""
    folder, place = os.path.abspath(run.folder), f"/{run.place}"
    return folder.removesuffix(place) if folder.endswith(place) else None


def _as_given(output: str, root: Path) -> Path:
    """Return an output relative to the folder that was given, if it is in that."""
    whole, given = Path(output), Path(os.path.abspath(root))
    return root / whole.relative_to(given) if whole.is_relative_to(given) else whole


def _each_once(runs: list[Run], output: Path, problems: list[str]) -> Iterable[Run]:
    """Return the runs without copies; of several, the one in its planned place counts."""
    once: dict[tuple, Run] = {}
    for run in runs:
        other = once.setdefault((run.protocol, run.place), run)
        if other is not run:
            first, second = other, run
            if os.path.abspath(run.folder) == os.path.abspath(output / run.place):
                first, second = run, other
            once[run.protocol, run.place] = first
            problems.append(
                f"left out: '{second.folder}', the same run as '{first.folder}' ({run})"
            )
    return once.values()


def _several(folders: list[Path], what: str) -> str:
    """Return the number of folders with one of them, or the only one."""
    return f"{len(folders)} {what}, such as '{folders[0]}'" if folders[1:] else f"'{folders[0]}'"
