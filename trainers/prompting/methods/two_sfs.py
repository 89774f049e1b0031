"""2SFS (Farina et al., CVPR 2025; arXiv:2503.11609).

Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.per_class import PerClass, places
from ..capabilities.staged import Stage, Staged
from ..checkpoint.public import Public
from ..encoders.text import TextFeatures
from ..node import Fraction
from ..registry import register
from .ln_only import LNOnly


@register
class TwoSFS(PerClass, Staged, LNOnly):
    """First the LayerNorms of both encoders, then a classifier of the classes of the training.

    Two stages of one training. First the weights and biases of LN1 and LN2 in every block of both
    encoders, L = CE(s z . h). Then these are fixed, and W (K, D), which starts as the text features
    h, is all that is trained:

        l_k = s z . normalise(w_k),   L = CE(l)

    An evaluation is selective by name: a class of the training takes w_k, any other the text
    feature of the tuned encoder. LNOnly is only the first stage.

    **Keys.** Those of [LNOnly](#lnonly), N_ITERS_FRAC, and, only here, STAGE (1 or 2 alone).

    **Published.** 300 steps for each shot, 60 % of them (N_ITERS_FRAC) in the first stage. Each
    stage has its own AdamW (weight decay 0.01) and its own cosine from 2e-4 to 1e-6, by step.
    Settings are the same for all data sets.

    **Checkpoint.** `[visual.]transformer.resblocks.{i}.ln_{1,2}.{weight,bias}` and `classifier`.
    The public code saves nothing.
    """

    node = "TWO_SFS"
    public = Public(folder="two_sfs")
    training_only = ("N_ITERS_FRAC",)

    @dataclass(frozen=True)
    class Settings(LNOnly.Settings):
        """The arguments of the public code, in upper case, with LN_ENDS and STAGE."""

        N_ITERS_FRAC: Fraction = 0.6  # the share of the steps of the first stage
        STAGE: Literal[0, 1, 2] = 0  # 1 or 2: only this one

    settings: Settings
    stage: torch.Tensor
    rows: torch.Tensor

    def build(self, clip_model, classnames, dataset):
        """Make the LayerNorms and the classifier."""
        super().build(clip_model, classnames, dataset)
        only = self.settings.STAGE
        self.register_buffer("stage", torch.tensor(max(only, 1)))
        # for each class its row in the classifier, or -1
        self.register_buffer("rows", torch.arange(len(classnames)), persistent=False)
        self.second, self.all_known = only == 2, True  # as above, without waiting for a device
        if only != 1:
            self.classifier = nn.Parameter(torch.zeros(len(classnames), self.width))
        if only == 2:
            self.norms.requires_grad_(False)

    def stages(self):
        """Return the stages that are trained."""
        first, only = self.settings.N_ITERS_FRAC, self.settings.STAGE
        stages = [Stage(("norms",), first), Stage(("classifier",), 1 - first)]
        return [stages[only - 1]._replace(share=1.0)] if only else stages

    @torch.no_grad()
    def begin_stage(self, stage):
        """Start the classifier from the text features, before its stage."""
        if self.stages()[stage].parameters == ("classifier",):
            self.classifier.copy_(super().text_features(self.contexts()).h[0])
            self.stage.fill_(2)
            self.second = True

    def make_room(self, n):
        """Make room for the rows of a checkpoint if n is 0."""
        if not n and self.settings.STAGE != 1:
            self.classifier.data = self.classifier.data[:0]

    def load_public_state_dict(self, state_dict):
        """Load what is learned; a classifier of these classes that is not 0 is of stage 2."""
        super().load_public_state_dict(state_dict)
        if not self.settings.STAGE:
            fits = len(self.classifier) == self.num_classes
            self.second = fits and bool(self.classifier.any())
            self.stage.fill_(1 + self.second)

    def load_own_state(self, state_dict):
        """Load the stage."""
        super().load_own_state(state_dict)
        self.second = int(self.stage) == 2

    def load_checkpoint(self, checkpoint, classnames):
        """Load as every method does, and find the rows of the classes of the training."""
        super().load_checkpoint(checkpoint, classnames)
        rows = places(classnames, checkpoint.classnames or classnames)
        self.rows, self.all_known = self.rows.new_tensor(rows), min(rows) >= 0

    def text_features(self, contexts):
        """Return the rows of the classifier, and text features of classes that it lacks."""
        if not self.second:
            return super().text_features(contexts)
        raw = self.classifier[self.rows.clamp_min(0)]
        if not self.all_known:
            known, own = (self.rows >= 0)[:, None], super().text_features(contexts).raw[0]
            raw = torch.where(known, raw, own.float())
        return TextFeatures(F.normalize(raw, dim=-1)[None], raw[None])
