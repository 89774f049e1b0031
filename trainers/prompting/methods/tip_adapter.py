"""Tip-Adapter (Zhang et al., ECCV 2022; arXiv:2207.09519).

Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..beyond import PER_DATASET
from ..encoders.templates import IMAGENET
from ..encoders.text import TextFeatures
from ..errors import UserError
from ..method import Method, register
from ..model.parts import Parts
from ..spec import PromptSpec, need
from ..teacher import Teacher


class Cache(Parts):
    """Features of n training images, with labels: what is like them is of their class.

    Args:
        dim: D of the features.
        num_classes: K.
        trained: the keys are a parameter, `weight`, else a buffer, `keys`.
    """

    prefix = "adapter."
    keys: torch.Tensor
    values: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, dim: int, num_classes: int, trained: bool):
        super().__init__()
        self.trained = trained
        self.sentences: Teacher | None = None  # where there are several
        empty = torch.empty(0, dim)
        if trained:
            self.weight = nn.Parameter(empty)
        else:
            self.register_buffer("keys", empty)
        self.register_buffer("values", torch.empty(0, num_classes))
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.zeros(()))

    def key(self) -> torch.Tensor:
        """The keys (n, D)."""
        return self.weight if self.trained else self.keys

    def text(self, features: TextFeatures) -> TextFeatures:
        """The mean of the normalised features of several sentences, normalised."""
        if self.sentences is None:
            return features
        raw = self.sentences.h_each.mean(0, keepdim=True)
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)

    def likeness(self, a: torch.Tensor, beta: torch.Tensor | float) -> torch.Tensor:
        """sum_i exp(-beta (1 - a_ji)) values_ik (B, K), of cosines a (B, n) with the keys."""
        return torch.exp(beta * a - beta) @ self.values

    def logits(self, logits, image, text, scale):
        """SCALE z_j . h_k + alpha sum_i exp(-beta (1 - z_j . key_i)) values_ik."""
        if not len(self.values):
            raise UserError(
                "There is no cache of training images yet: train the method, load a run of it "
                "(--model-dir), or give `build_method` its `support`"
            )
        return logits + self.alpha * self.likeness(image.z[:, 0] @ self.key().T, self.beta)


@register
class TipAdapter(Method):
    """Zero-shot logits, and those of a cache of the training images; nothing is trained.

    A key is the mean of an image's features under AUGMENT_EPOCH augmentations. alpha and beta are
    INIT_ALPHA and INIT_BETA or, with SEARCH_HP, those with which most validation images are right
    (docs/adaptation.md).
    """

    node = "TIP_ADAPTER"
    checkpoint = "tip_adapter"
    public_files: ClassVar[tuple[str, ...]] = ("keys_*.pt", "values_*.pt")
    trains = False
    class_bound = True
    ignored = ("LR", "SHOTS", "TRAIN_EPOCH", "LOAD_CACHE", "LOAD_PRE_FEAT")
    support_passes = property(lambda self: self.settings.AUGMENT_EPOCH)
    searches = property(lambda self: self.settings.SEARCH_HP)
    takes = property(lambda self: (PER_DATASET,) if self.settings.SEARCH_HP else ())

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node; those of ImageNet in the published configs, without the search."""

        INIT_ALPHA: float = 1.17
        INIT_BETA: float = 1.0
        SCALE: float = 100.0  # of the zero-shot logits; 0 takes the CLIP's own
        AUGMENT_EPOCH: int = 10
        SEARCH_HP: bool = False
        SEARCH_SCALE: list[float] = field(default_factory=lambda: [7, 3])  # of beta, of alpha
        SEARCH_STEP: list[float] = field(default_factory=lambda: [200, 20])

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """The point of these settings."""
        for key in ("INIT_ALPHA", "INIT_BETA"):
            value = getattr(settings, key)
            need(0 <= value < float("inf"), f"{key} is {value} but must be 0 or more")
        passes = settings.AUGMENT_EPOCH
        need(passes >= 1, f"AUGMENT_EPOCH is {passes}: at least 1 is needed")
        for key, least in (("SEARCH_SCALE", 0.1), ("SEARCH_STEP", 1)):
            values = getattr(settings, key)
            need(
                len(values) == 2 and all(least <= value < float("inf") for value in values),
                f"{key} is {values} but must be two numbers, for beta and alpha, {least} or more",
            )
        return PromptSpec(M=0, N=0, beta=0, score="cosine")

    def setup(self, clip_model, classnames, dataset):
        """Make an empty cache."""
        settings = self.settings
        self.model.set_scale(settings.SCALE)
        cache = Cache(self.model.feature_width, len(classnames), trained=type(self).trains)
        cache.alpha.fill_(settings.INIT_ALPHA)
        cache.beta.fill_(settings.INIT_BETA)
        if dataset.startswith("ImageNet"):
            cache.sentences = Teacher(clip_model, classnames, IMAGENET)
        self.model.parts = cache

    @property
    def cache(self) -> Cache:
        """The parts of the model."""
        assert isinstance(self.model.parts, Cache)
        return self.model.parts

    def read_public(self, files):
        """Keys, trained or not, and values; no file has alpha and beta, which stay as they are."""
        keys, values = files.get("best_F_*.pt"), files.get("values_*.pt")
        if keys is None and torch.is_tensor(files.get("keys_*.pt")):
            keys = files["keys_*.pt"].T
        D, K = self.model.feature_width, self.model.num_classes
        shapes = [tuple(t.shape) if torch.is_tensor(t) else None for t in (keys, values)]
        n = shapes[0][0] if shapes[0] else 0
        if shapes != [(n, D), (n, K)]:
            raise UserError(
                f"The files {' and '.join(map(repr, files))} have keys {shapes[0]} and values "
                f"{shapes[1]}, where {type(self).__name__} needs both, (n, {D}) and (n, {K}): take "
                "those of one run with these classes and this backbone"
            )
        buffers = self.own_state() | {"model.parts.values": values.float()}
        if not self.trains:
            buffers["model.parts.keys"] = keys.float()
        state = {"adapter.weight": keys} if self.trains else {}
        return {"state_dict": state, "method": buffers, "trainer": type(self).__name__}

    def write_public(self):
        """The keys, as they are at the end, and the values."""
        keys, values = self.cache.key().detach(), self.cache.values
        # as the public code takes it: a Parameter, which becomes the weight of its nn.Linear
        trained = {"best_F_*.pt": nn.Parameter(keys)} if self.trains else {"keys_*.pt": keys.T}
        return {**trained, "values_*.pt": values}

    def make_room(self, n):
        """Leave keys of n images to be filled, and no labels."""
        cache = self.cache
        cache.key().data = cache.key().new_zeros(n, self.model.feature_width)
        cache.values = cache.values.new_empty(0, self.model.num_classes)

    def keep_classes(self, index):
        """Keep the votes for these classes."""
        self.cache.values = self.cache.values[:, index]

    def take_support(self, features, labels):
        """Keys are normalised means over the passes, values are one-hot labels."""
        self.cache.key().data.copy_(F.normalize(features.mean(0), dim=-1))
        self.cache.values = F.one_hot(labels, self.model.num_classes).float()

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Choose alpha and beta, of a grid with beta outside, the first with most images right."""
        cache, settings, model = self.cache, self.settings, self.model
        z = F.normalize(features, dim=-1)
        zero_shot = model.logit_scale * z @ model.text_features().h[0].T
        betas, alphas = (
            [0.1 + i * (scale - 0.1) / steps for i in range(int(steps))]
            for scale, steps in zip(settings.SEARCH_SCALE, settings.SEARCH_STEP, strict=True)
        )
        a, right = z @ cache.key().T, []
        for beta in betas:
            own = cache.likeness(a, beta)
            for alpha in alphas:
                right.append(((zero_shot + alpha * own).argmax(1) == labels).sum())
        best = int(np.argmax(torch.stack(right).cpu().numpy()))
        cache.beta.fill_(betas[best // len(alphas)])
        cache.alpha.fill_(alphas[best % len(alphas)])
        print(
            f"Search: beta {float(cache.beta):.4g}, alpha {float(cache.alpha):.4g}, with which "
            f"{int(right[best])} of {len(labels):,} validation images are right"
        )


@register
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained, from what they are there. L = CE."""

    checkpoint = "tip_adapter_f"
    public_files = ("best_F_*.pt", "values_*.pt", "keys_*.pt")
    saves_submodule = "adapter"
    trains = True
