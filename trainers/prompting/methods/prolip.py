"""ProLIP (Fahes et al.; arXiv:2410.05270).

CLIP's Visual Embedding Projector is a Few-Shot Cornucopia.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.fitting import descent, keep_best, train
from ..capabilities.on_support import OneView
from ..capabilities.staged import Staged
from ..checkpoint.public import Public, PublicFiles
from ..checkpoint.saved import Saved
from ..encoders.class_text import MEANS, class_text
from ..encoders.sentences import OneTemplate, fixed_sentence
from ..encoders.sides import need_open
from ..encoders.templates import IMAGENET
from ..encoders.text import TextFeatures
from ..encoders.vision import CLASS_TOKEN, ImageEncoder, ImageFeatures
from ..errors import need, not_negative, one_of
from ..full_precision import gradients_of, no_autocast
from ..method import Method
from ..node import From1, NotNegative
from ..registry import register

POWERS = {"1/N": 1, "1/N^2": 2, "1/N2": 2}  # lambda as a function of the shots; public spelling
RATES = tuple(10.0**-i for i in range(2, 9))  # of the search, the outer loop
WEIGHTS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.0)  # its lambdas
EPS = 1e-4  # of Adam


@register
class ProLIP(PublicFiles, OneView, Staged):
    """The last projection of the image encoder, with a penalty to its start; nothing else learns.

        z_j = normalise(x_j P),   L = CE(SCALE z . h) + LAMBDA sum (P - P_0)^2

    x_j is the state of the class token after `ln_post`, P_0 CLIP's projection (W, D); of a ResNet,
    x_j is what the attention pool projects, and the bias stays. h_k is the feature of one
    sentence; on ImageNet and its variants, the normalised mean of the normalised features of
    seven. A step takes all training images in one augmented view: views 1, 2, .., V - 1, 0, 1, ..,
    of V = AUG_VIEWS. A view is made in the epoch that reads it; the public code stores all.

    **Keys.** LAMBDA `1/N`, `1/N^2` (N shots) or a number. SIDE `text` learns `text_projection`
    instead: h_k = normalise(t_k P), t_k the mean over the sentences. CTX_INIT is a sentence for
    every data set. SCALE 0 is the CLIP's own. SEARCH tries seven rates from 1e-2 to 1e-8 times
    seven LAMBDA (10, 1, .., 1e-4, 0) in whole trainings after that of the run, and keeps the first
    best on the validation images.

    **Published.** Without a search: rate 1e-5, LAMBDA 1/N, 300 epochs and views, for every data
    set; CTX_INIT `a photo of a` is better on new classes (16 shots, ViT-B/16: 74.78 for 73.86;
    on base 83.90 for 84.01). Few-shot and transfer (4 shots of ImageNet) are published with RN50
    and ten seeds.

    **Differences.** On a GPU the public code keeps P and Adam in half precision, in which entries
    above 1/32 do not move at rate 1e-5. Here they are float32. It searches on N validation images
    a class: that is `DATASET.VALIDATION_SHOTS -1`.

    **Checkpoint.** `vit_proj`; of ResNets `linear.weight`, `linear.bias`. Of the public code:
    `<dataset>_seed<n>.pth`.
    """

    node = "PROLIP"
    rules = MEANS
    public = Public(
        folder="prolip",
        outside={
            "LR": "OPTIM.LR",
            "TRAIN_EPOCH": "OPTIM.MAX_EPOCH",
            "SHOTS": "DATASET.NUM_SHOTS",
        },
    )
    public_files = ("*.pth",)
    training_only = ("LR", "TRAIN_EPOCH", "SHOTS", "LAMBDA", "AUG_VIEWS", "SEARCH")
    searches = property(attrgetter("settings.SEARCH"))
    support_passes = property(attrgetter("settings.AUG_VIEWS"))

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the public code, and its constants."""

        LAMBDA: object = "1/N"  # or 1/N^2, or a number
        AUG_VIEWS: From1 = 300
        SEARCH: bool = False
        SIDE: Literal["visual", "text"] = "visual"
        CTX_INIT: OneTemplate = ""
        SCALE: NotNegative = 100.0  # of the logits; 0 takes the CLIP's own
        LR: float = 1e-5
        TRAIN_EPOCH: int = 300
        SHOTS: int = 16

        def __post_init__(self) -> None:
            if self.LAMBDA not in POWERS:
                try:
                    value = float(str(self.LAMBDA))
                except ValueError:
                    one_of("LAMBDA", self.LAMBDA, ("1/N", "1/N^2", "a number"))
                not_negative("LAMBDA", value)

        def weight(self) -> float:
            """Return lambda."""
            if self.LAMBDA not in POWERS:
                return float(str(self.LAMBDA))
            need(
                self.SHOTS >= 1,
                f"LAMBDA is {self.LAMBDA}, but DATASET.NUM_SHOTS is {self.SHOTS}: set it to the "
                "number of shots, or LAMBDA to a number",
            )
            return float(self.SHOTS) ** -POWERS[str(self.LAMBDA)]

    settings: Settings
    start: torch.Tensor

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; the side that learns ends before its projection."""
        words, of_text = self.settings.CTX_INIT, self.settings.SIDE == "text"
        usual = IMAGENET if dataset.startswith("ImageNet") else ()
        own, rule = [fixed_sentence(words)] if words else usual, MEANS[of_text]
        given = class_text(self.settings, classnames, dataset, own, rule)
        need(
            given.rule == rule or not of_text,
            f"DATASET.SENTENCES_RULE is {given.rule}, but the projection of the text is learned, "
            f"so that sentences are averaged before it: set {rule}",
        )
        text = given.encoder(clip_model)
        if of_text:
            need_open(clip_model, "text", "learns the projection of the text")
            none = torch.eye(len(text.text_projection)).to(text.text_projection)
            text.text_projection = nn.Parameter(none, requires_grad=False)
        return text, ImageEncoder(clip_model.visual, states=None if of_text else 0)

    def build(self, clip_model, classnames, dataset):
        """Make the projection, as CLIP has it."""
        visual, self.epochs = clip_model.visual, self.settings.TRAIN_EPOCH
        if self.settings.SIDE == "text":
            self.text_projection = _copy(clip_model.text_projection)
        elif self.image_encoder.is_vit:
            need(
                self.image_encoder.shape is CLASS_TOKEN,
                "ProLIP learns the projection of the class token, from which this backbone does "
                "not read its feature: choose another one, or TRAINER.PROLIP.SIDE text",
            )
            self.vit_proj = _copy(visual.proj)
            self.row_width = len(self.vit_proj)
        else:
            self.linear = deepcopy(visual.attnpool.c_proj).float()
            self.linear.weight.requires_grad_()
            self.row_width = self.linear.in_features
        self.register_buffer("start", self.matrix.detach().clone(), persistent=False)

    @property
    def matrix(self) -> nn.Parameter:
        """P, as the CLIP has it: (W, D), of a ResNet (D, W)."""
        (matrix,) = (p for _, p in self.own_parameters() if p.requires_grad)
        return matrix

    def clip_features(self, images):
        """Return x (B, W), float32: before the projection that learns."""
        if self.settings.SIDE == "text" or images.shape[1:] == (self.row_width,):
            return super().clip_features(images)
        self.image_encoder.check(images)
        with gradients_of(images):
            states = self.image_encoder(images).states
        assert states is not None, "it was asked for them"
        return states[:, 0, 0].float()

    def image_features(self, images, contexts):
        """Return n(x P)."""
        if self.settings.SIDE == "text":
            return super().image_features(images, contexts)
        x = self.clip_features(images)
        with no_autocast(x.device.type):
            raw = x @ self.vit_proj if self.image_encoder.is_vit else self.linear(x)
        return ImageFeatures(F.normalize(raw, dim=-1)[:, None], None, raw=raw[:, None])

    def text_features(self, contexts):
        """Return the normalised mean over the sentences of each class."""
        text = super().text_features(contexts)
        if self.settings.SIDE == "text":
            with no_autocast(text.raw.device.type):
                raw = text.raw.mean(0, keepdim=True) @ self.text_projection
        else:
            raw = text.h.mean(0, keepdim=True)
        return TextFeatures(F.normalize(raw, dim=-1), raw)

    def loss(self, output, batch):
        """Return the cross-entropy, and the penalty without its weight."""
        return self.penalise(output.logits, batch.labels, self.settings.weight())

    def penalise(
        self, logits: torch.Tensor, labels: torch.Tensor, weight: float
    ) -> dict[str, torch.Tensor]:
        """Return the terms of the loss with this lambda."""
        ce = F.cross_entropy(logits, labels)
        penalty = (self.matrix - self.start).square().sum()
        return {"loss": ce + weight * penalty, "ce": ce, "penalty": penalty}

    # ------------------------------------------------------------------ whole trainings

    def take_views(self, views, labels):
        """Keep the views for the search."""
        self.views_taken = views, labels

    def take_support(self, features, labels):
        """Train on views in memory."""
        self.take_views(features, labels)
        self.fit(self.settings.LR, self.settings.weight())

    def after_epoch(self, epoch, last):
        """Note the number of epochs."""
        self.epochs = last

    def fit(self, rate: float, weight: float) -> None:
        """Train from the start, with this rate and lambda."""
        (views, labels), P = self.views_taken, self.matrix
        contexts = self.contexts()
        fixed = None if self.settings.SIDE == "text" else self.text()

        def loss(epoch: int) -> torch.Tensor:
            image = self.image_features(views[epoch % len(views)], contexts)
            logits = self.compare(image, fixed or self.text_features(contexts))
            return self.penalise(logits, labels, weight)["loss"]

        optimizer = torch.optim.Adam([P], rate, eps=EPS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        step = descent(loss, optimizer, schedule)
        for _ in train({"P": P}, {"P": self.start}, step, self.epochs):
            pass

    def take_validation(self, features, labels):
        """Train with every rate and lambda, and keep the first best."""

        def trainings() -> Iterator[tuple[float, float]]:
            for rate, weight in product(RATES, WEIGHTS):
                self.fit(rate, weight)
                yield rate, weight

        @torch.no_grad()
        def right() -> int:
            return int((self.output(features).logits.argmax(1) == labels).sum())

        best, most = keep_best({"P": self.matrix}, trainings(), right)
        print(
            f"Search: rate {best[0]:g} and lambda {best[1]:g} classify {most} of {len(labels):,} "
            "validation images correctly"
        )

    # ------------------------------------------------------------------ public files

    def read_public(self, files):
        """Return the state in a public file."""
        return Saved(state_dict=dict(files["*.pth"]))

    def write_public(self):
        """Return the state for a public file."""
        return {"*.pth": self.public_state_dict()}


def _copy(projection: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(projection.detach().float().clone())
