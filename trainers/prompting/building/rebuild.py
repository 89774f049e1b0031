"""A trained method built again from its checkpoint, without its data set."""

from collections.abc import Sequence
from typing import Any

import torch
from yacs.config import CfgNode

from ..backbones import load_clip, weights_sha256
from ..checkpoint.cfg_texts import put
from ..checkpoint.saved import Saved
from ..dassl_parts import dassl
from ..encoders.class_text import zero_shot_template
from ..encoders.descriptions import FILES, TEMPLATES
from ..encoders.sentence_features import encode_sentences
from ..encoders.sides import features_width
from ..errors import need, printable
from ..method import Method
from ..storage.features import differing_traits
from .build import make
from .config import add_nodes, fit_images, settings_in


def rebuild(
    saved: Saved, kind: type[Method], cfg: CfgNode, clip_model: Any, names: Sequence[str]
) -> tuple[Method, CfgNode]:
    """Return the trained method for class names, on the CPU, and the cfg of what it reads."""
    cfg, _ = fit_images(cfg, clip_model)
    settings = settings_in(cfg, kind, saved.sentences, bool(saved.several))
    method = make(kind, settings, clip_model, names, cfg.DATASET.NAME)
    method.load_checkpoint(saved, names)
    return method, cfg


def clip_of(saved: Saved, backbone: str | None = None) -> tuple[CfgNode, Any]:
    """Return the cfg of a run, and its CLIP.

    `backbone` is its name or file, if it has moved. That of a run on features is compared with what
    it was trained on.
    """
    cfg = _cfg(saved)
    backbone = cfg.MODEL.BACKBONE.NAME = saved.backbone if backbone is None else backbone
    sha256 = weights_sha256(backbone)
    saved.check_weights(backbone, sha256)
    if not cfg.DATASET.get("FEATURES", ""):
        clip_model = load_clip(backbone)
        return cfg, clip_model
    cannot = f"The run in '{saved.place}' was trained on features and cannot read images, as "
    need(
        saved.backbone_sha256 and saved.features,
        f"{cannot}it does not have the SHA-256 of their CLIP '{saved.backbone}': train again where "
        "that CLIP is",
    )
    need(sha256, f"{cannot}their CLIP '{backbone}' is not here: give --backbone its file")
    template, own = zero_shot_template(cfg.DATASET.NAME), next(iter(saved.features["text"]), "")
    need(
        own == template,
        f"{cannot}their sentence is '{printable(own)}', not '{template}': train again on features "
        f"with that of {cfg.DATASET.NAME}",
    )
    given = cfg.DATASET.SENTENCES
    need(
        not given or "{}" in given or given in (*TEMPLATES, *FILES),
        f"{cannot}only the features of its sentences '{printable(given)}' are known: train again "
        "on images, with their file",
    )
    clip_model = load_clip(backbone)
    names = list(saved.features["text"][own])
    rows = encode_sentences(clip_model, [own.replace("{}", name) for name in names]).cpu()
    now = {
        "width": features_width(clip_model), "normalised": False,
        "logit_scale": float(clip_model.logit_scale.detach().exp()),
        "text": {own: dict(zip(names, rows, strict=True))},
    }  # fmt: skip
    why = differing_traits(saved.features, now)
    need(not why, f"{cannot}'{backbone}' gives others ({why}): train again on features of it")
    cfg.INPUT.TRANSFORMS = ["normalize"]  # rows need none
    return cfg, clip_model


def _cfg(saved: Saved) -> CfgNode:
    """Rebuild the cfg of a checkpoint from what its run is."""
    cfg: CfgNode = dassl("config").get_cfg_default()
    add_nodes(cfg)
    for key, value in saved.identity.cfg_keys.items():
        put(cfg, key, value, saved.place)
    cfg.VERBOSE = False
    return cfg


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
