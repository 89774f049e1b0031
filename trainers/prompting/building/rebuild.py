"""A trained method built again from its checkpoint, without its data set."""

from collections.abc import Sequence
from typing import Any

import torch

from ..backbones import load_clip, weights_sha256
from ..backbones.positions import interpolate_positions
from ..capabilities.earlier import settings_of
from ..checkpoint.saved import Saved
from ..encoders.class_text import zero_shot_template
from ..encoders.sentence_features import encode_sentences
from ..encoders.sides import features_width
from ..errors import need, printable
from ..method import Method
from ..storage.features import differing_traits
from .build import make
from .transforms import Images


def rebuild(saved: Saved, kind: type[Method], clip_model: Any, names: Sequence[str]) -> Method:
    """Return the trained method for class names, on the CPU."""
    dataset = saved.value("DATASET.NAME") or ""
    method = make(kind, settings_of(saved, kind, dataset), clip_model, names, dataset)
    method.load_checkpoint(saved, names)
    return method


def images_of(saved: Saved, clip_model: Any) -> Images:
    """Return how a run reads images; rows of features are normalised."""
    rows, names = saved.value("DATASET.FEATURES"), saved.value("INPUT.TRANSFORMS") or ()
    crops = {"crops": tuple(x)} if (x := saved.value("INPUT.RRCROP_SCALE")) else {}
    return Images.of(clip_model, normal=bool(rows or "normalize" in names), **crops)


def clip_of(saved: Saved, name: str) -> Any:
    """Return the CLIP of a run, given its name or file, which may have moved.

    That of a run on features is compared with what it was trained on.
    """
    saved.check_weights(name, weights_sha256(name))
    if not saved.value("DATASET.FEATURES"):
        clip_model = load_clip(name)
        if saved.value("INPUT.INTERPOLATE"):
            interpolate_positions(clip_model.visual, saved.identity.data["images"]["size"][0])
        return clip_model
    cannot = f"The run in '{saved.place}' was trained on features and cannot read images, as "
    need(
        saved.backbone_sha256 and saved.features,
        f"{cannot}it does not have the SHA-256 of their CLIP '{saved.backbone}': train again where "
        "that CLIP is",
    )
    dataset = saved.value("DATASET.NAME") or ""
    template, own = zero_shot_template(dataset), next(iter(saved.features["text"]), "")
    need(
        own == template,
        f"{cannot}their sentence is '{printable(own)}', not '{template}': train again on features "
        f"with that of {dataset}",
    )
    clip_model = load_clip(name)
    names = list(saved.features["text"][own])
    rows = encode_sentences(clip_model, [own.replace("{}", name) for name in names]).cpu()
    now = {
        "width": features_width(clip_model), "normalised": False,
        "logit_scale": float(clip_model.logit_scale.detach().exp()),
        "text": {own: dict(zip(names, rows, strict=True))},
    }  # fmt: skip
    why = differing_traits(saved.features, now)
    need(not why, f"{cannot}'{name}' gives others ({why}): train again on features of it")
    return clip_model


def for_classes(
    method: Method, clip_model, classnames: Sequence[str], others: Sequence[str], dataset: str
) -> Method:
    """Return a trained method, which stays as it is, rebuilt for other class names, in eval mode.

    The modules of the CLIP that it was built from are shared again.
    """
    with torch.random.fork_rng(devices=[]):
        other = type(method)(method.settings, clip_model, others, dataset)
    state = Saved(
        state_dict=method.public_state_dict(),
        method=method.own_state(),
        class_buffers=method.class_buffers,
        classnames=list(classnames),
        trainer=type(method).__name__,
    )
    other.load_checkpoint(state, others)
    other.chunk_bytes, other.training_classnames = method.chunk_bytes, method.training_classnames
    return other.to(method.device).eval()
