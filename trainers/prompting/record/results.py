"""Writes results.json, the record of a complete run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ..backbones import weights_sha256
from ..capabilities.at_test_time import adapts
from ..capabilities.on_support import count_passes, searches
from ..checkpoint.identity import Identity, identity
from ..checkpoint.keys import KEYS
from ..checkpoint.saved import Saved
from ..embedded import file_sha256
from ..errors import UserError
from ..marks import BEYOND, FILE, PER_DATASET, VALIDATION
from ..storage.files import write_whole
from ..storage.run_record import BadRecord, is_number, is_percent, read_record, sentences_text
from .environment import git_commit, peak_memory_mib, versions
from .metrics import metrics, number_names
from .predictions import NAME, Predictions, write_predictions
from .scores import NAME as SCORES
from .scores import Scores
from .several import average_precisions

# What only a method of this project says of itself; the record of another trainer lacks it.
NOT_KNOWN = ("num_params", "seeded", "train_steps", "beyond", "teacher", "precision")


def results_file(cfg) -> Path:
    """Return the path of a run's record."""
    return Path(cfg.OUTPUT_DIR) / "results.json"


def remove_results(cfg) -> None:
    """Remove record, predictions and scores of an earlier run in the same folder, if any."""
    if not cfg.OUTPUT_DIR:
        return
    results_file(cfg).unlink(missing_ok=True)
    for name in (NAME, SCORES):
        (Path(cfg.OUTPUT_DIR) / name).unlink(missing_ok=True)


def peak_in_record(cfg) -> float | None:
    """Return the peak memory of the run in the same folder, if it has a record."""
    try:
        peak = (read_record(Path(cfg.OUTPUT_DIR)) or {}).get("peak_memory_mib")
    except BadRecord:
        return None
    return peak if is_number(peak) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The last evaluation of a run, and what its record says of the run.

    What stands below `method` is known of a method of this project only.
    """

    cfg: Any  # of the run
    dataset: Any  # `train_x`, `val` and `test`, and what a data set may say of itself
    num_classes: int
    device: torch.device
    results: Mapping[str, Any]  # of the evaluator (%), and those of tasks, by name
    train_seconds: float = 0.0
    test_seconds: float = 0.0
    losses: Mapping[str, float] | None = None  # means over the last epoch
    code: Mapping[str, str] | None = None  # hashes (`plugins.code_of`)
    edited: Sequence[str] = ()  # names of what of it was edited since the training began
    evaluated_on: str = ""  # the split, if empty
    method: Any = None
    identity: Identity | None = None  # of the run; in an evaluation with what its training was
    provenance: Saved | None = None  # of the run; code and edits are those in it
    training: Saved | None = None  # what was trained, if that was another run
    predictions: Predictions | Scores | None = None  # None of tasks, or if they are not kept
    checked: str | None = None  # how the method of a plug-in was, before the run (`conformance`)
    more: Mapping[str, Any] = field(default_factory=dict)  # metrics of attacks and of detection
    stream: Mapping[str, str] | None = None  # `name`, and `order`: its digest, if order matters
    num_trained: int = 0  # parameters
    steps: int = 0  # of the training; 0 if nothing was trained
    teacher: Mapping[str, Any] | None = None  # its origin

    @classmethod
    def of(cls, trainer: Any, **more: Any) -> Self:
        """Return that of any trainer of Dassl, which may not measure times and losses."""
        results = getattr(trainer, "test_results", {})
        if not (is_percent(results.get("accuracy")) or is_percent(results.get("map"))):
            raise UserError(
                f"{type(trainer).__name__} leaves no accuracy in `test_results`, for the record: "
                "let its `test` set `self.test_results = self.evaluator.evaluate()`, of Dassl's "
                "evaluator Classification",
                exit_code=1,
            )
        names = ("train_seconds", "test_seconds", "losses")
        more = {name: getattr(trainer, name) for name in names if hasattr(trainer, name)} | more
        data = {"dataset": trainer.dm.dataset, "num_classes": trainer.dm.num_classes}
        more = {"identity": identity(trainer.cfg)} | more
        every = {"cfg": trainer.cfg, "device": trainer.device, "results": results, **data, **more}
        return cls(**every)

    @property
    def counts_seed(self) -> bool:
        """True if seed and shots count although nothing may be trained.

        So it is for a method that adapts while testing, for a cache of the training images, and
        with a stream that is drawn.
        """
        if self.method is None:
            return False
        usual = KEYS["TEST.STREAM"].default
        drawn = self.cfg.TEST.get("STREAM", usual) != usual
        return bool(adapts(self.method) or count_passes(self.method) or drawn)

    def beyond(self) -> list[str]:
        """Return the marks (`BEYOND`) of what it uses beyond labelled images and class names."""
        method = self.method
        best_epoch = self.cfg.TEST.FINAL_MODEL == "best_val" and self.num_trained
        marks = {*method.takes} if method else set()
        sentences = method and method.settings.sentences
        marks |= {FILE} if sentences and sentences.about else set()
        marks |= {PER_DATASET} if self.cfg.TRAINER.PER_DATASET else set()
        marks |= {VALIDATION} if best_epoch or (method and searches(method)) else set()
        return [mark for mark in BEYOND if mark in marks]

    def measure(self) -> dict[str, Any]:
        """Write the predictions; return what they and attacks and detection give, by name."""
        last, measured = self.predictions, dict[str, Any]()
        if isinstance(last, Scores):
            rows = write_predictions(Path(self.cfg.OUTPUT_DIR), last.columns(), SCORES)
            shares = average_precisions(rows["label"], rows["logit"])
            names = number_names(self.dataset.classnames)
            measured["average_precisions"] = {
                name: None if np.isnan(share) else 100 * float(share)
                for name, share in zip(names, shares, strict=True)
            }
        elif last is not None:
            rows = write_predictions(Path(self.cfg.OUTPUT_DIR), last.columns())
            measured = metrics(rows, self.dataset.classnames)
            measured["temperature"] = last.temperature
            if (known := self.provenance) and isinstance(known.calibration, dict):
                scores = known.calibration["scores"]  # see `Calibration`
                measured["lac_scores"] = [round(x, 7) for x in scores.tolist()]
            if last.note:
                measured["joint_note"] = last.note
            if last.calibration_note:
                del measured["calibration_error"]
                measured["calibration_note"] = last.calibration_note
        return measured | {**self.more}

    def _numbers(self) -> dict[str, Any]:
        """Return the numbers of the evaluator; of several labels what the method does, too."""
        if getattr(self.dataset, "several", False):
            return {"several": self.method.several, **self.results}
        macro_f1 = self.results.get("macro_f1")  # not with the original Dassl
        return {"accuracy": float(self.results["accuracy"]), "macro_f1": macro_f1}

    def record(self, peak: float | None) -> dict[str, Any]:
        """Return the content of the record, given the peak memory in MiB; write the predictions."""
        cfg, data, known, results = self.cfg, self.dataset, self.provenance, self.results
        backbone, training = cfg.MODEL.BACKBONE.NAME, self.training or known
        run = self.identity or (known.identity if known else identity(cfg))
        return {
            "trainer": cfg.TRAINER.NAME,
            "dataset": cfg.DATASET.NAME,
            "backbone": backbone,
            "backbone_sha256": known.backbone_sha256 if known else weights_sha256(backbone),
            "features": file_sha256(file) if (file := cfg.DATASET.get("FEATURES", "")) else None,
            "sentences": sentences_text(asked) if (asked := cfg.DATASET.get("SENTENCES")) else None,
            "seed": run.value("SEED"),
            "shots": run.value("DATASET.NUM_SHOTS"),
            "training_images": training_images(data) if self.steps or self.counts_seed else None,
            "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "split": cfg.TEST.SPLIT,
            "stream": self.stream,
            "evaluated_on": self.evaluated_on or cfg.TEST.SPLIT,
            **self._numbers(),
            **{k: results[k] for k in ("zero_shot_accuracy", "tasks") if k in results},
            **self.measure(),
            "data_fingerprint": getattr(data, "fingerprint", None),
            "as_published": getattr(data, "as_published", None),
            "num_classes": self.num_classes,
            "num_test": len(data.val if cfg.TEST.SPLIT == "val" else data.test),
            "num_params": self.num_trained,
            "seeded": self.counts_seed,
            "train_seconds": self.train_seconds,
            "train_steps": self.steps,
            "losses": self.losses,
            "test_seconds": self.test_seconds,
            "peak_memory_mib": peak,
            "precision": known and known.computed["precision"],
            "beyond": self.beyond(),
            "teacher": self.teacher,
            "start": training and training.start,
            "drawn": training and training.drawn,
            "run": run.as_json(),
            "per_dataset": list(cfg.TRAINER.PER_DATASET),
            "unread": list(cfg.TRAINER.UNREAD),
            "plugins": list(cfg.TRAINER.PLUGINS),
            "versions": versions(self.device),
            "git": git_commit(),
            "code": known.code if known else self.code,
            "edited": [*((known.edited or ()) if known else self.edited)],
            "checked": self.checked,
        }


def write_results(evaluation: Evaluation, earlier_peak: float | None = None) -> None:
    """Write the predictions of a run's last evaluation, then `results.json`.

    If the run is not of a method of this project, the record lacks `NOT_KNOWN`, and the seconds
    that its trainer does not measure. `earlier_peak` is the peak memory of a training that had
    ended before, in MiB.

    Raises:
        OSError: as the system says.
    """
    cfg, peak = evaluation.cfg, earlier_peak or peak_memory_mib(evaluation.device)
    record = evaluation.record(peak)
    if evaluation.method is None:
        unmeasured = [key for key in ("train_seconds", "test_seconds") if not record[key]]
        left_out = [*NOT_KNOWN, *unmeasured]
        record = {key: value for key, value in record.items() if key not in left_out}
        print(
            f"{cfg.TRAINER.NAME} is not a method of this project, so {results_file(cfg)} lacks "
            f"{', '.join(left_out)}, and there are no predictions of single images"
        )
    write_whole(results_file(cfg), json.dumps(record, indent=1) + "\n")


def training_images(dataset) -> dict[str, int]:
    """Return the least and largest number of training images of a class."""
    labels = [item.label for item in dataset.train_x]
    if getattr(dataset, "several", False):
        counts = [column.count(1) for column in zip(*labels, strict=True)]
    else:
        counts = [*Counter(labels).values()]
    return {"least": min(counts), "most": max(counts)}
