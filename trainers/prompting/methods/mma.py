"""MMA (Yang et al., CVPR 2024).

MMA: Multi-Modal Adapter for Vision-Language Models.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..checkpoint.public import Public
from ..encoders.added import SIDES, Added, blocks_of
from ..encoders.sentences import OneTemplate, fixed_sentence, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..method import Method
from ..node import From0, From1, Positive
from ..registry import register


class Bypass(nn.Module):
    """A bottleneck network: SCALE * U(ReLU(S(ReLU(D y)))), (..., W) -> (..., W)."""

    def __init__(self, own: nn.ModuleDict, shared: nn.Module, scale: float):
        super().__init__()
        self.own, self.shared, self.scale = own, shared, scale

    def forward(self, *states: torch.Tensor) -> torch.Tensor:
        """Return what is added to a block's output; y is the last of `states`."""
        out: torch.Tensor = self.own["up"](self.shared(self.own["down"](states[-1])))
        return self.scale * out


class Adapters(nn.Module):
    """An adapter for each side and place j; both sides share its middle layer.

    Args:
        places: the numbers j; 0 is before the first block, j in parallel to block j - 1.
        widths: W of each side.
        dim: width of the middle layer.
        dropout: rate of the dropout after the middle layer.
    """

    def __init__(
        self, places: range, widths: dict[str, int], dim: int, scale: float, dropout: float = 0.0
    ):
        super().__init__()
        self.text_adapter, self.visual_adapter = nn.ModuleDict(), nn.ModuleDict()
        self.shared_adapter = nn.ModuleDict()
        self.added: dict[str, dict[int, Added]] = {side: {} for side in SIDES}
        self.bypasses: list[Bypass] = []
        for j in places:
            shared = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
            if dropout:
                shared.append(nn.Dropout(dropout))
            self.shared_adapter[str(j)] = shared
            for side, adapters in zip(SIDES, (self.text_adapter, self.visual_adapter), strict=True):
                W, added = widths[side], self.added[side]
                down = nn.Sequential(nn.Linear(W, dim), nn.ReLU())
                own = nn.ModuleDict({"down": down, "up": nn.Linear(dim, W)})
                adapters[str(j)] = own
                bypass, i = Bypass(own, shared, scale), max(j - 1, 0)
                self.bypasses.append(bypass)
                addition = added.get(i, Added())
                added[i] = (
                    addition._replace(beside=bypass) if j else addition._replace(before=bypass)
                )
        for name, parameter in self.named_parameters():
            if not name.endswith("bias"):
                nn.init.kaiming_normal_(parameter, mode="fan_out")

    def set_scale(self, scale: float) -> None:
        """Set the scale of all bypasses."""
        for bypass in self.bypasses:
            bypass.scale = scale


@register
class MultiModalAdapter(Method):
    """Adapters parallel to the later blocks of both encoders, with a shared layer; fixed sentences.

    For j = ADAPTER_START to ADAPTER_END, block j - 1 has a bypass of attention and MLP, in both
    encoders:

        out = x' + MLP(LN2 x') + ADAPTER_SCALE U_j(ReLU(S_j(ReLU(D_j(LN1 x))))),   L = CE

    D_j: W to ADAPTER_DIM, S_j: ADAPTER_DIM to itself, shared by both encoders, U_j: ADAPTER_DIM to
    W, all with biases. j = 0 is before the first block: on token embeddings before positions are
    added, and after `ln_pre`. Weights start from N(0, 2 / outputs), biases with 0.

    As in the public code, every parameter with j >= 1 gets 1 / ADAPTER_SCALE times its derivative.
    With the published scale of 0.001 that is a factor of 1000, which plain SGD needs.

    **Published.** SGD, rate 0.0015, 5 epochs, no warm-up, batch 16 (ImageNet 128), amp. There are
    no few-shot settings: the config has ALIGN's epochs.

    **Checkpoint.** `{text,visual}_adapter.{j}.down.0`, `.up`, `shared_adapter.{j}.0`.

    **Differences.** The public code computes text features only in the first evaluation; here again
    whenever parameters have changed.
    """

    node = "MMADAPTER"
    public = Public(
        folder="adapter_learner",
        submodule="adapter_learner",
        dead=("token_embedding", "tokenized_prompts"),
    )

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        TEXT_CTX_INIT: OneTemplate = "a photo of a"
        ADAPTER_START: From0 = 5
        ADAPTER_END: From0 = 12
        ADAPTER_DIM: From1 = 32
        ADAPTER_SCALE: Positive = 0.001

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with the same sentence for every data set."""
        sentence = fixed_sentence(self.settings.TEXT_CTX_INIT)
        sentences = write_sentences(clip_model, [sentence], classnames)
        return TextEncoder(clip_model, sentences), ImageEncoder(clip_model.visual)

    def build(self, clip_model, classnames, dataset):
        """Make the adapters."""
        widths = {side: blocks_of(clip_model, side)[0].attn.embed_dim for side in SIDES}
        places = range(self.settings.ADAPTER_START, self.settings.ADAPTER_END + 1)
        self.adapter_learner = self.make_adapters(places, widths)

    def make_adapters(self, places: range, widths: dict[str, int]) -> Adapters:
        """Return the adapters at these places, as they start."""
        adapters = Adapters(places, widths, self.settings.ADAPTER_DIM, self.settings.ADAPTER_SCALE)
        for name, parameter in adapters.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        return adapters

    def blocks(self, side):
        """Return the adapters of a side's blocks."""
        return self.adapter_learner.added[side]

    def backward(self, terms, scale=lambda loss: loss):
        """Compute the gradients, and divide those of adapters parallel to blocks by their scale."""
        super().backward(terms, scale)
        for name, parameter in self.adapter_learner.named_parameters():
            gradient = parameter.grad
            if gradient is not None and name.split(".")[1] != "0":  # 0 is before the first block
                gradient /= self.settings.ADAPTER_SCALE
