"""MMRL++ (Guo and Gu, IJCV; arXiv:2505.10088).

MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for Vision-Language
Models.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import need
from ..node import Fraction, From1
from ..prompts import normal
from ..registry import register
from .mmrl import MMRL


class Residual(nn.Module):
    """A low-rank change A B (W, d) of a shared matrix, and a bias."""

    def __init__(self, W: int, d: int, rank: int, bias: torch.Tensor):
        super().__init__()
        self.A = nn.Parameter(torch.empty(W, rank))
        self.B = nn.Parameter(torch.zeros(rank, d))
        self.bias = nn.Parameter(bias.clone())
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, R: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return R (weight + A B)^T + bias, (n, W), for R (n, d) and a weight (W, d)."""
        return R @ (weight + self.A @ self.B).T + self.bias


class Aligner(nn.Module):
    """Projections of the tokens to one encoder: a matrix that all blocks share, and residuals."""

    def __init__(self, blocks: int, W: int, d: int, rank: int):
        super().__init__()
        first = nn.Linear(d, W)
        self.weight = nn.Parameter(first.weight.detach())
        bias = first.bias.detach()
        self.srra = nn.ModuleList(Residual(W, d, rank, bias) for _ in range(blocks))

    def forward(self, R: torch.Tensor) -> list[torch.Tensor]:
        """Return the tokens (n, W) of each block, for R (n, d)."""
        return [residual(R, self.weight) for residual in self.srra]


class SharedRepresentation(nn.Module):
    """Trained tokens R (n, d) and their shared projections to both encoders.

    Args:
        layers: numbers of the blocks, from 1, at whose entry R is projected and inserted.
        n, d: number and width of the tokens.
        widths: W of each side.
        rank: of the residuals.
    """

    def __init__(self, layers: list[int], n: int, d: int, widths: dict[str, int], rank: int):
        super().__init__()
        self.layers = layers
        self.compound_rep_tokens = normal(n, d)
        self.srra_r2vproj = Aligner(len(layers), widths["image"], d, rank)
        self.srra_r2tproj = Aligner(len(layers), widths["text"], d, rank)

    def tokens(self, side: str) -> dict[int, torch.Tensor]:
        """Return the tokens (n, W) that enter a side, by block."""
        aligner = self.srra_r2tproj if side == "text" else self.srra_r2vproj
        aligned = aligner(self.compound_rep_tokens)
        return {layer - 1: tokens for layer, tokens in zip(self.layers, aligned, strict=True)}


@register
class MMRLpp(MMRL):
    """MMRL with a sixth of its parameters, whose tokens keep a part of what blocks made of them.

    As [MMRL](#mmrl), with three changes. The projections of a side share a matrix W:

        V_i = R (W + A_i B_i)^T + b_i,   A_i (W, RES_LORA_DIM)

    The first block of REP_LAYERS inserts V_0; at each later one, what the block before has made of
    the tokens stays in part:

        tokens <- BETA V_i + (1 - BETA) tokens

    The head of the tokens is CLIP's projection plus A B, A (W, PROJ_LORA_DIM). Every B starts as 0.

    **Published.** As MMRL; few-shot: rate 0.002, 100 epochs (ImageNet: 0.001, 5). BETA and
    REG_WEIGHT of each data set are in `base2new_per_dataset` and `few_shot_per_dataset`. In
    transfer, BETA is that of the target while testing, which tables mark, and 0.9 in training; how
    it was chosen is not said.

    **Checkpoint.** `representation_learner.{compound_rep_tokens, srra_r2{v,t}proj.{weight,
    srra.{i}.{A,B,bias}}}`, `image_encoder.{A,B}`.
    """

    node = "MMRLpp"
    test_keys = (*MMRL.test_keys, "BETA")

    @dataclass(frozen=True)
    class Settings(MMRL.Settings):
        """The keys of the node, and those that the public code keeps elsewhere."""

        BETA: Fraction = 0.9
        PROJ_LORA_DIM: From1 = 64
        RES_LORA_DIM: From1 = 4

    settings: Settings  # type: ignore[assignment]

    def learn(self, widths):
        """Make the tokens, and the change of CLIP's projection that is their head."""
        s = self.settings
        need(
            hasattr(self.image_encoder.visual, "proj"),
            "MMRLpp learns a change of the projection of images, but this backbone has a head in "
            "its place: choose another one, or MMRL",
        )
        size = s.REP_LAYERS, s.N_REP_TOKENS, s.REP_DIM
        self.representation_learner = SharedRepresentation(*size, widths, s.RES_LORA_DIM)
        self.A = nn.Parameter(torch.empty(widths["image"], s.PROJ_LORA_DIM))
        self.B = nn.Parameter(torch.zeros(s.PROJ_LORA_DIM, self.width))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def blocks(self, side):
        """Return the tokens that enter a side's blocks, with their share."""
        return {
            i: addition._replace(share=self.settings.BETA)
            for i, addition in super().blocks(side).items()
        }

    def head(self):
        """Return CLIP's projection plus A B, (W, D)."""
        return self.image_encoder.visual.proj.detach().float() + self.A @ self.B
