"""DualCoOp (Sun et al., NeurIPS 2022; arXiv:2206.09541).

DualCoOp: Fast Adaptation to Multi-Label Recognition with Limited Annotations.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.public import Public
from ..encoders.sentences import SLOT, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder, project_values
from ..losses import asymmetric
from ..method import Method
from ..node import From1, NotNegative
from ..prompts import Contexts, Size, check_size
from ..registry import register

NAMES = {"original": ("ctx_pos", "ctx_neg"), "dassl": ("ctx", "ctx_neg")}
SCALE, SHARPNESS = 100.0, 20.0  # constants of the form `original`
LEARNED = {"temperature": 3.91, "spatial_T": 3.0}  # their logarithms in the form `dassl`
POOLS = {"original": "placed", "dassl": ""}
FLOOR = {"original": 1e-6, "dassl": 1e-8}


@register
class DualCoOp(Method):
    """A positive and a negative context for several labels; each class weights the regions.

    With regions r_jp of image j, h_k+ and h_k- of the two sentences of class k:

        logits_jk = a sum_p w_jkp (r_jp . h_k+ - r_jp . h_k-),   w_jk = softmax_p(b r_jp . h_k+)

    The sigmoid of a logit is the probability of a class by itself. L is the asymmetric loss over
    the known labels (GAMMA_NEG, GAMMA_POS, CLIP). An image with one label has no other classes.

    FORM `original` is the authors' code: regions of a ResNet have the positions of the attention
    pool, and the pooled mean is one of them; a = 100, b = 20; L is the sum times LOSS_W. FORM
    `dassl` is that of TaI-DPT's code: no positions and no mean; a and b are learned, from exp(3.91)
    and exp(3); L is the sum divided by the number of images. Of a ViT, regions are patches by the
    value path of the last block, which is ours.

    **Published.** 16 + 16 tokens, class-specific (CSC) but for few labels; 64 + 64 and shared for
    unseen classes. LOSS_W is known for COCO with half of its labels (0.03) and unseen classes
    (0.01). Both codes choose the epoch on test images; here it is the last one.

    **Differences.** Both contexts are of one length. All classes are in each step, where the
    public code draws 100 on NUS-WIDE.

    **Checkpoint.** `ctx_pos`, `ctx_neg`; or `ctx`, `ctx_neg`, `temperature`, `spatial_T`. These
    names say the form.
    """

    node = "DUALCOOP"
    public = Public(
        submodule="prompt_learner",
        dead=("token_prefix", "token_suffix", "tokenized_prompts"),
    )
    several = "decides"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: From1 = 16
        CSC: bool = False
        FORM: Literal["original", "dassl"] = "original"
        GAMMA_NEG: NotNegative = 2.0
        GAMMA_POS: NotNegative = 1.0
        CLIP: NotNegative = 0.05
        LOSS_W: NotNegative = 1.0

    settings: Settings
    prompt_learner: Any

    @property
    def class_bound(self):
        """True if each class has contexts."""
        return self.settings.CSC

    @property
    def names(self):
        """The names of both contexts."""
        return NAMES[self.settings.FORM]

    @property
    def pool(self):
        """The values of a ResNet's attention pool, as `ImageEncoder` takes it."""
        return POOLS[self.settings.FORM]

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, for two sentences a class."""
        b = self.settings.N_CTX
        check_size(clip_model, "text", Size(b, 1))
        sentences = write_sentences(clip_model, [" ".join([SLOT] * b)] * 2, classnames, b)
        return (
            TextEncoder(clip_model, sentences, class_specific=self.class_bound),
            ImageEncoder(clip_model.visual, values=True, pool=self.pool),
        )

    def build(self, clip_model, classnames, dataset):
        """Make the contexts, and what else the form learns."""
        shape = (*[len(classnames)] * self.class_bound, self.settings.N_CTX, self.widths["text"])
        self.prompt_learner = nn.Module()
        for name in self.names:
            setattr(self.prompt_learner, name, nn.Parameter(0.02 * torch.randn(shape)))
        if self.names == NAMES["dassl"]:
            for name, start in LEARNED.items():
                setattr(self.prompt_learner, name, nn.Parameter(torch.tensor(start)))

    def contexts(self):
        """Return the positive context and the negative one, (2, b, W) or (2, K, b, W)."""
        learned = [getattr(self.prompt_learner, name) for name in self.names]
        return Contexts([torch.stack(learned)])

    def image_features(self, images, contexts):
        """Return the features, with the regions as r."""
        features = super().image_features(images, contexts)
        r = project_values(self.image_encoder.visual, features.values)  # type: ignore[arg-type]
        return features._replace(r=r, values=None)

    def logits(self, image, text):
        """Return the difference of the scores of both sentences, (B, K)."""
        a, b = SCALE, SHARPNESS
        if self.settings.FORM == "dassl":
            a, b = (getattr(self.prompt_learner, name).exp() for name in LEARNED)
        positive, negative = torch.einsum("bpd,nkd->nbkp", image.r[:, 0].float(), text.h)
        return a * ((positive - negative) * (b * positive).softmax(-1)).sum(-1)

    def loss(self, output, batch):
        """Return the asymmetric loss, with the sum or the mean of the form."""
        s, labels = self.settings, batch.labels
        if not s.several:
            labels = F.one_hot(labels, self.num_classes)
        focus = s.GAMMA_NEG, s.GAMMA_POS, s.CLIP, FLOOR[s.FORM]
        loss = asymmetric(output.logits, labels, *focus).sum()
        return loss / len(labels) if s.FORM == "dassl" else s.LOSS_W * loss
