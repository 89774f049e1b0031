"""The provenance of a run, which its checkpoints hold, and trainings on which it builds."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..backbones import absolute, weights_sha256
from ..errors import need
from ..running.devices import processor
from ..running.precision import Precision
from ..storage.features import read_features
from ..teacher import MethodTeacher
from .identity import UNKNOWN, identity, other_clip
from .public import public_checkpoint
from .saved import ORIGIN, Saved


def provenance_of(
    cfg: Any, method: Any, dataset: Any, precision: Precision, initial: Saved | None,
    unlabelled: bool = False, labels: bool = True,
) -> Saved:  # fmt: skip
    """Return what checkpoints of a run say of it, which does not change while it trains.

    The data set may say how it is divided (`division`: texts by part and class) and what its files
    hold (`keys`: numbers by path, equal for files of equal content). `initial` is the checkpoint of
    MODEL.INIT_WEIGHTS. `unlabelled` and `labels` say whether the method learns from unlabelled
    images, and whether it reads any labels of training images. Hashes of the code and the
    calibration are the caller's.
    """
    name = cfg.MODEL.BACKBONE.NAME
    clip = {"name": name, "sha256": weights_sha256(name)}
    found = identity(cfg, type(method), dataset, clip)
    earlier = [teacher.trained.images for teacher in teachers_of(method) if teacher.trained]
    return Saved(
        trainer=type(method).__name__,
        identity=found._replace(earlier=_digests(method, initial)),
        classnames=list(dataset.classnames),
        several=method.settings.several or None,
        class_buffers=method.class_buffers,
        sentences=method.settings.sentences and method.settings.sentences.about,
        features=read_features(file).traits() if (file := cfg.DATASET.get("FEATURES")) else None,
        images=images_of(dataset, unlabelled, earlier),
        computed={
            "precision": str(precision.computed_in).removeprefix("torch."),
            "processor": processor(precision.device),
        },
        drawn=drawn_for(dataset, labels),
        start=initial.start if initial else None,
        backbone=absolute(name),
        backbone_sha256=clip["sha256"],
        plugins=list(cfg.TRAINER.PLUGINS),
    )


def _digests(method: Any, initial: Saved | None) -> dict[str, Any]:
    """Return digests of the weights that a run begins from, by what they are of."""
    origins = {"teacher": teacher_origin(method), "start": initial and initial.start}
    return {
        name: origin["digest"] for name, origin in origins.items() if origin and "digest" in origin
    }


def images_of(dataset: Any, unlabelled: bool, earlier: list[Any]) -> dict[str, Any]:
    """Return `division` and `trained_on`, as in `Saved`; n is 0 if the data set has no keys.

    With `unlabelled`, a run trains on the images `train_u`. `earlier` is the same of trainings on
    which it builds, or None.
    """
    keys = getattr(dataset, "keys", {})
    items = (dataset.train_u if unlabelled else None) or dataset.train_x
    trained = {keys[item.impath] for item in items if item.impath in keys}
    for images in filter(None, earlier):
        trained |= {*images["trained_on"].tolist()}
    return {
        "division": getattr(dataset, "division", None),
        "trained_on": torch.tensor(sorted(trained), dtype=torch.int64),
    }


def load_initial(cfg: Any, method: Any, dataset: Any) -> Saved | None:
    """Load the prompts of MODEL.INIT_WEIGHTS; return their checkpoint, or None if it is not set.

    Its `start` is that of its own training. Files of public code do not name theirs.
    """
    path = cfg.MODEL.INIT_WEIGHTS
    if not path:
        return None
    need(
        method.learned(),
        f"MODEL.INIT_WEIGHTS is '{path}', but {type(method).__name__} learns nothing: leave it out",
    )
    public = public_checkpoint(method, path)
    saved = public or Saved.read(path)
    saved.check_unseen(dataset, cfg.TEST.SPLIT)
    method.load_public_state_dict(saved.state_dict)
    unknown = dict.fromkeys(("method", "backbone", *ORIGIN), UNKNOWN) | {"place": path}
    then, start = saved.identity, unknown if public else saved.origin()
    if then:
        then = then._replace(training={**then.training, "MODEL.INIT_WEIGHTS": path})
    return replace(saved, identity=then, drawn=None, start=start)


def drawn_for(dataset: Any, labels: bool) -> dict[str, Any] | None:
    """Return what label noise and imbalance have changed for a method, in numbers of images.

    For a method that reads no labels of training images, that is nothing.

    Returns:
        `images`, `wrong_labels`, `left_out`; None without noise and imbalance.
    """
    drawn: dict[str, Any] | None = getattr(dataset, "drawn", None)
    return drawn if drawn is None or labels else dict.fromkeys(drawn, 0)


def teachers_of(method: nn.Module) -> list[MethodTeacher]:
    """Return the teachers of a method that are trained methods."""
    return [module for module in method.children() if isinstance(module, MethodTeacher)]


def lacks_teacher(method: nn.Module) -> bool:
    """Return True if the teacher of a method is missing, so that it cannot be trained."""
    return any(teacher.method is None for teacher in teachers_of(method))


def teacher_origin(method: nn.Module) -> dict[str, Any] | None:
    """Return what records say of the teacher of a method; None without one."""
    return next((teacher.origin for teacher in teachers_of(method) if teacher.origin), None)


def check_teachers(method: Any, dataset, cfg) -> None:
    """Refuse teachers that were trained on what this run tests.

    A teacher of another data set, or of which no images are known, is allowed, and recorded.
    """
    for teacher in teachers_of(method):
        if (trained := teacher.trained) is None:
            continue
        same = teacher.method.image_encoder.visual is method.image_encoder.visual
        why = other_backbone(trained, cfg) if same else None
        need(
            not why,
            f"The run in '{trained.place}' is of another CLIP ({why}): give one with the backbone "
            "of this run",
        )
        trained.check_unseen(dataset, cfg.TEST.SPLIT)
        base, new = {*dataset.classnames}, {*getattr(dataset, "other_classnames", ())}
        if cfg.DATASET.SUBSAMPLE_CLASSES == "new":
            base, new = new, base
        seen = [name for name in trained.classnames or () if name in new - base]
        need(
            not seen or trained.value("DATASET.NAME") != cfg.DATASET.NAME,
            f"The teacher in '{trained.place}' was trained on {len(seen)} of the new classes, such "
            f"as '{seen and seen[0]}', which base-to-new forbids: train it with "
            "DATASET.SUBSAMPLE_CLASSES base",
        )


def other_backbone(trained: Saved, cfg) -> str | None:
    """Return how the backbone of an earlier training differs from that of a cfg; None if not."""
    name = cfg.MODEL.BACKBONE.NAME
    then = trained.identity.clip if trained.identity else {"sha256": trained.backbone_sha256}
    return other_clip({"name": name, "sha256": weights_sha256(name)}, then)
