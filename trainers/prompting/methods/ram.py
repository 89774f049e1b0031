"""RAM (Tan et al., CVPR 2025).

Recover and Match: Open-Vocabulary Multi-Label Recognition through Knowledge-Constrained Optimal
Transport.

Letters: B images, K classes, P patches, W and D widths of the image encoder and of features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.staged import Staged
from ..checkpoint.public import Public
from ..encoders.added import Added
from ..encoders.sentences import write_sentences
from ..encoders.sides import need_open
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder, project_values
from ..method import Method, Output
from ..node import Fraction, From1, NotNegative, Positive
from ..registry import register
from ..teacher import Teacher
from ..transport.released import sinkhorn_released

TEMPLATE = "A photo of a {}."
ROWS, SHARP = 0.1, 20.0  # temperature of the rows' masses; of the teacher's softmax over patches
TOLERANCE, ITERATIONS = 1e-3, 100  # of the solver


@register
class RAM(Staged, Method):
    """Patches of adapted V-V attention, which transport matches with the classes of an image.

    Tokens are learned in blocks DEPTH_TEXT and DEPTH_VISION, and beside the latter adapters of the
    V-V path (CLIP Surgery), which mix neighbouring patches and read the classes. With cosines S_pk
    of patches and classes, plan T of entropy OT_REG, and masses softmax_p(max_k S / 0.1), 1 / K:

        local_k = sum_p T_pk S_pk / temperature_loc,   global_k = z . h_k / temperature

    The cost is 1 - softmax_k(s S). In training, a frozen CLIP constrains it: - OT_REGSC log q is
    added, and OT_REGSC to the entropy; q = softmax_p(20 softmax_k(s S0)), where a class is absent
    its least in the batch. L is MMC of both: -log softmax over all images and classes of a batch,
    a mean over its present pairs. The score is the mean of both softmaxes over classes, whose
    logarithms are the logits. Labels must be known. EMA is the decay of a mean over steps.

    **Published.** COCO: the defaults, 6 epochs, batch 32. NUS-WIDE: TEMPERATURE 2e-4, DEPTH_TEXT 6
    to 11. AdamW at 5e-5, at 5e-6 for adapters, and SGD at 1e-3 for tokens.

    **Differences.** The solver stops for each image, not for a whole batch. BatchNorm's running
    values are saved. The mean over steps begins once; EMA_RESTART begins it in each epoch, as the
    public code does.

    **Checkpoint.** Names of the public code, which does not save BatchNorm's running values.
    """

    node = "RAM"
    public = Public(folder="RAM", submodule="")
    several = "ranks"
    needs_all_labels = True
    joint = False
    rates = {"adapters.": 0.1, "tokens.": 20.0}
    sgd = ("tokens.",)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node; blocks count from 0."""

        DEPTH_VISION: list[int] = field(default_factory=lambda: [9, 10, 11])
        DEPTH_TEXT: list[int] = field(default_factory=lambda: [9, 10, 11])
        VISION_ADAPT: From1 = 8
        TEXT_CTX: From1 = 4
        KERNEL_SIZE: From1 = 3
        TEMPERATURE: Positive = 2e-3
        OT_REG: Positive = 0.1
        OT_REGSC: NotNegative = 0.05
        EMA: Fraction = 0.9997
        EMA_RESTART: bool = False

    settings: Settings
    tokens: Any
    adapters: Any
    average: Any

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; the image encoder returns patches by V-V attention."""
        need_open(clip_model, "text", "lets tokens enter the text encoder")
        sentences = write_sentences(clip_model, [TEMPLATE], classnames)
        return TextEncoder(clip_model, sentences), ImageEncoder(clip_model.visual, vv="clean")

    def build(self, clip_model, classnames, dataset):
        """Make tokens, adapters and temperatures, the mean over steps, and the frozen CLIP."""
        s, W = self.settings, self.widths
        sizes = ("image", s.DEPTH_VISION, s.VISION_ADAPT), ("text", s.DEPTH_TEXT, s.TEXT_CTX)
        self.tokens = nn.ModuleDict({
            side: nn.ParameterDict({str(i): 0.02 * torch.randn(n, W[side]) for i in blocks})
            for side, blocks, n in sizes
        })  # fmt: skip
        self.adapters = nn.ModuleDict({
            str(i): LocalAdapter(W["image"], self.width, s.KERNEL_SIZE) for i in s.DEPTH_VISION
        })  # fmt: skip
        self.temperature = nn.Parameter(1 / self.logit_scale.detach().clone())
        self.temperature_loc = nn.Parameter(torch.tensor(s.TEMPERATURE))
        self.average = Average(self.averaged()) if s.EMA else None
        self.teacher = Teacher(clip_model, classnames, [TEMPLATE])
        # in a tuple, so that its parameters are not those of the method
        self.frozen = (ImageEncoder(clip_model.visual, vv="clean"),)
        self.classes = None  # (K, D), which the adapters read

    def blocks(self, side):
        """Return the tokens of blocks, and the adapters next to those of images."""
        added = {int(i): Added(enter=tokens) for i, tokens in self.tokens[side].items()}
        if side == "image":
            for i, adapter in self.adapters.items():
                local = partial(adapter, classes=self.classes)
                added[int(i)] = added[int(i)]._replace(local=local)
        return added

    def output(self, images):
        """Return the output: of the classes first, which the images' adapters read."""
        text = self.text_features(self.contexts())
        self.classes = text.raw[0].float()
        image = self.image_features(images, self.contexts())
        self.classes = None
        return Output(self.compare(image, text), image, text)

    def image_features(self, images, contexts):
        """Return the features, with the patches of the V-V path as r."""
        features = super().image_features(images, contexts)
        r = project_values(self.image_encoder.visual, features.values)  # type: ignore[arg-type]
        return features._replace(r=r, values=None)

    def scores(self, image, text, labels=None, images=None):
        """Return global and local logits (B, K); with labels and images, those of training."""
        h = text.h[0]
        S = image.r[:, 0].float() @ h.T
        with torch.no_grad():
            C, reg = 1 - (self.logit_scale * S).softmax(-1), self.settings.OT_REG
            if labels is not None:
                q = self.knowledge(images)
                q = torch.where(labels[:, None] == 1, q, q.min())
                C, reg = C - self.settings.OT_REGSC * q.log(), reg + self.settings.OT_REGSC
            rows = (S.amax(2) / ROWS).softmax(-1)
            T = sinkhorn_released(C, rows, None, reg, TOLERANCE, ITERATIONS, group_dims=0).plan
        local = (T * S).sum(1) / self.temperature_loc
        return image.z[:, 0] @ h.T / self.temperature, local

    @torch.no_grad()
    def knowledge(self, images: torch.Tensor) -> torch.Tensor:
        """Return q (B, P, K), the shares of patches by the frozen CLIP."""
        encoder = self.frozen[0]
        r = project_values(encoder.visual, encoder(images).values)[:, 0]  # type: ignore[arg-type]
        return (SHARP * (self.logit_scale * r @ self.teacher.h.T).softmax(-1)).softmax(1)

    def logits(self, image, text):
        """Return the logarithm of the mean of both softmaxes, (B, K)."""
        both = torch.stack(self.scores(image, text)).log_softmax(-1)
        return both.logsumexp(0) - math.log(2)

    def loss(self, output, batch):
        """Return MMC of the global and of the local logits."""
        labels = batch.labels
        if not self.settings.several:
            labels = F.one_hot(labels, self.num_classes)
        found = self.scores(output.image, output.text, labels, batch.images)
        names = "global", "local"
        return {n: multi_matching(x, labels) for n, x in zip(names, found, strict=True)}

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return what the mean over steps is of: what is learned, and BatchNorm's buffers."""
        buffers = {f"adapters.{name}": x for name, x in self.adapters.named_buffers()}
        return {
            **dict(self.own_parameters()),
            **{n: x for n, x in buffers.items() if x.is_floating_point()},
        }

    def begin_stage(self, stage):
        """Begin the mean with the values before the first step."""
        if self.average is not None:
            self.average.add(self.averaged(), 0.0)

    def after_step(self):
        """Add the step to the mean."""
        if self.average is not None:
            self.average.add(self.averaged(), self.settings.EMA)

    def after_epoch(self, epoch, last):
        """Take the mean after the last epoch; or begin a new one."""
        if self.average is not None and epoch == last:
            self.average.give(self.averaged())
        elif self.average is not None and self.settings.EMA_RESTART:
            self.average.add(self.averaged(), 0.0)

    def public_name(self, name):
        """Return the name of a parameter in the public code, whose blocks have it."""
        part, *rest = name.split(".")
        block = "transformer.resblocks"
        if part == "adapters":
            return ".".join(["clip_model.visual", block, rest[0], "conv_adapter", *rest[1:]])
        if part == "tokens":
            side, i = rest
            of_text = side == "text"
            end = "deep_embeds" if of_text else "adapt_embeds"
            return ".".join(["clip_model" if of_text else "clip_model.visual", block, i, end])
        return name


def multi_matching(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return MMC: -log softmax over all images and classes, a mean over the present pairs."""
    present = (labels == 1).to(logits.dtype)
    rows = logits.flatten().log_softmax(0).view_as(logits)
    return -(present * rows).sum() / present.sum().clamp_min(1)


class LocalAdapter(nn.Module):
    """Adds to patches what their neighbours and the classes say: 1 x 1 and 3 x 3 convolutions.

    Both see the classes by attention without weights; their channels' mean and largest value say
    how much each counts at a patch.
    """

    def __init__(self, width: int, dim: int, kernel_size: int):
        super().__init__()
        for k, size in ((1, 1), (2, 3)):
            conv = nn.Conv2d(width, dim, size, padding=size // 2, bias=False)
            self.add_module(
                f"conv_adapter_layers{k}", nn.Sequential(conv, nn.BatchNorm2d(dim), nn.GELU())
            )
            self.add_module(f"adapter_norm_q{k}", nn.LayerNorm(dim))
        self.adapter_norm_kv = nn.LayerNorm(dim)
        padding = kernel_size // 2
        self.conv_adapter_layers = nn.Conv2d(2, 2, kernel_size, padding=padding, bias=False)
        self.conv_adapter_final = nn.Conv2d(dim, width, 1, bias=False)

    def forward(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return (B, P, W) for the states x (B, P, W) of patches, and classes (K, D)."""
        side = round(x.shape[1] ** 0.5)
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        kv, streams = self.adapter_norm_kv(classes), []
        for k in (1, 2):
            y = getattr(self, f"conv_adapter_layers{k}")(grid).flatten(2)  # (B, D, P)
            query = getattr(self, f"adapter_norm_q{k}")(y.transpose(1, 2))
            seen = (query @ kv.T / kv.shape[1] ** 0.5).softmax(-1) @ kv
            streams.append((y + seen.transpose(1, 2)).view(*y.shape[:2], side, side))
        both = torch.cat(streams, 1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], 1)
        gates = self.conv_adapter_layers(pooled).sigmoid()
        mixed = streams[0] * gates[:, :1] + streams[1] * gates[:, 1:]
        out: torch.Tensor = self.conv_adapter_final(mixed).flatten(2).transpose(1, 2)
        return out


class Average(nn.Module):
    """The exponential mean of tensors over steps, in buffers, so that a run can resume."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__()
        for name, x in tensors.items():
            self.register_buffer(name.replace(".", "/"), torch.zeros_like(x, dtype=torch.float32))

    @torch.no_grad()
    def add(self, tensors: Mapping[str, torch.Tensor], decay: float) -> None:
        """Add the tensors of a step; a decay of 0 begins anew."""
        for name, x in tensors.items():
            self.get_buffer(name.replace(".", "/")).lerp_(x.float(), 1 - decay)

    @torch.no_grad()
    def give(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the tensors to the mean."""
        for name, x in tensors.items():
            x.copy_(self.get_buffer(name.replace(".", "/")))
