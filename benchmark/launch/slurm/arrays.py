"""Group runs into job arrays with their dependencies, and write the scripts of the arrays."""

import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protocols.base import Run
from .commands import Task
from .site import Site

FOLLOWERS = 8  # most arrays that wait for one: a source has many targets
NOTICE = 120  # seconds before the time limit at which a run gets a signal to end
LOGS = "slurm"  # folder below the output for scripts, the jobs' logs and the book


@dataclass(eq=False)
class Array:
    """One job array.

    Args:
        tasks: the runs of each task, by task number.
        after: an array, or the id of one that is already queued; each task starts after the task
            of the same number there has succeeded.
    """

    tasks: dict[int, list[Run]]
    after: "Array | str | None" = None

    @property
    def runs(self) -> list[Run]:
        """All runs of all tasks."""
        return [run for runs in self.tasks.values() for run in runs]


def plan(todo: list[Run], queued: dict[Run, Task], per_job: int, most: int) -> list[Array]:
    """Return the arrays that do these runs; each comes after the one that it waits for.

    Args:
        todo: the runs, none of which is queued; each comes after the run that it needs.
        queued: the tasks in the queue, by run.
        per_job: the number of runs that share a task.
        most: the most tasks of an array.
    """
    awaited = {*todo, *queued}
    free = [run for run in todo if run.needs not in awaited]
    arrays = [Array(dict(enumerate(part))) for part in batches(batches(free, per_job), most)]
    places: dict[Run, tuple[Array | str, int]] = {}
    places |= {run: (task.job, task.index) for run, task in queued.items()}
    for array in arrays:
        places |= {run: (array, index) for index, runs in array.tasks.items() for run in runs}
    waiting = defaultdict(list)
    for run in todo:
        if run.needs in awaited:
            waiting[places[run.needs]].append(run)
    most_waiting = max(map(len, waiting.values()), default=0)
    size = max(per_job, math.ceil(most_waiting / FOLLOWERS))
    followers: dict[tuple, Array] = {}
    for (after, index), runs in waiting.items():
        for number, batch in enumerate(batches(runs, size)):
            array = followers.setdefault((after, number), Array({}, after))
            array.tasks[index] = batch
    return arrays + list(followers.values())


def batches(items: Sequence, size: int) -> list[list]:
    """Split items into lists of `size`; the last may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def script(
    array: Array, name: str, command: list[str], output: Path, site: Site, here: Path, root: Path
) -> str:
    """Return the bash script of an array, for sbatch.

    Args:
        array: the array.
        name: the job's name.
        command: the launcher's command line; `--only` with the runs of a task is added.
        output: the output folder.
        site: options and set-up.
        here: the folder to which relative paths in `command` refer.
        root: the folder of train.py.
    """
    limit = f"%{site.at_once}" if site.at_once else ""
    log = str(output / LOGS / name).replace("%", "%%")
    own = [
        f"--job-name={name}",
        f"--array={numbers(array.tasks)}{limit}",
        f"--output={log}_%a.out",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{NOTICE}",
        "--kill-on-invalid-dep=yes",
    ]
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH {shlex.join(words)}" for words in [*([w] for w in own), *grouped(site)]]
    lines += ["", *site.setup]
    if site.environment:
        lines.append(f"source {shlex.quote(site.environment)}/bin/activate")
    lines += [
        f"cd {shlex.quote(str(here))} || exit 1",
        f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "",
        'case "$SLURM_ARRAY_TASK_ID" in',
    ]
    for index, runs in array.tasks.items():
        folders = shlex.join(relative(run, output) for run in runs)
        lines.append(f"{index}) runs=({folders}) ;;")
    lines += ["esac", "# `exec`, so that Slurm's signals reach the launcher"]
    lines.append(f'exec {shlex.join(command)} --only "${{runs[@]}}"')
    return "\n".join(lines) + "\n"


def grouped(site: Site) -> list[list[str]]:
    """Group the words for sbatch into options, each with its value."""
    groups: list[list[str]] = []
    for word in site.options:
        if word.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def relative(run: Run, output: Path) -> str:
    """Return the name of a run for `--only`: its folder below the output."""
    return run.folder.relative_to(output).as_posix()


def numbers(indices: Iterable[int]) -> str:
    """Format whole numbers for `--array`: 0-3,7."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def dry_run(scripts: list[tuple[Array, str]], output: Path) -> str:
    """Return a bash program that submits these scripts."""
    lines = [f"mkdir -p {shlex.quote(str(output / LOGS))}"]
    names = {array: f"job{number}" for number, (array, _) in enumerate(scripts, 1)}
    for array, text in scripts:
        after = ""
        if array.after:
            job = f"${names[array.after]}" if isinstance(array.after, Array) else array.after
            after = f" --dependency=aftercorr:{job}"
        lines += ["", f"{names[array]}=$(sbatch --parsable{after} <<'END'", f"{text}END", ")"]
    return "\n".join(lines)
