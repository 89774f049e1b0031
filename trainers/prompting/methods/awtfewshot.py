"""AWT, few-shot (Zhu et al., NeurIPS 2024; arXiv:2407.04603).

AWT: Transferring Vision-Language Models via Augmentation, Weighting, and Transportation.

Letters: B images in V views, K classes, N sentences about each, D the width of features, W of an
encoder.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.public import Public
from ..encoders.added import SIDES, Added, blocks_of
from ..encoders.drawn import DrawnRows
from ..encoders.vision import ImageEncoder, ImageFeatures
from ..full_precision import no_autocast
from ..method import Batch, Method, Output
from ..node import From1, NotNegative
from ..prompts import Contexts
from ..registry import register
from .awt import AWT

PLACES = {"adapt_attn": "after_attention", "adapt_mlp": "after_mlp"}


class Adapter(nn.Module):
    """A bottleneck c Up(GELU(Down y)), (..., W) -> (..., W), which starts as 0."""

    def __init__(self, W: int, hidden: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.down_proj, self.up_proj = nn.Linear(W, hidden), nn.Linear(hidden, W)
        nn.init.xavier_uniform_(self.down_proj.weight)
        for p in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(p)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Return what is added to y."""
        out: torch.Tensor = self.up_proj(F.gelu(self.down_proj(y)))
        return self.scale * out


@register
class AWTFewShot(AWT):
    """AWT with adapters in every block of both encoders, trained by its transport.

        x' = x + A(Attn(LN1 x)),   out = x' + A'(MLP(LN2 x')),   A(y) = y + c Up(GELU(Down y))

    Down: W to W / DOWN_RATE, 1 to 3 numbers, Up back, c a learned number. A step has 8 random views
    (DATALOADER.K_TRANSFORMS 8), the template and DESC_PER_BATCH - 1 sentences that are drawn for
    all classes together. With z0, h0 of the untouched CLIP and the logits of [AWT](#awt), at T 1:

        L = CE(logits) + W_IMAGE mean |z - z0| + W_TEXT mean |h - h0|

    There the solver stops for all images and classes together. A test is AWT's: NUM_VIEWS, all
    sentences, T. All adapters of a side start alike, Up and biases as 0, c as 1.

    **Published.** Batch 16, SGD, 5 epochs of linear warm-up; rate 0.002, 20 epochs, DOWN_RATE 384
    with 1 to 4 shots, 0.008, 25 and 256 with 8 and 16. DESC_PER_BATCH is 8, on ImageNet 4. fp16.

    **Checkpoint.** `{visual,text}_adapter_learner.adapt_{attn,mlp}.{i}.{down_proj,up_proj}.*`,
    `.scale`.

    **Cost.** A step encodes 8 views of each image twice, an evaluation NUM_VIEWS of each.
    """

    node = "AWTFEWSHOT"
    public = Public(folder="adapter_learners", submodule="adapter_learners")
    trains = True
    views = 8
    training_only = ("DESC_PER_BATCH", "W_IMAGE", "W_TEXT")

    @dataclass(frozen=True)
    class Settings(AWT.Settings):
        """The keys of the node."""

        DOWN_RATE: From1 = 384
        DESC_PER_BATCH: From1 = 8
        W_IMAGE: NotNegative = 10.0
        W_TEXT: NotNegative = 25.0

    settings: Settings
    text_encoder: DrawnRows

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with all sentences of each class."""
        text = self.sentences_about(classnames, dataset)
        count = self.settings.DESC_PER_BATCH
        return DrawnRows(clip_model, text, count), ImageEncoder(clip_model.visual)

    def build(self, clip_model, classnames, dataset):
        """Make the adapters."""
        super().build(clip_model, classnames, dataset)
        learners, rate = nn.ModuleDict(), self.settings.DOWN_RATE
        for side, name in zip(SIDES, ("text", "visual"), strict=True):
            blocks = blocks_of(clip_model, side)
            W = blocks[0].attn.embed_dim
            one = Adapter(W, max(1, W // rate))
            learners[f"{name}_adapter_learner"] = nn.ModuleDict(
                {place: nn.ModuleList(deepcopy(one) for _ in blocks) for place in PLACES}
            )
        self.adapter_learners = learners
        self.step: Batch | None = None

    def blocks(self, side):
        """Return the adapters of a side's blocks."""
        name = "visual" if side == "image" else side
        learner: Any = self.adapter_learners[f"{name}_adapter_learner"]
        pairs = zip(*(learner[place] for place in PLACES), strict=True)
        return {i: Added(after_attention=a, after_mlp=m) for i, (a, m) in enumerate(pairs)}

    @property
    def temperature(self):
        """T, which is 1 in training."""
        return 1.0 if self.training else self.settings.T

    @property
    def group(self):
        """None in training, for problems that stop together."""
        return None if self.training else 1

    def batch(self, images, labels, index=None):
        """Return a batch, and keep it: a step encodes all its views."""
        self.step = super().batch(images, labels, index)
        return self.step

    def views_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the views (V B, 3, H, W) of a step's images; without one, each V times."""
        step = self.step
        own = step is not None and step.images is images
        views = step.views if step is not None and own else [images] * self.views
        return torch.cat(views[: self.views])

    def image_features(self, images, contexts):
        """Return features z (B, V, D): in training of the views of a step."""
        rows = self.views_of(images) if self.training else images
        z = Method.image_features(self, rows, contexts).z[:, 0]
        return self.of_views(z.unflatten(0, (-1, len(images))).transpose(0, 1))

    @staticmethod
    def of_views(z: torch.Tensor) -> ImageFeatures:
        """Return features (B, V, D) as those of images."""
        return ImageFeatures(z, None, raw=z)

    def text_features(self, contexts):
        """Return the features (N, K, D) of the sentences that are drawn here, or of all."""
        if self.training:
            self.text_encoder.draw()
        return Method.text_features(self, contexts)

    def logits(self, image, text):
        """Return the logits of transport or, of one view that no step has, s z . n(mean_d h)."""
        if self.training:
            return self.transport(image.z, text.h.transpose(0, 1))[0]
        return self.logit_scale * image.z[:, 0] @ F.normalize(text.h.mean(0), dim=-1).T

    def loss(self, output, batch):
        """Return the cross-entropy, and the distances of features from those without adapters."""
        s, drawn = self.settings, self.text_encoder.drawn
        with torch.no_grad():
            z = self.image_encoder(self.views_of(batch.images)).z[:, 0]
            z0 = z.unflatten(0, (-1, len(batch.images))).transpose(0, 1)
            h0 = torch.stack([self.each[:, i] for i in drawn])  # a list as index is waited for
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "image": s.W_IMAGE * F.l1_loss(output.image.z.float(), z0.float()),
            "text": s.W_TEXT * F.l1_loss(output.text.h.float(), h0.float()),
        }

    @torch.no_grad()
    def predict(self, images):
        """Return the output for the images, from all views of each."""
        views = [images] if torch.is_tensor(images) else images
        z = [Method.image_features(self, view, Contexts()).z[:, 0] for view in views]
        image, text = self.of_views(torch.stack(z, 1)), self.text()
        with no_autocast(image.z.device.type):
            logits = self.match(image.z.float(), text.h.transpose(0, 1).float())
        return Output(logits, image, text)
