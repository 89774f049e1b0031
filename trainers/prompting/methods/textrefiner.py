"""TextRefiner (Xie et al., AAAI 2025; arXiv:2412.08176).

TextRefiner: Internal Visual Feature as Efficient Refiner for Vision-Language Models Prompt Tuning.

Letters: B images, P patches, K classes, M vectors of the cache, D the width; z and h normalised
features of images and classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.files import read_checkpoint
from ..checkpoint.public import Public, PublicFiles
from ..encoders.blocks import class_attention
from ..encoders.vision import ImageEncoder
from ..full_precision import no_autocast
from ..node import From1, NotNegative, Positive
from ..registry import register
from .coop import CoOp

MOMENTUM, TOP = 0.8, 5  # constants of the public code
FOLDER, ITEM = "Memory", "memory_item"  # of the public code: a second folder, its cache


class Memory(nn.Module):
    """A cache c (M, D) of unit vectors, and the map E of what classes read from it."""

    cache: torch.Tensor

    def __init__(self, M: int, D: int):
        super().__init__()
        # alike for all seeds, or it would look like a buffer of the classes where K is M or D
        start = torch.rand(M, D, generator=torch.Generator().manual_seed(0))
        self.register_buffer("cache", F.normalize(start, dim=-1))
        self.extractor = nn.Linear(2 * D, D, bias=False)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return E [h; f], f the mean of the cache by its softmax similarity to h, (K, D)."""
        f = (h @ self.cache.T).softmax(-1) @ self.cache
        out: torch.Tensor = self.extractor(torch.cat([h, f], -1))
        return out

    @torch.no_grad()
    def write(self, q: torch.Tensor) -> None:
        """Move each vector to the normalised tokens q (n, D) that are most similar to it."""
        c = self.cache
        S = q @ c.T
        chosen = F.one_hot(S.argmax(1), len(c)).to(S.dtype)
        share = (S - S.max(0).values).exp()  # the softmax over all tokens, divided by its largest
        moved = MOMENTUM * c + (1 - MOMENTUM) * (share * chosen).T @ q
        # not in place: the backward pass reads the old cache
        self.cache = F.normalize(torch.where(chosen.any(0)[:, None], moved, c), dim=-1)


@register
class TextRefiner(PublicFiles, CoOp):
    """CoOp's context; a cache of image tokens refines the features of classes.

        f_k = sum_i softmax_i(h_k . c_i) c_i,   g_k = h_k + ALPHA E [h_k; f_k]
        logits = s z . g

    The cache c has MEMORY_SIZE unit vectors, E (D, 2 D) is learned, g is not normalised. In
    training, u are the outputs of the last block at CLS and all P patches, projected, and v =
    Conv(ReLU(BatchNorm(Conv u))), with convolutions of size 1. Of each image, v of CLS, of the 5
    patches to which CLS attends most in the last block, and the mean of v are classified by h:

        L = CE(s z . g) + CE(s v . h) / BALANCE + DISTILL mean |n(g) - h|

    Each step then writes q = n(v): token j belongs to the vector i for which S_ji = q_j . c_i is
    largest, a_ji = softmax_j(S_ji) / max_j softmax_j(S_ji), and vectors that have tokens become

        c_i <- n(0.8 c_i + 0.2 sum_j a_ji q_j)

    which forgets the past of a vector with many tokens in one step. An evaluation reads only.

    **Published.** 4 words `a photo of a`; SGD, rate 0.002 (for some data sets, which are not named,
    1e-3 or 8e-4), batch 32, 10 epochs, crop scale 0.08-1; base-to-new: the best epoch on validation
    images, on ImageNet here the last, as its validation images are its test images.

    **Checkpoint.** `prompt_learner.ctx`, `mid_image_trans.conv1.{0,1,3}.{weight,bias}`,
    `memory.extractor.weight`; the cache and BatchNorm's statistics are buffers. Of the public code,
    the folder of a run is read, which holds `prompt_learner` and `Memory`. It cannot read ours.

    **Differences.** The cache is float32, and starts alike for all seeds. PREC amp works.
    """

    public = Public(
        dead=("tokenized_prompts", "mid_image_trans.conv1.1."),  # its statistics
        outside={
            key: f"TRAINER.TF.{key}" for key in ("BALANCE", "DISTILL", "MEMORY_SIZE", "ALPHA")
        },
    )
    training_only = ("BALANCE", "DISTILL")

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of CoOp's node, and those that the public code takes as arguments."""

        BALANCE: Positive = 50.0
        DISTILL: NotNegative = 20.0
        MEMORY_SIZE: From1 = 25
        ALPHA: Positive = 0.2

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; that of images returns all its last states, and those before."""
        text, _ = super().encoders(clip_model, classnames, dataset)
        image = ImageEncoder(clip_model.visual, states=1)  # refuses what has no blocks or CLS
        before = len(clip_model.visual.transformer.resblocks) - 2
        image.states, image.inner = image.num_patches, [before]
        return text, image

    def build(self, clip_model, classnames, dataset):
        """Make the context, the cache with its map, and the map of tokens."""
        super().build(clip_model, classnames, dataset)
        D = self.width
        layers = nn.Conv2d(D, D, 1), nn.BatchNorm2d(D), nn.ReLU(), nn.Conv2d(D, D, 1)
        self.mid_image_trans = nn.ModuleDict({"conv1": nn.Sequential(*layers)})
        self.memory = Memory(self.settings.MEMORY_SIZE, D)

    def refine(self, h: torch.Tensor) -> torch.Tensor:
        """Return g (K, D) of h (K, D)."""
        g: torch.Tensor = h + self.settings.ALPHA * self.memory(h)
        return g

    def logits(self, image, text):
        """Return s z . g."""
        return self.logit_scale * image.z[:, 0] @ self.refine(text.h[0]).T

    def tokens(self, states: torch.Tensor) -> torch.Tensor:
        """Return v (B, 1 + P, D) of the last states (B, 1 + P, W)."""
        u = self.image_encoder.shape.alone(self.image_encoder.visual, states)
        v = self.mid_image_trans["conv1"](u.flatten(0, 1)[:, :, None, None])
        return v.flatten(1).view_as(u)

    def local(self, v: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the rows of v that are classified, (B, 2 + TOP, D).

        `before` (B, 1 + P, W) is what enters the last block.
        """
        attention = class_attention(self.image_encoder.visual.transformer.resblocks[-1], before)
        top = attention.topk(min(TOP, attention.shape[1])).indices[..., None]
        patches = v[:, 1:].gather(1, top.expand(-1, -1, v.shape[-1]))
        return torch.cat([v[:, :1], patches, v.mean(1, keepdim=True)], 1)

    def loss(self, output, batch):
        """Return the cross-entropies of images and of tokens, and |n(g) - h|; write the cache."""
        with no_autocast(output.logits.device.type):
            settings, image, h = self.settings, output.image, output.text.h[0].float()
            v = self.tokens(image.states[:, 0].float())
            rows = self.local(v, next(iter(image.inner.values()))[:, 0].float())
            of_each = batch.labels.repeat_interleave(rows.shape[1])
            terms = {
                "global": F.cross_entropy(output.logits, batch.labels),
                "local": F.cross_entropy(self.logit_scale * rows.flatten(0, 1) @ h.T, of_each),
                "feature": F.l1_loss(F.normalize(self.refine(h), dim=-1), h),
            }
            more = terms["local"] / settings.BALANCE + settings.DISTILL * terms["feature"]
            if self.training:
                self.memory.write(F.normalize(v.flatten(0, 1), dim=-1))
            return {"loss": terms["global"] + more, **terms}

    def complete(self, saved, path):
        """Add the cache and its map, which the public code saves in a folder of its own."""
        file = Path(path).parent.parent / FOLDER / Path(path).name
        if saved.method is not None or not file.is_file():
            return saved
        memory = read_checkpoint(str(file))
        state = {f"memory.{name}": value for name, value in memory["state_dict"].items()}
        buffers = self.own_state() | {"memory.cache": memory[ITEM]}
        learned = {**saved.state_dict, **state}
        return replace(saved, state_dict=learned, method=buffers, trainer=type(self).__name__)
