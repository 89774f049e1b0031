"""MMRL (Guo and Gu, CVPR 2025; arXiv:2503.08497).

MMRL: Multi-Modal Representation Learning for Vision-Language Models.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders.added import SIDES, Added, blocks_of
from ..encoders.templates import ZERO_SHOT, template_of
from ..errors import UserError, check_name
from ..method import Method, register
from ..model.learner import normal
from ..model.parts import Parts
from ..regularizers import apart
from ..spec import PromptSpec
from ..teacher import Teacher


class Representation(Parts):
    """Trained tokens R (n, d) that enter both encoders, and an image head that reads them.

    Args:
        layers: numbers of the blocks, from 1, at whose entry R is projected and inserted.
        n, d: number and width of the tokens.
        widths: W of each side.
        dim: D, the width of the features.
        alpha: share of CLIP's head in the logits.
    """

    own_classes = True

    def __init__(
        self, layers: list[int], n: int, d: int, widths: dict[str, int], dim: int, alpha: float
    ):
        super().__init__()
        self.layers, self.alpha = layers, alpha
        self.compound_rep_tokens = normal(n, d)

        def projections(W: int) -> nn.ModuleList:
            first = nn.Linear(d, W)
            clones = nn.ModuleList(nn.Linear(d, W) for _ in layers)
            for clone in clones:
                clone.load_state_dict(first.state_dict())
            return clones

        self.compound_rep_tokens_r2vproj = projections(widths["image"])
        self.compound_rep_tokens_r2tproj = projections(widths["text"])
        self.proj_rep = nn.Parameter(widths["image"] ** -0.5 * torch.randn(widths["image"], dim))

    def public_name(self, name):
        """Return the public name: the head is in the image encoder, the rest in another module."""
        return f"{'image_encoder' if name == 'proj_rep' else 'representation_learner'}.{name}"

    def blocks(self, side):
        """Return the tokens that enter a side's blocks."""
        text = side == "text"
        maps = self.compound_rep_tokens_r2tproj if text else self.compound_rep_tokens_r2vproj
        return {
            layer - 1: Added(enter=project(self.compound_rep_tokens))
            for layer, project in zip(self.layers, maps, strict=True)
        }

    def logits_of_tokens(self, image, text, scale) -> torch.Tensor:
        """Return l^r = s z^r . h, z^r the projected mean of the last states of the tokens."""
        z = F.normalize(image.states[:, 0, 1:].float().mean(1) @ self.proj_rep, dim=-1)
        return scale * z @ text.h[0].float().T

    def logits(self, logits, image, text, scale):
        """Return ALPHA l + (1 - ALPHA) l^r for the classes of the training, and l for others."""
        if not self.own_classes:
            return logits
        other = self.logits_of_tokens(image, text, scale)
        return self.alpha * logits + (1 - self.alpha) * other


@register
class MMRL(Method):
    """Tokens that both encoders share enter their later blocks; a second image head reads them.

    L = ALPHA CE(l) + (1 - ALPHA) CE(l^r) + REG_WEIGHT (d(z, z0) + d(h, h0)), d = 1 - mean cosine,
    l the logits of CLIP's head and l^r those of the second one (docs/adaptation.md). An evaluation
    combines both heads on the classes of the training, and uses only CLIP's head on other classes.
    Our checkpoints name the classes of the training; for a public checkpoint TASK decides, by the
    rule of the public code.
    """

    node = "MMRL"
    checkpoint = "MultiModalRepresentationLearner"
    dead_weights = ("prompt_embeddings", "representation_learner.prompt_embeddings")
    training_only = ("REG_WEIGHT", "TASK", "SUBSAMPLE_CLASSES")
    outside = {"TASK": "TASK", "SUBSAMPLE_CLASSES": "DATASET.SUBSAMPLE_CLASSES"}

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node, and those that the public code keeps elsewhere."""

        ALPHA: float = 0.7
        REG_WEIGHT: float = 1.0
        REP_LAYERS: list[int] = field(default_factory=lambda: [6, 7, 8, 9, 10, 11, 12])
        REP_DIM: int = 512
        N_REP_TOKENS: int = 5
        SCALE: float = 0.0  # of the logits; 0 takes the CLIP's own; the public code has 100
        TASK: str = "B2N"  # or FS, CD
        SUBSAMPLE_CLASSES: str = "all"

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        check_name("TASK", settings.TASK, ("B2N", "FS", "CD"))
        layers = settings.REP_LAYERS
        if not layers or sorted(set(layers)) != list(layers) or layers[0] < 1:
            raise UserError(
                f"REP_LAYERS is {list(layers)} but must be numbers of blocks in rising order, 1 or "
                "more"
            )
        for key in ("REP_DIM", "N_REP_TOKENS"):
            if getattr(settings, key) < 1:
                raise UserError(f"{key} is {getattr(settings, key)}: at least 1 is needed")
        if not 0 <= settings.ALPHA <= 1:
            raise UserError(f"ALPHA is {settings.ALPHA} but must be in [0, 1]")
        states = settings.N_REP_TOKENS
        return PromptSpec(M=0, N=0, beta=0, score="cosine", states=states, untouched=True)

    def setup(self, clip_model, classnames, dataset):
        """Make the tokens and their head, and the teacher, which has the same sentence."""
        settings = self.settings
        self.model.set_scale(settings.SCALE)
        for side in SIDES:
            depth = len(blocks_of(clip_model, side))
            if settings.REP_LAYERS[-1] > depth:
                raise UserError(
                    f"TRAINER.MMRL.REP_LAYERS has {settings.REP_LAYERS[-1]} but the {side} encoder "
                    f"has {depth} blocks: name only these"
                )
        self.model.parts = Representation(
            settings.REP_LAYERS,
            settings.N_REP_TOKENS,
            settings.REP_DIM,
            {side: blocks_of(clip_model, side)[0].attn.embed_dim for side in SIDES},
            clip_model.text_projection.shape[1],
            settings.ALPHA,
        )
        self.teacher = Teacher(clip_model, classnames, [template_of(ZERO_SHOT, dataset)])

    def loss(self, output, batch):
        """Return the terms of both heads, and the distances from the untouched CLIP."""
        settings, scale = self.settings, self.model.logit_scale
        own = scale * output.image.z[:, 0].float() @ output.text.h[0].float().T
        parts = cast(Representation, self.model.parts)
        other = parts.logits_of_tokens(output.image, output.text, scale)
        z0 = output.image.untouched[:, 0].float()
        return {
            "ce": settings.ALPHA * F.cross_entropy(own, batch.labels),
            "ce_rep": (1 - settings.ALPHA) * F.cross_entropy(other, batch.labels),
            "reg_image": settings.REG_WEIGHT * apart(output.image.z[:, 0], z0),
            "reg_text": settings.REG_WEIGHT * apart(output.text.h[0], self.teacher.h),
        }

    def load_checkpoint(self, checkpoint, classnames):
        """Load as every method does; without class names in it, TASK says if they are the same."""
        super().load_checkpoint(checkpoint, classnames)
        if checkpoint.get("classnames") is None:
            task, settings = self.settings.TASK, self.settings
            self.model.parts.own_classes = (
                task == "FS"
                or (task == "B2N" and settings.SUBSAMPLE_CLASSES == "base")
                or (task == "CD" and settings.dataset == "ImageNet")
            )
