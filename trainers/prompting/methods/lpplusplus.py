"""LP++ (Huang et al., CVPR 2024; arXiv:2404.02285).

LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.fitting import keep_best, train
from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import IMAGENET
from ..method import Method
from ..node import From1
from ..registry import register
from ..teacher import Teacher
from .linear_probe import LinearProbe

MOMENTUM = 0.9  # of the classifier
EVERY = 10  # steps between two of alpha
START = 250.0  # of alpha, times the mean similarity of images and their classes


@register
class LPPlusPlus(LinearProbe):
    """A linear probe plus the similarity to the text, with a weight alpha_k for each class.

        logits_jk = w_k . z_j + b_k + alpha_k h_k . z_j,   L = CE

    without CLIP's scale, over one augmented view f_i of each of the n training images, in
    TRAIN_EPOCH steps on all of them. h_k is the feature of one sentence; on ImageNet and its
    variants, the normalised mean of the normalised features of seven. Other classes cannot be
    named.

    w_k starts as the sum of class k's f_i, b at random as in nn.Linear, every alpha_k as 250 times
    the mean over classes of the mean of their f_i . h_k. Step sizes come from the images:
    4 n / (largest eigenvalue of F'F) for w and b, with momentum 0.9, and after every tenth step
    alpha moves by n / (4 max_k sum_i (f_i . h_k)^2) times the gradient. FORM `released`: the sum of
    all gradients since the first step, which the public code never clears. `cleared`: that of the
    step alone, as the paper derives it. After 300 steps their logits differ by 2.6 on a tiny CLIP.

    With SEARCH_HP the last step with the best validation accuracy counts, else the last one.

    **Published.** FORM `released`, SEARCH_HP True on as many validation images as shots
    (`DATASET.VALIDATION_SHOTS -1`), on ImageNet from training images, 300 steps, crop scale 0.5-1;
    with RN50 in fp16.

    **Checkpoint.** `classifier.weight`, `classifier.bias`, `alpha_vec` (1, K). The public code
    saves nothing.
    """

    node = "LPPLUSPLUS"
    rules = MEANS
    public = Public(folder="lpplusplus")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        TRAIN_EPOCH: From1 = 300
        FORM: Literal["released", "cleared"] = "released"
        SEARCH_HP: bool = True

    settings: Settings  # type: ignore[assignment]

    def build(self, clip_model, classnames, dataset):
        """Make a classifier and alpha without classes, and the fixed text features."""
        templates = IMAGENET if dataset.startswith("ImageNet") else ()
        text = class_text(self.settings, classnames, dataset, templates)
        self.teacher = Teacher(clip_model, classnames, text)
        self.alpha_vec = nn.Parameter(torch.zeros(1, len(classnames)))
        super().build(clip_model, classnames, dataset)

    def text_features(self, contexts):
        """Return the normalised mean of the normalised features of the sentences."""
        return self.teacher.text

    def make_room(self, n):
        """Make room for K classes, or for those of a checkpoint (n = 0)."""
        super().make_room(n)
        self.alpha_vec.data = self.alpha_vec.new_zeros(1, len(self.classifier.bias))

    def keep_classes(self, index):
        """Keep the rows and weights of these classes."""
        super().keep_classes(index)
        self.alpha_vec.data = self.alpha_vec.data[:, index]

    def load_public_state_dict(self, state_dict):
        """Load as every method does; an empty alpha gets as many classes as there are biases."""
        bias = state_dict.get("classifier.bias")
        if torch.is_tensor(bias) and not self.alpha_vec.numel():
            self.alpha_vec.data = self.alpha_vec.new_zeros(1, bias.numel())
        super().load_public_state_dict(state_dict)

    def logits(self, image, text):
        """Return w_k . z_j + b_k + alpha_k h_k . z_j, (B, K)."""
        return super().logits(image, text) + self.alpha_vec * (image.z[:, 0] @ text.h[0].T)

    @torch.no_grad()
    def take_support(self, features, labels):
        """Do all steps on the features of one view, normalised, unless validation follows."""
        f, own = F.normalize(features[0], dim=-1), F.one_hot(labels, self.num_classes).float()
        self.need_each_class(labels)
        near = f @ self.text().h[0].T  # f_i . h_k, (n, K)
        self.images = f, own, near
        self.classifier.weight.data = own.T @ f
        nn.init.uniform_(self.classifier.bias, -(self.width**-0.5), self.width**-0.5)
        self.alpha_vec.fill_(START * ((near * own).sum(0) / own.sum(0)).mean())
        self.begin = {name: p.detach().clone() for name, p in self.learned().items()}
        if not self.validation_follows:
            for _ in self.steps():
                pass

    def steps(self) -> Iterator[int]:
        """Do the steps from the start, and yield the number of each after it, from 1."""
        f, own, near = self.images
        W, b, alpha = self.classifier.weight.data, self.classifier.bias.data, self.alpha_vec.data
        n = len(f)
        rate = 4 * n / torch.linalg.eigvalsh(f.T @ f)[-1]
        of_alpha = n / (4 * near.square().sum(0).max())
        speed_W, speed_b, G = torch.zeros_like(W), torch.zeros_like(b), torch.zeros_like(alpha)

        def step(number: int) -> None:
            apart = ((f @ W.T + b + alpha * near).softmax(1) - own) / n  # dL / dlogits, (n, K)
            speed_W.mul_(MOMENTUM).add_(apart.T @ f)
            speed_b.mul_(MOMENTUM).add_(apart.sum(0))
            if self.settings.FORM == "cleared":
                G.zero_()
            G.add_((apart * near).sum(0))
            W.sub_(rate * speed_W)
            b.sub_(rate * speed_b)
            if number % EVERY == 0:
                alpha.sub_(of_alpha * G)

        return train(self.learned(), self.begin, step, self.settings.TRAIN_EPOCH)

    @torch.no_grad()
    def take_validation(self, features, labels):
        """Do the steps from the start, and keep the last one with the best accuracy."""
        z = F.normalize(features, dim=-1)
        near = z @ self.text().h[0].T

        def right() -> int:
            return int(((self.classifier(z) + self.alpha_vec * near).argmax(1) == labels).sum())

        best, most = keep_best(self.learned(), self.steps(), right, last=True)
        print(
            f"Search: step {best} classifies {most} of {len(labels):,} validation images correctly"
        )
