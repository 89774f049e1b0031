"""Builds methods in plain PyTorch, and says which of them run on a CLIP."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..backbones.closed import Closed
from ..capabilities.at_test_time import count_views
from ..encoders.descriptions import Asked
from ..encoders.sides import features_width
from ..errors import ClosedSide, UserError
from ..method import METHODS, Method, find_method, import_methods
from ..node import Settings, read_node
from .support import give_images


class _Blank(nn.Module):
    """An encoder that gives features without values."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(x.shape[0], self.width, device="meta")


def methods_on(clip_model: Any) -> dict[str, str]:
    """Return for each method an empty text if it runs on a CLIP with its defaults, else the reason.

    Each is built on a copy of the CLIP without weights.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> methods_on(load_clip("emoji"))["CoOp"]
        ''
    """
    import_methods()
    memo: dict[int, Any] = {}
    for x in (*clip_model.parameters(), *clip_model.buffers()):
        empty = torch.empty_like(x, device="meta")
        memo[id(x)] = nn.Parameter(empty, False) if isinstance(x, nn.Parameter) else empty
    skeleton, reasons = copy.deepcopy(clip_model, memo), {}
    rows = isinstance(getattr(skeleton.visual, "inner", None), nn.Identity)
    for side in skeleton.children():
        if isinstance(side, Closed):  # it may read values, which there are none of
            side.inner = _Blank(features_width(clip_model))
    for name, kind in sorted(METHODS.items()):
        reasons[name] = ""
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                method = kind(read_node(kind, {}), skeleton, ["cat", "dog"])
            if rows and count_views(method) > 1:
                reasons[name] = "it reads random views, and rows of features are without"
        except UserError as error:
            reasons[name] = str(error)
    return reasons


def make(
    kind: type[Method], settings: Settings, clip_model: Any, names: Sequence[str], dataset: str
) -> Method:
    """Return a method that is built for a CLIP."""
    try:
        return kind(settings, clip_model, names, dataset)
    except ClosedSide as error:
        if error.remedy:
            raise
        runnable = [name for name, reason in methods_on(clip_model).items() if not reason]
        remedy = f"choose another backbone, or one of {', '.join(runnable)}"
        raise ClosedSide(error.side, error.does, remedy) from None


def build_method(
    name: str,
    node: Mapping[str, Any],
    clip_model: Any,
    classnames: Sequence[str],
    dataset: str = "",
    support: Mapping[str, Any] | None = None,
    sentences: Asked | str | None = None,
    several: bool = False,
) -> Method:
    """Build a method in plain PyTorch, without Dassl.

    Args:
        name: of the method, e.g. `KgCoOp`.
        node: its keys, flat: a key that a public code keeps outside the method's node has its
            last name here (`T` for `LOSS.T`). Missing ones take the defaults.
        clip_model: a CLIP from `load_clip`. Its modules are shared and frozen, not copied.
        classnames: K names; `_` reads as a space.
        dataset: name of the data set, which selects hand-written sentences.
        support: for a method that takes it (`OnSupport`), the training set as `images`,
            (n, 3, H, W) or (passes, n, 3, H, W) of several augmentations, normalised, and `labels`,
            (n,), or (n, K) of several. Its features are computed here, on the CPU, and kept;
            `images` may be rows of them, (n, D).
        sentences: about the classes, for a method that starts from some, as DATASET.SENTENCES.
        several: True for images with several labels, (B, K) of int8: 1 present, 0 absent, -1
            unknown.

    Returns:
        The model: `method(images)` gives logits, `.losses(images, labels)` the loss. Gradients come
        from `.backward(terms)`, which is `terms["loss"].backward()` for most methods.

    Raises:
        UserError: unknown method or key, values that contradict each other or do not fit.

    Examples:
        >>> import torch
        >>> from trainers.prompting import load_clip
        >>> method = build_method("KgCoOp", {"N_CTX": 4}, load_clip("emoji"), ["cat", "dog"])
        >>> list(method.losses(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])))
        ['loss', 'ce', 'kg']
    """
    kind = find_method(name)
    asked = Asked(sentences) if isinstance(sentences, str) else sentences
    settings = read_node(kind, node, dataset, asked, several)
    method = make(kind, settings, clip_model, classnames, dataset)
    if support is not None:
        give_images(method, support)
    return method
