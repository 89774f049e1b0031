"""Writes results.json, the record of a complete run."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backbones import weights_sha256
from ..beyond import BEYOND, PER_DATASET, VALIDATION
from ..dataset_keys import STREAM, WAFFLE
from ..embedded import file_sha256
from ..errors import UserError
from ..storage.files import write_whole
from ..storage.records import BadRecord, is_number, is_percent, read_record, sentences_text
from . import predictions
from .environment import git_commit, peak_memory_mib, versions
from .metrics import detection, metrics

# What only a method of this project says of itself; the record of another trainer lacks it.
NOT_KNOWN = ("num_params", "seeded", "train_steps", "beyond", "alike", "teacher", "precision")


def results_file(cfg) -> Path:
    """Return the path of a run's record."""
    return Path(cfg.OUTPUT_DIR) / "results.json"


def remove_results(cfg) -> None:
    """Remove the record and predictions of an earlier run in the same folder, if there is one."""
    if not cfg.OUTPUT_DIR:
        return
    results_file(cfg).unlink(missing_ok=True)
    (Path(cfg.OUTPUT_DIR) / predictions.NAME).unlink(missing_ok=True)


def peak_in_record(cfg) -> float | None:
    """Return the peak memory of the run in the same folder, if it has a record."""
    try:
        peak = (read_record(Path(cfg.OUTPUT_DIR)) or {}).get("peak_memory_mib")
    except BadRecord:
        return None
    return peak if is_number(peak) else None


def write_results(
    cfg,
    trainer,
    code=None,
    edited: Sequence[str] = (),
    earlier_peak: float | None = None,
    checked: str | None = None,
) -> None:
    """Write the predictions of the trainer's last evaluation, then `results.json`.

    Args:
        cfg: of the run.
        trainer: a trainer of Dassl. If it is not of this project, the record lacks `NOT_KNOWN`,
            and the seconds of a training that it does not measure.
        code: hashes of the code of a trainer that is not of this project (`plugins.code_of`).
        edited: those files of it that were edited since the training began.
        earlier_peak: the peak memory of a training that had ended before, in MiB.
        checked: how the method of a plug-in was checked before the run (`conformance`).

    Raises:
        OSError: as the system says.
        UserError: the trainer has no results of its evaluation.
    """
    check_results(trainer)
    peak = earlier_peak or peak_memory_mib(trainer.device)
    last = getattr(trainer, "predictions", None)
    data, measured, facts = trainer.dm.dataset, {}, getattr(trainer, "facts", None)
    backbone = cfg.MODEL.BACKBONE.NAME
    training = getattr(trainer, "loaded", None) or facts
    if last is not None:
        rows = predictions.write_predictions(Path(cfg.OUTPUT_DIR), last.columns())
        measured = metrics(rows, data.classnames) | last.more | {"temperature": last.temperature}
        if facts and isinstance(facts.calibration, dict):  # see `Calibration`
            measured["lac_scores"] = [round(x, 7) for x in facts.calibration["scores"].tolist()]
        if last.note:
            measured["joint_note"] = last.note
        if last.calibration_note:
            del measured["calibration_error"]
            measured["calibration_note"] = last.calibration_note
    measured |= getattr(trainer, "attacked", {})
    if ood := detections(trainer):
        measured |= {"ood": ood, "ood_fingerprints": trainer.detection.fingerprints}
    record: dict[str, Any] = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "backbone": backbone,
        "backbone_sha256": facts.backbone_sha256 if facts else weights_sha256(backbone),
        "features": file_sha256(file) if (file := cfg.DATASET.get("FEATURES", "")) else None,
        "sentences": sentences_text(asked) if (asked := cfg.DATASET.get("SENTENCES")) else None,
        "seed": cfg.SEED,
        "shots": cfg.DATASET.NUM_SHOTS,
        "training_images": training_images(data)
        if _steps(trainer) or counts_seed(trainer)
        else None,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "split": cfg.TEST.SPLIT,
        "stream": stream(cfg, trainer),
        "evaluated_on": getattr(trainer, "evaluated_on", cfg.TEST.SPLIT),  # or folds, of `advise`
        "accuracy": float(trainer.test_results["accuracy"]),
        "macro_f1": trainer.test_results.get("macro_f1"),  # not with the original Dassl
        **tasks(trainer),
        **measured,
        "data_fingerprint": getattr(data, "fingerprint", None),
        "as_published": getattr(data, "as_published", None),
        "num_classes": trainer.dm.num_classes,
        "num_test": len(data.val if cfg.TEST.SPLIT == "val" else data.test),
        "num_params": getattr(trainer, "num_trained", None),
        "seeded": counts_seed(trainer),
        "train_seconds": getattr(trainer, "train_seconds", 0.0),
        "train_steps": _steps(trainer),
        "losses": getattr(trainer, "losses", None),
        "test_seconds": getattr(trainer, "test_seconds", 0.0),
        "peak_memory_mib": peak,
        "precision": facts and facts.computed["precision"],
        "beyond": beyond(cfg, trainer),
        "alike": getattr(trainer, "alike", None),
        "teacher": getattr(trainer, "teacher_facts", None),
        "start": training and training.start,
        "drawn": training and training.drawn,
        "config": cfg,
        "versions": versions(trainer.device),
        "git": git_commit(),
        "code": facts.code if facts else code,
        "edited": [*((facts.edited or ()) if facts else edited)],
        "checked": checked,
    }
    if not hasattr(trainer, "method"):
        unmeasured = [key for key in ("train_seconds", "test_seconds") if not record[key]]
        left_out = [*NOT_KNOWN, *unmeasured]
        record = {key: value for key, value in record.items() if key not in left_out}
        print(
            f"{cfg.TRAINER.NAME} is not a method of this project, so {results_file(cfg)} lacks "
            f"{', '.join(left_out)}, and there are no predictions of single images"
        )
    write_whole(results_file(cfg), json.dumps(record, indent=1) + "\n")


def counts_seed(trainer) -> bool:
    """Return True if seed and shots count although nothing may be trained.

    So it is for a method that adapts while testing, for a cache of the training images, and with
    random words or a stream that is drawn.
    """
    method = getattr(trainer, "method", None)
    if method is None:
        return False
    random_words = trainer.cfg.DATASET.get("SENTENCES") == WAFFLE
    drawn = trainer.cfg.TEST.get("STREAM", STREAM["STREAM"]) != STREAM["STREAM"]
    return bool(method.adapts or method.support_passes or random_words or drawn)


def stream(cfg, trainer) -> dict[str, str] | None:
    """Return the name of the stream of test images and a digest of its order, if order matters."""
    of_run = getattr(getattr(trainer, f"{cfg.TEST.SPLIT}_loader", None), "stream", None)
    return of_run and {"name": of_run.name, "order": of_run.digest}


def tasks(trainer) -> dict[str, Any]:
    """Return the accuracies of tasks, of the method and of zero-shot CLIP, and their means."""
    results = trainer.test_results
    return {k: results[k] for k in ("zero_shot_accuracy", "tasks") if k in results}


def beyond(cfg, trainer) -> list[str]:
    """Return the marks (`BEYOND`) of what a run uses beyond labelled images and class names."""
    method = getattr(trainer, "method", None)
    best_epoch = cfg.TEST.FINAL_MODEL == "best_val" and getattr(trainer, "num_trained", 0)
    marks = {*getattr(method, "takes", ())}
    sentences = getattr(getattr(method, "settings", None), "sentences", None)
    marks |= {"llm"} if sentences and sentences.about else set()
    marks |= {PER_DATASET} if cfg.TRAINER.PER_DATASET else set()
    marks |= {VALIDATION} if best_epoch or getattr(method, "searches", False) else set()
    return [mark for mark in BEYOND if mark in marks]


def detections(trainer) -> dict[str, dict]:
    """Compute and print the metrics of out-of-distribution detection; return them by data set."""
    columns = getattr(getattr(trainer, "detection", None), "columns", {})
    others = {name: arrays for name, arrays in columns.items() if name != trainer.detection.own}
    numbers = {}
    for name, arrays in others.items():
        own = columns[trainer.detection.own]
        measured = numbers[name] = detection(own, arrays)
        texts = "; ".join(
            f"{score.upper().replace('_', '-')}: AUROC {measured[f'auroc_{score}']:.2f}%, "
            f"FPR95 {measured[f'fpr95_{score}']:.2f}%"
            for score in own
        )
        print(f"Out of distribution: {name} ({measured['images']:,} images): {texts}")
    return numbers


def check_results(trainer) -> None:
    """Raise a UserError if the trainer's last evaluation has left no accuracy."""
    if not is_percent(getattr(trainer, "test_results", {}).get("accuracy")):
        raise UserError(
            f"{type(trainer).__name__} leaves no accuracy in `test_results`, for the record: let "
            "its `test` set `self.test_results = self.evaluator.evaluate()`, of Dassl's "
            "evaluator Classification",
            exit_code=1,
        )


def training_images(dataset) -> dict[str, int]:
    """Return the least and largest number of training images of a class."""
    counts = Counter(item.label for item in dataset.train_x).values()
    return {"least": min(counts), "most": max(counts)}


def _steps(trainer) -> int:
    """Return the number of steps of a method's training; 0 if nothing was trained."""
    if not hasattr(trainer, "method") or not getattr(trainer, "train_seconds", 0.0):
        return 0
    return trainer.count_steps()[1]
