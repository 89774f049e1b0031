"""Encoders whose upper blocks are copies that learn.

Letters: K classes, k of them in a step, N = 1 sentence each; P, T, S and W as in `Layout`.
"""

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import need
from . import blocks
from .added import NOTHING, SIDES, blocks_of
from .layout import Layout
from .sentences import Sentence
from .text import TextEncoder, TextFeatures
from .vision import ImageEncoder

ENDS = {"text": ("ln_final", "text_projection"), "image": ("ln_post", "proj", "head")}


def with_upper_copies(clip_model: Any, first: int) -> Any:
    """Return a CLIP that has copies, which learn, of the blocks from `first` on and what follows.

    What follows are the last LayerNorms and projections, or the head. All else is shared with the
    given CLIP, which stays as it is.
    """
    result = _shallow(clip_model)
    result.visual = _shallow(clip_model.visual)
    for side in SIDES:
        encoder, given = result if side == "text" else result.visual, blocks_of(clip_model, side)
        last = len(given) - 1
        need(
            0 <= first <= last,
            f"START_LAYER is {first} but the {side} encoder has blocks 0 to {last}: choose one",
        )
        encoder.transformer = _shallow(encoder.transformer)
        copies = map(_learning, given[first:])
        encoder.transformer.resblocks = nn.Sequential(*given[:first], *copies)
        for name in ENDS[side]:
            if (part := getattr(encoder, name, None)) is not None:
                setattr(encoder, name, _learning(part))
    return result


def _shallow(module: Any) -> Any:
    """Return a module with the same tensors and sub-modules, which can be replaced in it alone."""
    result = copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        vars(result)[kind] = dict(vars(module)[kind])
    return result


def _learning(part: Any) -> Any:
    """Return a copy of a module or tensor that learns; float32 in any case."""
    if isinstance(part, nn.Parameter):
        return nn.Parameter(part.detach().float().clone())
    return deepcopy(part).float().requires_grad_()


class UpperImage(ImageEncoder):
    """The image encoder of a CLIP from `with_upper_copies`."""

    @property
    def more(self) -> str:
        """A predicate: rows of CLIP's features cannot replace the images."""
        return "learns inside the image encoder"


class UpperText(TextEncoder):
    """The text encoder of a CLIP from `with_upper_copies`, for K sentences or some of them.

    Args:
        clip_model: the CLIP.
        given: that of which it was made, which computes the states at the entry of block `first`.
        sentences: [1][K].
        first: the first block that learns.
    """

    def __init__(self, clip_model: Any, given: Any, sentences: list[list[Sentence]], first: int):
        super().__init__(clip_model, sentences)
        self.first = first
        # in a tuple, so that its upper blocks are not those of the method
        self._given = (TextEncoder(given, sentences),)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._given[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def some(self, classes: Tensor) -> TextFeatures:
        """Return the features (1, k, D) of some classes, by their numbers (k,) in rising order.

        What enters block `first` is computed once, for all classes.
        """
        packs = self.whole_layout is None or self.text_projection.device.type in self.packs_on
        layout = self.layout if packs else self.whole_layout
        assert layout is not None
        constant = self._given[0]._constant(layout, self.first)
        states = constant or self._embed(layout, None, None)
        part, suffix = pick(layout, self.sentences, classes, states[1])
        shared, recompute = states[0], self.recompute > 1
        *inner, last = self.transformer.resblocks[self.first :]
        for block in inner:
            shared, suffix = blocks.run(self._block, recompute, block, part, shared, suffix)
        x = blocks.run(self._read_last, recompute, last, part, shared, suffix)
        raw = self._project(x, NOTHING)
        return TextFeatures(F.normalize(raw, dim=-1).float(), raw.float())


def pick(
    layout: Layout, sentences: Sequence[Sequence[Sentence]], classes: Tensor, suffix: Tensor
) -> tuple[Layout, Tensor]:
    """Return the layout of some classes (k,) in rising order, and their packed suffixes (1, ., W).

    That of whole sentences depends on nothing but k, so that no accelerator is waited for.
    """
    if layout.whole:
        k, S = len(classes), layout.S
        begin = S * torch.arange(k, device=classes.device)
        part = layout.replace(
            eos=layout.eos[:, classes] % S + begin,
            eos_mask=layout.eos_mask[:, classes],
            sees=None if layout.sees is None else layout.sees[:, classes],
        )
        part.K = k
        return part, suffix.unflatten(1, (-1, S))[:, classes].flatten(1, 2)
    own = torch.isin(layout.pack_index // layout.S, classes)
    numbers = classes.tolist()
    return Layout([[row[i] for i in numbers] for row in sentences], layout.cut), suffix[:, own]
