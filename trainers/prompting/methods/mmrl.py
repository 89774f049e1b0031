"""MMRL (Guo and Gu, CVPR 2025; arXiv:2503.08497).

MMRL: Multi-Modal Representation Learning for Vision-Language Models.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public
from ..encoders.added import SIDES, Added, blocks_of
from ..encoders.class_text import MEANS, zero_shot_template
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageEncoder, ImageFeatures
from ..full_precision import no_autocast
from ..method import Method
from ..node import Fraction, From1, NotNegative
from ..prompts import normal
from ..registry import register
from ..regularizers import apart
from ..teacher import Teacher


class Representation(nn.Module):
    """Trained tokens R (n, d) and their projections to both encoders, one for each block.

    Args:
        layers: numbers of the blocks, from 1, at whose entry R is projected and inserted.
        n, d: number and width of the tokens.
        widths: W of each side.
    """

    def __init__(self, layers: list[int], n: int, d: int, widths: dict[str, int]):
        super().__init__()
        self.layers = layers
        self.compound_rep_tokens = normal(n, d)

        def projections(W: int) -> nn.ModuleList:
            first = nn.Linear(d, W)
            clones = nn.ModuleList(nn.Linear(d, W) for _ in layers)
            for clone in clones:
                clone.load_state_dict(first.state_dict())
            return clones

        self.compound_rep_tokens_r2vproj = projections(widths["image"])
        self.compound_rep_tokens_r2tproj = projections(widths["text"])

    def tokens(self, side: str) -> dict[int, torch.Tensor]:
        """Return the tokens (n, W) that enter a side, by block."""
        text = side == "text"
        maps = self.compound_rep_tokens_r2tproj if text else self.compound_rep_tokens_r2vproj
        return {
            layer - 1: project(self.compound_rep_tokens)
            for layer, project in zip(self.layers, maps, strict=True)
        }


@register
class MMRL(PerClass):
    """Tokens that both encoders share enter their later blocks; a second image head reads them.

    R (n, d): n = N_REP_TOKENS tokens of d = REP_DIM. For the i-th entry t of REP_LAYERS (from 1),
    block t - 1 gets the tokens R Wv_i^T + bv_i (image) and R Wt_i^T + bt_i (text). The first such
    block inserts them after CLS or SOS, each later one replaces them. They have no positional
    embedding, and are the same for all classes.

    z^r is the normalised mean of the last block's outputs at the n tokens, after `ln_post`, times
    `proj_rep` (W, D). With l = s z . h and l^r = s z^r . h the logits are ALPHA l + (1 - ALPHA)
    l^r, and

        L = ALPHA CE(l) + (1 - ALPHA) CE(l^r)
            + REG_WEIGHT [1 - mean cos(z, z0)] + REG_WEIGHT [1 - mean cos(h, h0)]

    On classes that are not of its training, and on base and new ones together, MMRL uses only l.
    Our checkpoints name the classes of the training; for a public checkpoint TASK decides, by the
    rule of its code: both heads with FS, with B2N and SUBSAMPLE_CLASSES base, and with CD on
    ImageNet. SCALE 0 is the CLIP's own logit scale; the public code multiplies by 100.

    **Published.** AdamW, rate 0.001, amp, crop scale 0.5-1. Base-to-new: batch 4, 10 epochs
    (ImageNet: 32, 5); few-shot: batch 32, 50 epochs (ImageNet: 5); transfer: batch 32, 1 epoch,
    REG_WEIGHT 0.2. The values for each data set are in `base2new_per_dataset` and
    `few_shot_per_dataset`.

    **Checkpoint.** `representation_learner.compound_rep_tokens`,
    `.compound_rep_tokens_r2{v,t}proj.{i}`, `image_encoder.proj_rep`.
    """

    node = "MMRL"
    rules = MEANS
    public = Public(
        folder="MultiModalRepresentationLearner",
        dead=("prompt_embeddings", "representation_learner.prompt_embeddings"),
        outside={"TASK": "TASK", "SUBSAMPLE_CLASSES": "DATASET.SUBSAMPLE_CLASSES"},
    )
    training_only = ("REG_WEIGHT",)
    test_keys: ClassVar[tuple[str, ...]] = ("TASK", "SUBSAMPLE_CLASSES")

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the node, and those that the public code keeps elsewhere."""

        ALPHA: Fraction = 0.7
        REG_WEIGHT: NotNegative = 1.0
        REP_LAYERS: list[int] = field(default_factory=lambda: [6, 7, 8, 9, 10, 11, 12])
        REP_DIM: From1 = 512
        N_REP_TOKENS: From1 = 5
        TASK: Literal["B2N", "FS", "CD"] = "B2N"
        SUBSAMPLE_CLASSES: str = "all"

    settings: Settings
    representation_learner: Any
    own_classes = True

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; the image encoder returns the states of the tokens, too."""
        text, _ = super().encoders(clip_model, classnames, dataset)
        states = self.settings.N_REP_TOKENS
        return text, ImageEncoder(clip_model.visual, states=states, untouched=True)

    def build(self, clip_model, classnames, dataset):
        """Make the tokens and their head, and the teacher, which has the same sentence."""
        self.learn({side: blocks_of(clip_model, side)[0].attn.embed_dim for side in SIDES})
        self.teacher = Teacher(clip_model, classnames, [zero_shot_template(dataset)])

    def learn(self, widths: dict[str, int]) -> None:
        """Make the tokens and their head, for encoders of these widths."""
        s, W = self.settings, widths["image"]
        size = s.REP_LAYERS, s.N_REP_TOKENS, s.REP_DIM
        self.representation_learner = Representation(*size, widths)
        self.proj_rep = nn.Parameter(W**-0.5 * torch.randn(W, self.width))

    def public_name(self, name):
        """Return the public name: the head of the tokens is in the image encoder."""
        return name if "." in name else f"image_encoder.{name}"

    def blocks(self, side):
        """Return the tokens that enter a side's blocks."""
        tokens = self.representation_learner.tokens(side)
        return {i: Added(enter=enter) for i, enter in tokens.items()}

    def head(self) -> torch.Tensor:
        """Return the projection (W, D) of the tokens."""
        return self.proj_rep

    def logits_of_tokens(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return l^r = s z^r . h, z^r the projected mean of the last states of the tokens."""
        assert image.states is not None, "the encoder returns the states of the tokens"
        z = F.normalize(image.states[:, 0, 1:].float().mean(1) @ self.head(), dim=-1)
        return self.logit_scale * z @ text.h[0].float().T

    def logits(self, image, text):
        """Return ALPHA l + (1 - ALPHA) l^r for the classes of the training, and l for others."""
        own, alpha = super().logits(image, text), self.settings.ALPHA
        if not self.own_classes:
            return own
        return alpha * own + (1 - alpha) * self.logits_of_tokens(image, text)

    def loss(self, output, batch):
        """Return the terms of both heads, and the distances from the untouched CLIP."""
        settings, (image, text) = self.settings, output[1:]
        with no_autocast(image.z.device.type):
            own = self.logit_scale * image.z[:, 0].float() @ text.h[0].float().T
            other = self.logits_of_tokens(image, text)
        return {
            "ce": settings.ALPHA * F.cross_entropy(own, batch.labels),
            "ce_rep": (1 - settings.ALPHA) * F.cross_entropy(other, batch.labels),
            "reg_image": settings.REG_WEIGHT * apart(image.z[:, 0], image.untouched[:, 0].float()),
            "reg_text": settings.REG_WEIGHT * apart(text.h[0], self.teacher.h),
        }

    def load_checkpoint(self, checkpoint, classnames):
        """Load as every method does; without class names in it, TASK says if they are the same."""
        super().load_checkpoint(checkpoint, classnames)
        if checkpoint.classnames is None:
            task, settings = self.settings.TASK, self.settings
            self.own_classes = (
                task == "FS"
                or (task == "B2N" and settings.SUBSAMPLE_CLASSES == "base")
                or (task == "CD" and settings.dataset == "ImageNet")
            )
