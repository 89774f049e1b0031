"""Read the record and console output of a run, and check that the record fits the run."""

import ast
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipe.configs import read_pairs
from trainers.prompting.checkpoint.identity import (
    Identity,
    differences,
    in_groups,
    in_words,
)
from trainers.prompting.errors import UserError, printable
from trainers.prompting.record.hashes import edited_files
from trainers.prompting.storage import run_record
from trainers.prompting.storage.run_record import RECORD as RESULTS
from trainers.prompting.storage.run_record import BadRecord as BadResult
from trainers.prompting.storage.run_record import is_number, is_percent

from .protocols.base import Run
from .protocols.configs import dataset_name, given_plugins
from .protocols.launches import CONSOLE

# The launcher's own lines in a run's console.txt begin with one of these.
COMMAND, FAILED = "$ ", "# failed: "


class Metric(NamedTuple):
    """The properties of a metric of runs: its name in titles, its range, what is best, ..."""

    head: str
    percent: bool = True  # from 0 to 100, else 0 or more
    more_is_better: bool | None = True  # None: neither is
    note: str = ""  # a sentence without its period
    digits: int = 2  # after the point
    has_h: bool = False  # True if the harmonic mean over base and new classes means something

    def text(self, value: float) -> str:
        """Format a value for a reader."""
        return f"{value:.{self.digits}f}"


# Metrics of runs on images with several labels, by key of results.json.
SEVERAL = {
    "map": Metric("mAP (%)", note="mAP is the mean over classes of the average precision"),
    "map_difficult_absent": Metric(
        "mAP (difficult absent) (%)",
        note="Difficult objects count as absent, as in published numbers",
    ),
    "cp": Metric("CP (%)", note="CP is the mean precision of classes at probability 0.5"),
    "cr": Metric("CR (%)", note="CR is the mean recall of classes at probability 0.5"),
    "cf1_mean": Metric("CF1 (mean of F1) (%)"),
    "cf1_of_means": Metric("CF1 (of CP, CR) (%)"),
    "op": Metric("OP (%)", note="OP is the precision of all labels at probability 0.5"),
    "or": Metric("OR (%)", note="OR is the recall of all labels at probability 0.5"),
    "of1": Metric("OF1 (%)", note="OF1 is the F1 of all labels at probability 0.5"),
} | {
    f"top{k}_{name}": Metric(f"{name.upper()}, top {k} (%)", note=f"The {k} highest classes count")
    for k in (3, 5)
    for name in ("op", "or", "of1")
}

# By key of results.json; a metric added here is shown, averaged and read wherever metrics are.
METRICS = {
    "accuracy": Metric("Accuracy (%)", has_h=True),
    "macro_f1": Metric("Macro-F1 (%)"),
    "top5_accuracy": Metric("Top-5 (%)"),
    "calibration_error": Metric(
        "ECE (%)", more_is_better=False, note="ECE is the expected calibration error, in {} bins"
    ),
    "calibration_error_scaled": Metric(
        "ECE scaled (%)",
        more_is_better=False,
        note="ECE scaled is the expected calibration error after division of the logits by a "
        "temperature",
    ),
    "negative_log_likelihood": Metric(
        "NLL",
        percent=False,
        more_is_better=False,
        note="NLL is the mean of -ln p of the true class",
    ),
    "clean_accuracy": Metric(
        "Clean (%)", note="Clean is the accuracy on the images of Robust before the attack"
    ),
    "robust_accuracy": Metric(
        "Robust (%)", note="Robust is the accuracy on attacked images", has_h=True
    ),
    "joint_accuracy": Metric(
        "Joint (%)", note="Joint is the accuracy among base and new classes together"
    ),
    "zero_shot_accuracy": Metric(
        "Zero-shot (%)",
        more_is_better=None,
        note="Zero-shot is the accuracy of zero-shot CLIP with the same text, on the same images",
        has_h=True,
    ),
    **SEVERAL,
}

PER_CLASS = "per_class_accuracy"  # the key of a group: accuracy (%) by class name
OF_CLASSES = "average_precisions"  # the same of average precisions (%), with several labels


def of_classes(result: Mapping) -> dict[str, float | None]:
    """Return the accuracy of each class, or its average precision with several labels, in %."""
    return result.get(PER_CLASS) or result.get(OF_CLASSES) or {}


_DETECTION = "AUROC and FPR95 are of telling test images from those of another data set"
# Metrics of out-of-distribution detection; a report adds the name of the other data set.
OOD = {
    "auroc_mcm": Metric("AUROC MCM", note=_DETECTION),
    "fpr95_mcm": Metric("FPR95 MCM", more_is_better=False, note=_DETECTION),
    "auroc_gl_mcm": Metric("AUROC GL-MCM", note=_DETECTION),
    "fpr95_gl_mcm": Metric("FPR95 GL-MCM", more_is_better=False, note=_DETECTION),
}


class Cost(NamedTuple):
    """The properties of what a training took: time, memory or parameters."""

    head: str
    text: Callable[[float], str]
    over_seeds: str = "mean"  # how the seeds of a line are joined, by a name of pandas
    everywhere: bool = True  # else shown only in files and of single runs
    if_trained: bool = False  # True if it is not shown of a method that trains nothing


def memory_text(mebibytes: float | None) -> str:
    """Format an amount of memory (MiB) for a reader."""
    if mebibytes is None:
        return "-"
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


# By key of results.json, or of `costs`; one added here is shown wherever costs are.
COSTS = {
    "num_params": Cost("Trained parameters", "{:,.0f}".format, over_seeds="last"),
    "train_seconds": Cost("Training", "{:,.0f} s".format),
    "step_seconds": Cost("Step", "{:.3f} s".format, everywhere=False),
    "peak_memory_mib": Cost("Peak memory", memory_text, over_seeds="max", if_trained=True),
}


def costs(result: dict) -> dict[str, float | None]:
    """Return what a run took, by the keys of COSTS, from its record; None if it does not say."""
    steps, seconds = result.get("train_steps"), result.get("train_seconds")
    each = seconds / steps if steps and seconds is not None else None
    return {key: result.get(key) for key in COSTS} | {"step_seconds": each}


@dataclass(frozen=True, eq=False)  # hashed by identity: a dict is not hashable
class Outcome:
    """The outcome of a run: its record, or a problem as `kind: why` (`failed: no memory`)."""

    run: Run
    result: dict | None = None
    problem: str | None = None
    origin: str = ""  # the output folder, where there are several

    @property
    def metric(self) -> str:
        """The key of the number that stands for the run, `accuracy` or `map`."""
        return run_record.main_metric(self.result or {"several": self.run.protocol.several})

    @property
    def number(self) -> float:
        """That number (%) of a run that has a record."""
        return (self.result or {})[self.metric]

    @property
    def text(self) -> str:
        """The same in words, as in the list of runs."""
        return f"{self.number:.2f}%" + " mAP" * (self.metric == "map")

    @property
    def seconds(self) -> float:
        """The seconds of training and testing, from the record."""
        result = self.result or {}
        return (result.get("train_seconds") or 0) + (result.get("test_seconds") or 0)


def read_record(folder: Path) -> dict | None:
    """Return the record in the folder of a run, if any; raises BadResult if it cannot be used."""
    return run_record.read_record(folder, flaw)


BOUND = 3.0  # of the natural logarithm of a temperature, either way


# Keys of a record besides metrics and costs that are numbers, 0 or more.
NUMBERS = ("num_classes", "num_test", "train_steps", "test_seconds", "temperature")


def flaw(result) -> str | None:
    """Return how a record differs from the format of train.py; None if it does not."""
    if why := run_record.flaw(result):
        return why
    if "config" in result and "run" not in result:
        return "is of 0.6, which is not read: run again"
    if "run" in result:
        try:
            Identity.of(result["run"], "it", "")
        except UserError:
            return "does not say what its run is"
    for key in (*METRICS, *COSTS, *NUMBERS):
        value, percent = result.get(key), key in METRICS and METRICS[key].percent
        if value is not None and not (is_percent(value) if percent else is_number(value)):
            wanted = "from 0 to 100" if percent else "a number, 0 or more"
            return f"holds {key} {json.dumps(value)[:40]}, which is not {wanted}"
    return None


def edited_since(record: dict) -> list[str]:
    """Return what of the code of a record has been edited since.

    It is looked for next to this command's plug-ins, then next to the files that the record names.
    """
    named = record.get("plugins") or []
    files = [str(name) for name in named if str(name).endswith(".py")]
    return edited_files(record.get("code"), [*given_plugins, *files])


def other_code(record: dict) -> list[str]:
    """Return what of the code of a run was edited while it trained, or since."""
    return sorted({*map(printable, (*(record.get("edited") or ()), *edited_since(record)))})


def at_bound(temperature: float | None) -> bool:
    """Return True for a temperature at a bound of its fit."""
    return temperature is not None and abs(math.log(temperature or 1e-9)) > BOUND - 0.01


def stamp(run: Run) -> tuple[int, int] | None:
    """Return a stamp that changes when the run's record is rewritten; None without a record."""
    try:
        status = (run.folder / RESULTS).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def run_of(result: dict | None) -> Identity:
    """Return what the run of a record is, as far as it says it."""
    return Identity(**(result or {}).get("run") or {})


def value_of(result: dict | None, place: str) -> Any:
    """Return the value of a dotted key in the run of a record; None if it has none."""
    return run_of(result).value(place)


def identity_of(result: dict) -> Identity:
    """Return what the run of a record is, with what else the record says of it."""
    run = run_of(result)
    named = {"SEED": "seed", "DATASET.NUM_SHOTS": "shots"}
    training = {place: result[key] for place, key in named.items() if key in result}
    named = {"DATASET.SUBSAMPLE_CLASSES": "subsample_classes", "DATASET.NAME": "dataset",
             "fingerprint": "data_fingerprint", "ood": "ood_fingerprints"}  # fmt: skip
    data = {place: result[key] for place, key in named.items() if key in result}
    data["DATASET.FEATURES"] = result.get("features") or ""
    origins = {name: (result.get(name) or {}).get("digest") for name in ("teacher", "start")}
    return run._replace(
        method=str(result.get("trainer")),
        training={**run.training, **training},
        data={**run.data, **data},
        clip={"name": run.clip.get("name"), "sha256": result.get("backbone_sha256")},
        earlier={name: digest for name, digest in origins.items() if digest},
    )


def asked_of(run: Run, keys: Mapping[str, Any] | None = None) -> Identity:
    """Return what a command and its files say of a run; `keys` are those of further ones."""
    given = {key: as_recorded(x) for key, x in {**(keys or {}), **read_pairs(run.opts)}.items()}
    given |= {"SEED": run.seed, "DATASET.NUM_SHOTS": run.shots}
    given |= {"DATASET.SUBSAMPLE_CLASSES": run.subsample, "DATASET.NAME": dataset_name(run.dataset)}
    known = {key: x for key, x in given.items() if x is not None and not is_lost(key, x)}
    groups = in_groups(known.items())
    return Identity(run.trainer, **groups, clip={"name": given.get("MODEL.BACKBONE.NAME")})


def is_lost(key: str, value: Any) -> bool:
    """Return True for the file of sentences or of a stream that is not here to be compared."""
    if key == "DATASET.SENTENCES":
        return str(value).endswith(".json") and not os.path.isfile(value)
    drawn = str(value).partition(":")[0] in run_record.DRAWN
    return key == "TEST.STREAM" and not (drawn or os.path.isfile(run_record.order_path(str(value))))


def misfit(result: dict, asked: Identity) -> str | None:
    """Return how a record differs from what is asked for; None if it does not."""
    texts = differences(identity_of(result), asked)
    return printable(in_words(texts)) if texts else None


def from_folder(run: Run) -> Outcome:
    """Return the outcome of a run, judged by its folder only."""
    try:
        result = read_record(run.folder)
    except BadResult as error:
        return Outcome(run, problem=f"corrupt: {error}")
    if result is None:
        return Outcome(run, problem=failure(run) or "unfinished: no results yet")
    why = misfit(result, asked_of(run))
    return Outcome(run, problem=f"misplaced: holds {why}") if why else Outcome(run, result)


def failure(run: Run) -> str | None:
    """Return why the run failed, if the launcher noted a failure at the end of console.txt."""
    lines = console_lines(run)
    if lines and lines[-1].startswith(FAILED):
        return f"failed: {lines[-1].removeprefix(FAILED)}"
    return None


def console_lines(run: Run) -> list[str]:
    """Return the lines of the run's console.txt; empty if there is no such file."""
    try:
        return (run.folder / CONSOLE).read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []


def as_recorded(value):
    """Return a value as yacs parses it from text, in the form that JSON gives back."""
    if isinstance(value, str):  # a name or a path, without quotes, stays a text
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    return list(value) if isinstance(value, tuple) else value
