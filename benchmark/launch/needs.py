"""Check before the first run that this machine has what all runs need: weights, data, device.

What is missing is said once for all runs that need it, with what to do. Needs PyTorch.
"""

import os
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from recipe.configs import read_pairs
from trainers.prompting.errors import UserError

from ..protocols.base import Run
from ..protocols.configs import dataset_class, dataset_files, dataset_name, in_groups
from ..records import as_recorded
from .engine import Settings


class Lack(NamedTuple):
    """Something that is missing: the runs that need it, what it is, and what to do."""

    runs: Collection[Run]
    sentence: str

    def __str__(self) -> str:
        number = len({run.folder for run in self.runs})
        return f"{number:,} run{'s' * (number != 1)}: {self.sentence}"


def lacking(runs: list[Run], settings: Settings, fetch: bool = False) -> list[Lack]:
    """Return what is missing for runs whose settings are valid.

    With `fetch`, weights that are not on this machine are downloaded, as a run would, if all else
    is there.
    """
    try:
        teachers, clips = _teachers(runs, settings)
        lacks = [*_data(runs, settings), *teachers]
        return [*lacks, *_weights(runs, clips, settings, fetch and not lacks)]
    except ModuleNotFoundError:  # of PyTorch or Dassl, which others report
        return []


def idle_device(settings: Settings) -> str:
    """Return a note on GPUs of this machine that PyTorch cannot use; empty if there are none."""
    try:
        from trainers.prompting.running.devices import idle_gpus
    except ModuleNotFoundError:
        return ""
    on_cpu = as_recorded(read_pairs(settings.opts).get("USE_CUDA", True)) is False
    idle = "" if on_cpu else idle_gpus()
    return idle and f"warning: runs are on the CPU, but the machine has {idle}"


def _teachers(runs: list[Run], settings: Settings) -> tuple[list[Lack], dict[str, list[Run]]]:
    """Return the teachers that are missing, and the runs that need the CLIP of a teacher.

    A teacher may be a run of the same command.
    """
    from trainers.prompting.capabilities.taught import Taught
    from trainers.prompting.method import METHODS

    planned = {str(run.folder) for run in runs}
    absent, clips = defaultdict(list), defaultdict(list)
    for run in runs:
        kind = METHODS.get(run.trainer)
        if kind is None or run.eval_only:
            continue
        taught_by = kind.taught_by if issubclass(kind, Taught) else {}
        keys = settings.expected_values(run) if taught_by else {}
        fields = {"run": run.folder, "seed": run.seed, "dataset": dataset_name(run.dataset) or ""}
        for pair in taught_by.items():
            place, clip = (str(keys.get(kind.place(key), kind.defaults[key])) for key in pair)
            for name, value in fields.items():
                place = place.replace(f"{{{name}}}", str(value))
            clips[clip].append(run)
            if not (place and os.path.exists(place)) and os.path.abspath(place) not in planned:
                what = f"'{place}', which does not exist" if place else "not set"
                absent[f"{kind.place(pair[0])} is {what}: give a trained run"].append(run)
    return [Lack(its, sentence) for sentence, its in absent.items()], clips


def _weights(
    runs: list[Run], needed: dict[str, list[Run]], settings: Settings, fetch: bool
) -> Iterator[Lack]:
    from trainers.prompting.backbones import check_weights, weights_sha256
    from trainers.prompting.method import METHODS

    for run in runs:
        if run.trainer in METHODS and not settings.features_of(run):
            name = str(settings.expected_values(run).get("MODEL.BACKBONE.NAME", ""))
            needed.setdefault(name, []).append(run)
    for name, its in needed.items():
        try:
            check_weights(name, fetch)
            if fetch:
                weights_sha256(name)  # read once for all runs, which are told
        except UserError as error:
            yield Lack(its, str(error))


def _data(runs: list[Run], settings: Settings) -> Iterator[Lack]:
    needed: dict[str, list[Run]] = defaultdict(list)
    on_images = [run for run in runs if not settings.features_of(run)]
    for run in on_images:
        needed[run.dataset].append(run)
    others = as_recorded(read_pairs(settings.opts).get("TEST.OOD", "[]"))
    for name in _files(others) if isinstance(others, list) else ():
        needed[name] = on_images
    absent: dict[str, dict[str, list[Run]]] = defaultdict(dict)
    for dataset, its in needed.items():
        root = settings.root_of_set(dataset)
        try:
            kind = dataset_class(dataset)
        except UserError:  # there is none, which runs report, or it is of other code
            continue
        if not its or kind.embedded:
            continue
        public = kind.expected is not None
        try:
            exists = (_locate(kind, root) / kind.image_dir).is_dir() or not public
        except UserError as error:
            exists = False
            if not public:
                yield Lack(its, str(error))
        if public and not exists:
            absent[root or ""][dataset] = its
    for root, sets in absent.items():
        where = f"'{root}'" if root else "the working folder (there is no --root)"
        words = ["download", *in_groups(sets), "--root", root or "DATA"]
        yield Lack(
            set().union(*sets.values()),
            f"{' '.join(sets)} not in {where}: `python -m benchmark {shlex.join(words)}` gets "
            "them, or says how",
        )


def _locate(kind, root: str | None) -> Path:
    cfg = SimpleNamespace(DATASET=SimpleNamespace(ROOT=root or ""))
    with redirect_stdout(StringIO()):
        return Path(kind.locate(object.__new__(kind), cfg))


def _files(names: list) -> list[str]:
    """Return data sets, given by DATASET.NAME, by the names of their config files."""
    return [file for file in sorted(dataset_files()) if dataset_name(file) in names]
