"""results.json, the record of a complete run."""

import json
from pathlib import Path

import yaml

from trainers.prompting.files import write_whole

from .environment import git_commit, peak_memory_mib, versions


def results_file(cfg) -> Path:
    return Path(cfg.OUTPUT_DIR) / "results.json"


def write_results(cfg, trainer) -> None:
    """Write `results.json` from the trainer's last evaluation; it appears whole.

    Args:
        cfg: of the run.
        trainer: a Dassl trainer with `test_results`; `num_trained`, `train_seconds` and
            `test_seconds` are written where it has them.

    Raises:
        OSError: as the system says.
    """
    data = trainer.dm.dataset
    record = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "seed": cfg.SEED,
        "shots": cfg.DATASET.NUM_SHOTS,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "split": cfg.TEST.SPLIT,
        "accuracy": float(trainer.test_results["accuracy"]),
        "macro_f1": float(trainer.test_results["macro_f1"]),
        "num_classes": trainer.dm.num_classes,
        "num_test": len(data.val if cfg.TEST.SPLIT == "val" else data.test),
        "num_params": getattr(trainer, "num_trained", None),
        "train_seconds": getattr(trainer, "train_seconds", 0.0),
        "test_seconds": getattr(trainer, "test_seconds", 0.0),
        "peak_memory_mib": peak_memory_mib(trainer.device),
        "config": yaml.safe_load(cfg.dump()),
        "versions": versions(),
        "git": git_commit(),
    }
    write_whole(results_file(cfg), json.dumps(record, indent=1) + "\n")
