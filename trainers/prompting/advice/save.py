"""Saves the method that was chosen as a run: checkpoint, record, and out-of-fold predictions."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from ..checkpoint.identity import write_run
from ..checkpoint.keys import KEYS, nested
from ..checkpoint.provenance import provenance_of
from ..checkpoint.state import PublicLayout
from ..dassl_parts import dassl_utils
from ..images.image_key import image_key
from ..method import find_method
from ..plugins import code_of
from ..record.calibration import Calibration
from ..record.predictions import Predictions
from ..record.results import Evaluation, remove_results, write_results
from ..record.scores import Scores
from ..record.several import measures
from ..record.thresholds import Thresholds
from ..running.precision import Precision
from .choice import Candidate, Choice
from .encode import DATASET
from .fits import SETTINGS, Space
from .images import Collection
from .tags import TagChoice

FOLDS = "folds"  # what the accuracy in the record is of


def save_run(
    folder: Path,
    collection: Collection,
    choice: Choice | TagChoice,
    space: Space,
    calibration: Calibration | Thresholds,
    silent: str,
    seconds: float,
) -> None:
    """Fit the method that was chosen to all labelled images, and write its run; raises OSError.

    `space` has the features of the CLIP that was chosen. The record has the answers of `choice` and
    the temperature of the calibration; `silent` is a sentence why the checkpoint lacks this one, or
    empty. Of images with several labels, thresholds take its place. `seconds` are what the advice
    has taken.
    """
    best, rows, y = choice.best, choice.rows, torch.tensor(choice.labels)
    several = collection.several
    method = space.fit(best.method, rows, y, several, **best.settings)
    settings = {**method.defaults, **SETTINGS[best.method], **best.settings}
    cfg = nested({
        **{place: key.default for place, key in KEYS.items()},
        **{method.place(key): value for key, value in settings.items()},
        "OUTPUT_DIR": os.fspath(folder), "SEED": 0, "DATASET.NAME": DATASET,
        "DATASET.ROOT": os.fspath(collection.source), "DATASET.CLASSES_AT": collection.classes_at,
        "INPUT.UPRIGHT": True, "INPUT.TRANSFORMS": ["normalize"], "MODEL.BACKBONE.NAME": best.clip,
        "TRAINER.NAME": best.method, "TEST.SPLIT": FOLDS,
    })  # fmt: skip
    test = [
        SimpleNamespace(impath=collection.paths[row], label=label)
        for row, label in zip(rows, y.tolist(), strict=True)
    ]
    data = SimpleNamespace(
        classnames=collection.classnames, train_x=test, test=test, fingerprint=collection.hash(),
        several=several,
        keys={item.impath: image_key(item.impath) for item in test},
    )  # fmt: skip
    provenance = provenance_of(cfg, method, data, Precision("fp32", method.device), None)
    provenance = replace(provenance, code=code_of(type(method)))
    logits, files = torch.tensor(best.logits), [item.impath for item in test]
    predictions: Predictions | Scores
    if isinstance(calibration, Thresholds):
        why = "its images have several labels"
        provenance = replace(provenance, thresholds=calibration.content(), calibration=why)
        predictions = Scores()
        predictions.add_images(files, y)
        predictions.add_logits(y, logits)
        label, logit = predictions.arrays()
        results = measures(label, logit, method.several == "decides")
    else:
        provenance = replace(provenance, calibration=silent.lower() or vars(calibration))
        assert isinstance(best, Candidate), "it is of one label"
        predictions = Predictions(scale=space.scale)
        predictions.temperature = calibration.temperature
        predictions.add_images(files, y)
        predictions.add_logits(logits)
        results = {"accuracy": 100 * best.right / len(y)}
    saved = replace(
        provenance,
        state_dict=PublicLayout(method).state_dict(),
        method=method.own_state(),
        epoch=0,
    )
    for name in {find_method(name).public.folder for name in SETTINGS} - {method.public.folder}:
        shutil.rmtree(folder / name, ignore_errors=True)  # of another method, by an earlier call
    remove_results(cfg)  # which may be of another kind
    run = provenance.identity._replace(code=provenance.code)
    write_run(folder, run=run.as_json())
    dassl_utils().save_checkpoint(saved.content(), os.path.join(folder, method.public.folder))
    write_results(
        Evaluation(
            cfg=cfg, dataset=data, num_classes=len(collection.classnames), device=method.device,
            results=results, train_seconds=seconds, method=method,
            provenance=provenance, predictions=predictions, evaluated_on=FOLDS,
            num_trained=sum(p.numel() for p in method.learned().values()),
        ),
    )  # fmt: skip
