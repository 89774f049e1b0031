"""AWT (Zhu et al., NeurIPS 2024; arXiv:2407.04603).

AWT: Transferring Vision-Language Models via Augmentation, Weighting, and Transportation.

Letters: B images in V views, K classes, N sentences about each, D the width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F

from ..capabilities.of_views import OfViews
from ..checkpoint.public import Public
from ..encoders.class_text import ClassText
from ..encoders.sentences import fixed_sentence
from ..encoders.templates import AWT as TEMPLATES
from ..encoders.templates import template_of
from ..encoders.text import TextFeatures
from ..errors import need
from ..marks import FILE, ONE_IMAGE
from ..node import From1, Positive, clean
from ..registry import register
from ..sure_views import entropy
from ..teacher import Teacher, sentences_of
from ..transport.released import sinkhorn_released

REG = 0.1  # of the transport; a constant of the public code
ENTRIES = 1 << 26  # of the costs of the images that are computed at a time


@register
class AWT(OfViews):
    """Transport between views of an image and sentences about a class, weighted by entropy.

    Of V views (x_0 plain, the others random crops and flips) and N sentences about each class (the
    template alone, and followed by each description of SENTENCES) with features z_v and h_kd, l_vdk
    = s z_v . h_kd, H is the entropy of a softmax over the classes:

        a_v  = softmax_v(-H(mean_d l_vd.) / T)
        b_kd = softmax_d(-H(e^kd) / T),   e^kd: mean_d' l_0d' with l_0dk as that of class k
        T_k  = the plan of reg 0.1 between a and b_k for the costs 1 - z_v . h_kd
        logit_k = sum_vd T_k l_vdk

    The solver is that of PLOT's and ALIGN's public code (docs/methods.md, section 3), which stops
    for all classes of an image together. Nothing is learned. `SENTENCES` is a JSON file as of
    [CoPrompt](#coprompt), with the same number of descriptions for each class, of which the first
    NUM_DESCRIPTOR are read; without one, N is 1 and only the views have weights.

    **Published.** NUM_VIEWS (V) 51, NUM_DESCRIPTOR 50, of a language model; T 0.5; templates of its
    own, unless CTX_INIT has words. The repository has no numbers of this form, only of
    [AWTFewShot](#awtfewshot).

    **Cost.** Beside the encoders, costs and plans of V N K entries for each image.
    """

    node = "AWT"
    public = Public(folder="awt")
    rules = ()
    test_views = property(attrgetter("settings.NUM_VIEWS"))

    @dataclass(frozen=True)
    class Settings(OfViews.Settings):
        """The keys of the node."""

        NUM_VIEWS: From1 = 51
        NUM_DESCRIPTOR: From1 = 50
        T: Positive = 0.5
        SENTENCES: str | Mapping | None = None  # a JSON file

    settings: Settings

    @property
    def takes(self):
        """The marks: SENTENCES are of a file."""
        return (ONE_IMAGE, FILE) if self.settings.SENTENCES else (ONE_IMAGE,)

    def build(self, clip_model, classnames, dataset):
        """Make the teacher, which computes the sentences' features when they are first read."""
        text = self.sentences_about(classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, text)

    def sentences_about(self, classnames: Sequence[str], dataset: str) -> ClassText:
        """Return K lists of N sentences."""
        return ClassText([], classnames, lists=self.write(classnames, dataset))

    def write(self, classnames: Sequence[str], dataset: str) -> list[list[str]]:
        """Return them as texts."""
        s, names = self.settings, [clean(name) for name in classnames]
        words: Any = s.CTX_INIT
        template = fixed_sentence(words) if words else template_of(TEMPLATES, dataset)
        alone = [template.replace("{}", name) for name in names]
        if not s.SENTENCES:
            return [[text] for text in alone]
        given = [own[: s.NUM_DESCRIPTOR] for own in sentences_of(s.SENTENCES, classnames)]
        n = max(map(len, given))
        for name, own in zip(names, given, strict=True):
            need(
                len(own) == n,
                f"SENTENCES has {len(own)} for '{name}' but {n} for others: give all classes the "
                "same number, or lower NUM_DESCRIPTOR",
            )
        return [
            [text, *(f"{text} {more}" for more in own)]
            for text, own in zip(alone, given, strict=True)
        ]

    @property
    def each(self) -> torch.Tensor:
        """The normalised features of the sentences, (K, N, D)."""
        return self.teacher.h_each.unflatten(0, (self.num_classes, -1))

    def text_features(self, contexts):
        """Return the directions of the means over the sentences."""
        mean = self.each.mean(1)[None]
        return TextFeatures(F.normalize(mean, dim=-1), mean)

    temperature = property(attrgetter("settings.T"))
    group: int | None = 1  # of a problem's trailing dimensions: all classes of an image

    def from_views(self, x, h):
        """Return the logits (B, K)."""
        return self.match(x, self.each.float())

    def match(self, x: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K) of views (B, V, D) and sentences (K, N, D), some at a time."""
        at_once = max(1, ENTRIES // (x.shape[1] * each.shape[:2].numel()))
        return torch.cat([self.transport(some, each)[0] for some in x.split(at_once)])

    def transport(self, x: torch.Tensor, each: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits (B, K), a (B, V), b (B, K, N), plans (B, K, V, N); only the first learn.

        x are normalised features (B, V, D) of views, each those of sentences (K, N, D).
        """
        cosines = torch.einsum("bvd,knd->bkvn", x, each)
        logits = self.logit_scale * cosines
        with torch.no_grad():
            a = (-entropy(logits.mean(-1).mT) / self.temperature).softmax(-1)
            b = (-entropies_with(logits[:, :, 0]) / self.temperature).softmax(-1)
            a_of_each = a[:, None].expand(-1, len(each), -1)
            plan = sinkhorn_released(1 - cosines, a_of_each, b, REG, group_dims=self.group).plan
        return (plan * logits).sum((2, 3)), a, b, plan


def entropies_with(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropies (B, K, N) of means over N, with that of class k replaced by l_kd.

    Logits are (B, K, N). Sums over the other classes are summed: as a difference to the sum of all,
    only rounding would be left of them where a class has nearly all of it.
    """
    m = logits.mean(-1)
    top, others = m.amax(1, keepdim=True), 1 - torch.eye(m.shape[1], device=m.device)
    x, y = m - top, logits - top[..., None]
    Z = (x.exp() @ others)[..., None] + y.exp()
    S = ((x.exp() * x) @ others)[..., None] + y.exp() * y
    return Z.log() - S / Z
