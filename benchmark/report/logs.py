"""Read accuracies from the `log.txt` files that CoOp, MaPLe and similar repositories write.

Where a trainer of this project left a record next to the log (TEST.RECORD), that is read instead.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from trainers.prompting.errors import UserError, need

from ..cli import files_below
from ..protocols import BASE2NEW, FEW_SHOT
from ..protocols.base import Protocol, Run
from ..protocols.transfer import CROSS_DATASET, DOMAIN_GENERALIZATION, TRANSFER
from ..records import BadResult, Outcome, read_record

# Folders that their scripts write to, with the protocol of each (None: transfer, where the data set
# decides which). CoOp adds further settings after the shots; its zero-shot runs have no seed.
SHOTS = r"(?P<config>[^/]+)_(?P<shots>\d+)shots(?P<more>(?:/[^/]+)*)"
LAYOUTS: list[tuple[Protocol | None, str]] = [
    (
        BASE2NEW,
        r"(?:train|test)_(?P<part>base|new)/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)(?P<more>[^/]*)"
        r"/(?P<trainer>[^/]+)/(?P<config>.+)/seed(?P<seed>\d+)",
    ),
    (None, rf"evaluation/(?P<trainer>[^/]+)/{SHOTS}/(?P<dataset>[^/]+)/seed(?P<seed>\d+)"),
    (FEW_SHOT, rf"(?P<dataset>[^/]+)/(?P<trainer>[^/]+)/{SHOTS}/seed(?P<seed>\d+)"),
    (FEW_SHOT, r"(?P<trainer>Zeroshot\w+)/(?P<config>[^/]+)/(?P<dataset>[^/]+)"),
]
SOURCE = "imagenet"  # the data set that their transfer scripts train on

EPOCH = re.compile(r"epoch \[\d+/\d+\]")
FINISHED = re.compile(r"Finish(ed)? training")  # later and earlier versions of Dassl
EVALUATE = re.compile(r"Evaluate on the \*(\w+)\* set")
NUMBER = re.compile(r"\* (total|correct|accuracy): (\d[\d,]*(?:\.\d+)?)")


@dataclass(frozen=True)
class LogRun(Run):
    """A run known only from its log; `label` names its method in the tables."""

    label: str = ""


def read(specs: Iterable[str]) -> tuple[list[Outcome], list[Path]]:
    """Return the outcomes of logs below folders, and the folders whose names identify no run.

    A folder is given as `FOLDER`, or as `NAME=FOLDER` to name its method.
    """
    runs, unknown = [], []
    for of_runs, others in map(_read, specs):
        runs += of_runs
        unknown += others
    return _distinct([_outcome(run) for run in (*runs, *_sources(runs))]), unknown


def _read(spec: str) -> tuple[list[LogRun], list[Path]]:
    name, sign, path = spec.partition("=")
    if not sign or Path(spec).is_dir():
        name, path = "", spec
    folder = Path(path)
    files = files_below(folder, _shut)
    folders = {file.parent for file in files if file.name.startswith("log.txt")}
    by_folder = {place: run for place in sorted(folders) if (run := _run(place.resolve()))}
    need(
        by_folder,
        f"--logs: '{folder}' has no log.txt in a folder whose name says which run it is of, as "
        "those of CoOp and MaPLe do (.../DATASET/TRAINER/CONFIG_16shots/seed1, "
        ".../train_base/DATASET/shots_16/TRAINER/CONFIG/seed1): check the path",
    )
    runs = list(by_folder.values())
    if name and len({run.trainer for run in runs}) == 1:
        runs = [replace(run, label=name, trainer=name) for run in runs]
    else:
        suffix = name or folder.resolve().name
        runs = [replace(run, label=f"{run.trainer} ({suffix})") for run in runs]
    return runs, sorted(folders - by_folder.keys())


def _shut(message: str) -> NoReturn:
    raise UserError(f"--logs: {message}")


def _run(folder: Path) -> LogRun | None:
    """Return the run whose log is in a folder of this name; None if it does not say."""
    path = folder.as_posix()
    matches = [(known, m) for known, layout in LAYOUTS if (m := re.search(f"/{layout}$", path))]
    if not matches:
        return None
    protocol, names = matches[0][0], matches[0][1].groupdict()
    part, source = names.get("part", "all"), ""
    if protocol is None:
        styles = DOMAIN_GENERALIZATION.targets[SOURCE]
        protocol = DOMAIN_GENERALIZATION if names["dataset"] in styles else CROSS_DATASET
        source, part = SOURCE, "target"
    return LogRun(
        protocol=protocol,
        part=part,
        trainer=names["trainer"],
        dataset=names["dataset"],
        config=names["config"] + (names.get("more") or ""),
        seed=int(names.get("seed") or 1),
        shots=int(names.get("shots") or 0),
        subsample=protocol.parts[part].subsample,
        folder=folder,
        eval_only=protocol.parts[part].eval_only,
        source=source,
    )


def _sources(runs: list[LogRun]) -> list[LogRun]:
    """Return the trainings on the source that the transfer runs used, for the source column."""
    wanted = {
        (run.protocol, run.label, run.config, run.shots) for run in runs if run.part == "target"
    }
    return [
        replace(run, protocol=protocol, part="source", source=SOURCE)
        for run in runs
        if run.protocol is FEW_SHOT and run.dataset == SOURCE
        for protocol in TRANSFER
        if (protocol, run.label, run.config, run.shots) in wanted
    ]


def _outcome(run: LogRun) -> Outcome:
    files = sorted(run.folder.glob("log.txt*"))  # Dassl appends a date to later ones
    try:
        if record := read_record(run.folder):
            return Outcome(run, record)
    except BadResult as error:
        return Outcome(run, problem=f"corrupt: {error}")
    found = (accuracy(file.read_bytes().decode(errors="replace")) for file in files)
    values = [value for value in found if value is not None]
    if not values:
        return Outcome(run, problem=f"unfinished: {files[-1]} has no final result")
    return Outcome(run, {"accuracy": values[-1], "split": "test"})


def accuracy(log: str) -> float | None:
    """Return the accuracy (%) of the last test in a log; None if there is none.

    Tests between epochs, and tests on validation images, do not count. Where the log has the
    numbers of images, the accuracy is computed from them: the printed one has one decimal only.
    """
    training, split, value = False, "test", None
    block: dict[str, float] = {}
    for line in log.splitlines():
        if EPOCH.match(line):
            training = True
        elif FINISHED.match(line):
            training = False
        elif match := EVALUATE.match(line):
            split = match[1]
        elif line.strip() == "=> result":
            block = {}
        elif match := NUMBER.match(line):
            block[match[1]] = float(match[2].replace(",", ""))
            if match[1] == "accuracy" and split == "test" and not training:
                exact = block.get("total") and "correct" in block
                value = 100 * block["correct"] / block["total"] if exact else block["accuracy"]
    return None if training else value


def _distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """Return one outcome for each run; of two logs of one run, the one with a result."""
    by_run: dict[Run, Outcome] = {}
    for outcome in outcomes:
        run = replace(outcome.run, folder=Path())
        other = by_run.get(run)
        if other is None or other.result is None:
            by_run[run] = outcome
        elif outcome.result and outcome.number != other.number:
            raise UserError(
                f"--logs: '{other.run.folder}' and '{outcome.run.folder}' are the same run with "
                "different results: pass them as two folders with different names (NAME=FOLDER)"
            )
    return list(by_run.values())
