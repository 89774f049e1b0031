"""CLIP-SVD (Koleilat et al., TMLR 2025; arXiv:2509.03740).

Singular Value Few-shot Adaptation of Vision-Language Models.
"""

from dataclasses import dataclass
from itertools import compress
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.updated import Updated
from ..checkpoint.public import Public, PublicFiles
from ..checkpoint.saved import Saved
from ..encoders.added import MATRICES, SIDES, blocks_of, matrices
from ..encoders.class_text import MEANS, class_text
from ..encoders.sentences import AroundName
from ..encoders.vision import ImageEncoder
from ..errors import need
from ..method import Method
from ..node import Fraction
from ..registry import register

PARTS = {"bottom": range(4), "middle": range(4, 8), "top": range(8, 12)}  # of 12 blocks
Layers = Literal[
    "all", "bottom", "middle", "top", "top_bottom", "top_middle", "bottom_middle"
]  # fmt: skip
FILE = "base_model.pt"


class Spectrum(nn.Module):
    """The update of a frozen matrix W = U diag(S0) V' to U diag(S) V', of which S learns.

    In float32 it is added to the matrix in a training, too, as the branch of `forward` takes two
    products more. The vectors are computed in float64, since in float32 those of nearly equal
    values are not determined.

    Args:
        weight: W, (outputs, inputs).
        rank: share of the values, the largest, that stay, in fours; the others become 0.
        learns: False leaves S, `vector_S` (1, kept), as it is.
    """

    U: torch.Tensor
    V: torch.Tensor
    start: torch.Tensor
    vector_S: torch.Tensor

    def __init__(self, weight: torch.Tensor, rank: float, learns: bool):
        super().__init__()
        U, S, V = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        for name, value in {"U": U, "V": V, "start": S}.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)
        kept = len(S) if rank == 1 else max(int(len(S) * rank) // 4 * 4, 1)
        values = self.start[None, :kept].clone()
        if learns:
            self.vector_S = nn.Parameter(values)
        else:
            self.register_buffer("vector_S", values, persistent=False)

    def train(self, mode: bool = True) -> "Spectrum":
        """Stay in evaluation, in which the update is added to the matrix."""
        return super().train(False)

    def change(self) -> torch.Tensor:
        """Return S - S0, (r,)."""
        return F.pad(self.vector_S[0], (0, len(self.start) - self.vector_S.shape[1])) - self.start

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Return the update of the matrix's output: (..., inputs) -> (..., outputs)."""
        inner = F.linear(y, self.V.to(y.dtype)) * self.change()
        return F.linear(inner.to(y.dtype), self.U.to(y.dtype))

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the matrix (outputs, inputs) with its update added."""
        return torch.addmm(weight, self.U * self.change(), self.V)

    def shrink(self, share: float) -> None:
        """Keep this share of what S has changed; values that RANK has left out stay so."""
        S = self.vector_S
        S.lerp_(self.start[None, : S.shape[1]], 1 - share)


@register
class CLIPSVD(PublicFiles, Updated):
    """The singular values of matrices in both encoders; fixed sentences.

        W = U diag(S0) V'  ->  U diag(S) V',   L = CE

    in the attention (queries, keys, values and output apart) and the MLP of each block. Nothing
    else learns. S starts as S0, so that the start is CLIP, but weight decay pulls it to 0.

    **Keys.** INCLUDE_TRAIN_LAYERS: `all`, or of 12 blocks those below 4 (`bottom`), 4 to 7
    (`middle`), from 8 (`top`), or two of these (`top_bottom`, `top_middle`, `bottom_middle`). RANK
    below 1 keeps only that share of the singular values of every matrix, learned or not, before
    the training. TEMPLATE is the sentence, with `{}` for the class; empty: zero-shot CLIP's for the
    data set. SCALE 0 is the CLIP's own logit scale; the public code multiplies cosines by 100.

    **Published.** AdamW, weight decay 0.01, cosine by step to 1e-6, batch 32, short ones included,
    amp. 200 steps per shot, rate 5e-4 (transfers: 16 shots, no table). Base-to-new: rate 4e-4, 20
    epochs, on ImageNet, SUN397, Food101, OxfordFlowers, StanfordCars and UCF101 10; there the
    public cosine falls in as many steps as there are epochs, and rises again (`COSINE_STEPS`).

    **Checkpoint.** `[visual.]transformer.resblocks.{i}.attn.{q_proj,k_proj,v_proj,proj}.vector_S`
    and `mlp.{c_fc,c_proj}.vector_S`, (1, r). Of the public code: `base_model.pt`, of which S is
    read; U and V are computed anew.
    """

    node = "CLIPSVD"
    rules = MEANS
    public = Public(folder="clip_svd")
    public_files = (FILE,)

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the public config files, in upper case, and its constants."""

        INCLUDE_TRAIN_LAYERS: Layers = "all"
        TRAIN_IMAGE_ENCODER: bool = True
        TRAIN_TEXT_ENCODER: bool = True
        TRAIN_MLP: bool = True
        TRAIN_Q: bool = True
        TRAIN_K: bool = True
        TRAIN_V: bool = True
        TRAIN_O_PROJ: bool = True
        RANK: Fraction = 1.0  # the share of the singular values that stay
        TEMPLATE: AroundName = ""

        def sides(self) -> list[str]:
            """Return the encoders that learn."""
            return list(compress(SIDES, (self.TRAIN_TEXT_ENCODER, self.TRAIN_IMAGE_ENCODER)))

        def matrices(self) -> list[str]:
            """Return the names of the matrices that learn."""
            attention = self.TRAIN_Q, self.TRAIN_K, self.TRAIN_V, self.TRAIN_O_PROJ
            return list(compress(MATRICES, (*attention, self.TRAIN_MLP, self.TRAIN_MLP)))

        def numbers(self, L: int) -> list[int]:
            """Return the numbers of the blocks that learn, of L."""
            parts = self.INCLUDE_TRAIN_LAYERS.split("_")
            return [i for i in range(L) if parts == ["all"] or any(i in PARTS[p] for p in parts)]

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with one sentence for each class."""
        own = [self.settings.TEMPLATE] if self.settings.TEMPLATE else ()
        text = class_text(self.settings, classnames, dataset, own)
        return text.encoder(clip_model), ImageEncoder(clip_model.visual)

    def build(self, clip_model, classnames, dataset):
        """Make the updates of each side, block and matrix."""
        s = self.settings
        self.sides = nn.ModuleDict()
        for side in SIDES:
            blocks, self.sides[side] = blocks_of(clip_model, side), nn.ModuleDict()
            numbers = s.numbers(len(blocks)) if side in s.sides() else []
            for i, block in enumerate(blocks):
                updates = nn.ModuleDict()
                for name, (weight, _) in matrices(block).items():
                    learns = i in numbers and name in s.matrices()
                    if learns or s.RANK < 1:
                        updates[name] = Spectrum(weight, s.RANK, learns)
                if updates:
                    self.sides[side][str(i)] = updates

    def read_public(self, files):
        """Return what learns of a `base_model.pt`; the other singular values must be CLIP's."""
        weights, own = files[FILE]["weights"], self.public_parameters()
        for name, weight in self.public_matrices("vector_S").items():
            if name in own or not torch.is_tensor(S := weights.get(name)):
                continue
            start = torch.linalg.svdvals(weight.float())[: S.shape[-1]]
            need(
                S.shape[1:] == start.shape and torch.allclose(S.to(start), start, 1e-3),
                f"The checkpoint has another '{name}' than CLIP, which does not learn with these "
                "settings: set INCLUDE_TRAIN_LAYERS and TRAIN_* as there",
            )
        return Saved(state_dict={name: weights[name] for name in own if name in weights})
