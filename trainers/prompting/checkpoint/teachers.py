"""The teachers of a method that were trained before: what they may have seen, and what is known."""

from typing import Any

from torch import nn

from ..backbones import weights_sha256
from ..embedded import other_weights
from ..errors import need
from ..teacher import MethodTeacher
from .cfg_settings import settings_of
from .saved import Saved


def teachers_of(method: nn.Module) -> list[MethodTeacher]:
    """Return the teachers of a method that are trained methods."""
    return [module for module in method.children() if isinstance(module, MethodTeacher)]


def lacks_teacher(method: nn.Module) -> bool:
    """Return True if the teacher of a method is missing, so that it cannot be trained."""
    return any(teacher.method is None for teacher in teachers_of(method))


def facts_of(method: nn.Module) -> dict[str, Any] | None:
    """Return what records say of the teacher of a method; None without one."""
    return next((teacher.facts for teacher in teachers_of(method) if teacher.facts), None)


def check_teachers(method: Any, dataset, cfg) -> None:
    """Refuse teachers that were trained on what this run tests.

    A teacher of another data set, or of which no images are known, is allowed, and recorded.

    Raises:
        UserError: a teacher has seen test images, or new classes of this data set, or it shares
            the CLIP of the method but was trained with another one.
    """
    for teacher in teachers_of(method):
        trained = teacher.trained
        if trained is None:
            continue
        same = teacher.method.image_encoder.visual is method.image_encoder.visual
        why = other_backbone(trained, cfg) if same else None
        need(
            not why,
            f"The run in '{trained.place}' was trained with {why}: give one with the backbone of "
            "this run",
        )
        trained.check_unseen(dataset, cfg.TEST.SPLIT)
        halves = {"base": list(dataset.classnames)}
        halves["new"] = list(getattr(dataset, "other_classnames", ()))
        if cfg.DATASET.SUBSAMPLE_CLASSES == "new":
            halves = dict(zip(("new", "base"), halves.values(), strict=True))
        foreign = {*halves["new"]} - {*halves["base"]}
        seen = [name for name in trained.classnames or () if name in foreign]
        need(
            not seen or trained.value("DATASET.NAME") != cfg.DATASET.NAME,
            f"The teacher in '{trained.place}' was trained on {len(seen)} of the new classes, such "
            f"as '{seen and seen[0]}', which base-to-new forbids: train it with "
            "DATASET.SUBSAMPLE_CLASSES base",
        )


def other_backbone(trained: Saved, cfg) -> str | None:
    """Return how the backbone of an earlier training differs from that of a cfg; None if not."""
    key = "MODEL.BACKBONE.NAME"
    then, now = (trained.settings or {}).get(key), settings_of(cfg)[key]
    if then not in (None, now):
        return f"{then}, not {now}"
    name = cfg.MODEL.BACKBONE.NAME
    return other_weights(name, trained.backbone_sha256, weights_sha256(name))
