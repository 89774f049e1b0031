"""Tip-Adapter (Zhang et al., ECCV 2022; arXiv:2207.09519).

Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification.
"""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public, PublicFiles
from ..checkpoint.saved import Saved
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import IMAGENET
from ..encoders.text_cache import mark
from ..errors import need
from ..method import Method
from ..node import From1, NotNegative
from ..registry import register
from ..teacher import Teacher


class KeyValueCache(nn.Module):
    """A key-value cache of n training images: features as keys, weighted labels as values.

    Keys are (n, D), a parameter `weight` if they are `trained`, else a buffer `keys`.
    """

    keys: torch.Tensor
    values: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, dim: int, num_classes: int, trained: bool):
        super().__init__()
        self.trained = trained
        empty = torch.empty(0, dim)
        if trained:
            self.weight = nn.Parameter(empty)
        else:
            self.register_buffer("keys", empty)
        self.register_buffer("values", torch.empty(0, num_classes))
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.zeros(()))
        self._labels: Any = None
        self._seen: tuple[object, ...] = ()  # the values whose labels are kept

    def key(self) -> torch.Tensor:
        """Return the keys (n, D)."""
        return self.weight if self.trained else self.keys

    def likeness(self, a: torch.Tensor, beta: torch.Tensor | float) -> torch.Tensor:
        """Return sum_i exp(-beta (1 - a_ji)) values_ik, (B, K); a (B, n) are cosines with keys."""
        near, labels = torch.exp(beta * a - beta), self.labels()
        if labels is None:
            return near @ self.values
        own = near * labels[1]
        return own.new_zeros(len(a), self.values.shape[1]).index_add_(1, labels[0], own)

    def labels(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the class (n,) and the weight (n,) of each key.

        None if a key has several classes, on an accelerator, where the product is as fast, and in
        an exported program.
        """
        values = self.values
        if values.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        seen = values, mark(values)
        if self._seen[1:] != seen[1:] or self._seen[0] is not values:
            several = bool(((values != 0).sum(1) > 1).any())
            self._labels = None if several else (values.argmax(1), values.sum(1))
            self._seen = seen
        return self._labels


@register
class TipAdapter(PublicFiles, OnSupport, PerClass):
    """Zero-shot logits plus those of a cache of the training images; nothing is trained.

    The cache has n training images in the order of the data set, each with AUGMENT_EPOCH random
    augmentations: key_i = normalise(mean of its features before normalisation), value_i its one-hot
    label (K), times the mean number of images of a class divided by that of its own class.

        logits_jk = SCALE z_j . h_k + alpha sum_i exp(-beta (1 - z_j . key_i)) value_ik

    SCALE 0 is the CLIP's own logit scale; the public code multiplies by 100. With several labels,
    value_i has those of the image; unknown ones are refused, and so is the search.

    h_k is the feature of one sentence; on ImageNet and its variants, the normalised mean of the
    normalised features of seven. Other classes cannot be named.

    alpha and beta are INIT_ALPHA and INIT_BETA, or, with SEARCH_HP, the first best values of a grid
    on validation images after the training. With SEARCH_SCALE (S_beta, S_alpha) and SEARCH_STEP
    (n_beta, n_alpha) the grid has 0.1 + i (S - 0.1) / n, i < n, with beta in the outer loop.
    Checkpoints keep the chosen values, and tables mark such rows. Where the validation images are
    also the test images, as on ImageNet, the search is refused without `DATASET.VALIDATION_SHOTS`.

    **Published.** `few_shot` has the public config of ImageNet, without the search, for all data
    sets; `few_shot_per_dataset` the values for each data set, with the search; with RN50.

    **Checkpoint.** Buffers `keys` (n, D), `values` (n, K), `alpha`, `beta`. Of the public code:
    `keys_*shots.pt` (D, n), `values_*shots.pt`.

    **Differences.** The public code searches on the test set of ImageNet, and reports the better of
    two test accuracies. Here nothing is chosen on test images, and at most four validation images
    of each class are used. Its values are one-hot labels: the same where classes are of one size;
    elsewhere, larger ones win by their number of images alone.
    """

    node = "TIP_ADAPTER"
    public = Public(
        folder="tip_adapter",
        ignored=("LR", "SHOTS", "TRAIN_EPOCH", "LOAD_CACHE", "LOAD_PRE_FEAT"),
    )
    public_files: ClassVar[tuple[str, ...]] = ("keys_*.pt", "values_*.pt")
    trains = False
    several = "ranks"
    needs_all_labels = True
    rules = MEANS
    class_bound = True
    support_passes = property(attrgetter("settings.AUGMENT_EPOCH"))
    searches = property(attrgetter("settings.SEARCH_HP"))

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the node; defaults as published for ImageNet, but without the search."""

        INIT_ALPHA: NotNegative = 1.17
        INIT_BETA: NotNegative = 1.0
        AUGMENT_EPOCH: From1 = 10
        SEARCH_HP: bool = False
        SEARCH_SCALE: list[float] = field(default_factory=lambda: [7, 3])  # largest beta, alpha
        SEARCH_STEP: list[float] = field(default_factory=lambda: [200, 20])

        def __post_init__(self) -> None:
            need(
                not (self.several and self.SEARCH_HP),
                "SEARCH_HP chooses by the accuracy of one label an image: set it to False",
            )

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make an empty cache; on ImageNet, the text features are those of several sentences."""
        settings = self.settings
        self.adapter = KeyValueCache(self.width, len(classnames), trained=type(self).trains)
        self.adapter.alpha.fill_(settings.INIT_ALPHA)
        self.adapter.beta.fill_(settings.INIT_BETA)
        several = dataset.startswith("ImageNet")
        text = class_text(settings, classnames, dataset, IMAGENET)
        self.teacher = Teacher(clip_model, classnames, text) if several else None

    def text_features(self, contexts):
        """Return the features, or the normalised mean over several sentences."""
        if self.teacher is None:
            return super().text_features(contexts)
        return self.teacher.text

    def logits(self, image, text):
        """Return SCALE z_j . h_k + alpha sum_i exp(-beta (1 - z_j . key_i)) values_ik, (B, K)."""
        cache = self.adapter
        self.need_support(len(cache.values))
        likeness = cache.likeness(image.z[:, 0] @ cache.key().T, cache.beta)
        return super().logits(image, text) + cache.alpha * likeness

    def read_public(self, files):
        """Return keys and values as a checkpoint; no file has alpha and beta, which stay."""
        keys = files["best_F_*.pt"] if "best_F_*.pt" in files else files["keys_*.pt"].T
        buffers = self.own_state() | {"adapter.values": files["values_*.pt"].float()}
        if not self.trains:
            buffers["adapter.keys"] = keys.float()
        state = {"adapter.weight": keys} if self.trains else {}
        return Saved(state_dict=state, method=buffers, trainer=type(self).__name__)

    def write_public(self):
        """Return the final keys and the values, by file."""
        keys, values = self.adapter.key().detach(), self.adapter.values
        # a Parameter, as the public code makes it the weight of its nn.Linear
        trained = {"best_F_*.pt": nn.Parameter(keys)} if self.trains else {"keys_*.pt": keys.T}
        return {**trained, "values_*.pt": values}

    def make_room(self, n):
        """Make room for the keys and values of n images."""
        cache = self.adapter
        cache.key().data = cache.key().new_zeros(n, self.width)
        cache.values = cache.values.new_zeros(n, self.num_classes)

    @property
    def _num_rows(self):
        """The number of classes that the values are of."""
        return self.adapter.values.shape[1]

    def keep_classes(self, index):
        """Keep the values of these classes."""
        self.adapter.values = self.adapter.values[:, index]

    def take_support(self, features, labels):
        """Set keys to normalised means over the passes, and values to weighted one-hot labels."""
        self.adapter.key().data.copy_(F.normalize(features.mean(0), dim=-1))
        several = self.settings.several
        own = (labels if several else F.one_hot(labels, self.num_classes)).float()
        sizes = own.sum(0)
        mean = sizes.sum() / sizes.count_nonzero()  # of the classes that have an image
        self.adapter.values = own * (mean / sizes.clamp_min(1))

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Choose alpha and beta by the accuracy on a grid; the first best pair, beta outermost."""
        cache, settings = self.adapter, self.settings
        z = F.normalize(features, dim=-1)
        zero_shot = self.logit_scale * z @ self.text().h[0].T
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
            f"Search: beta {float(cache.beta):.4g}, alpha {float(cache.alpha):.4g} classify "
            f"{int(right[best])} of {len(labels):,} validation images correctly"
        )


@register
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are then trained. L = CE.

    The keys are not normalised again, and the images of the training are newly augmented.

    **Published.** AdamW (eps 1e-4, weight decay 0.01), rate 0.001, cosine by step to 0, batch 256
    with short last batches, 20 epochs; crop scale 0.5-1. The public code keeps the epoch with the
    best test accuracy, this one the last.

    **Checkpoint.** `adapter.weight` (n, D), and TipAdapter's buffers. Of the public code:
    `best_F_*shots.pt`.
    """

    public = Public(folder="tip_adapter_f", submodule="adapter")
    public_files = ("best_F_*.pt", "values_*.pt", "keys_*.pt")
    trains = True
