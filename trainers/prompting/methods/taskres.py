"""TaskRes (Yu et al., CVPR 2023; arXiv:2211.10277).

Task Residual for Tuning Vision-Language Models.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.per_class import PerClass
from ..checkpoint.public import Public
from ..checkpoint.saved import Saved
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import DEFAULT, IMAGENET
from ..encoders.text import TextFeatures
from ..method import Method
from ..node import Positive
from ..registry import register

BASE = "base_text_features"  # in public checkpoints


class Residuals(nn.Module):
    """A residual for each class, (K, D), that starts as 0."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.text_feature_residuals = nn.Parameter(torch.zeros(num_classes, dim))


@register
class TaskRes(PerClass):
    """A residual of the text feature of each class: s z . n(t_k + RESIDUAL_SCALE r_k). L = CE.

    t_k is the mean, not normalised, of the text features of the class's sentences before
    normalisation; r (K, D) starts as 0. Other classes cannot be named.

    ENHANCED_BASE is `none`, or a file with another text projection, with which t is computed; the
    image keeps CLIP's, as in the public code, which ignores it unless PREC is fp16.

    **Published.** RESIDUAL_SCALE 0.5 (OxfordFlowers: 1); Adam, weight decay 5e-4 added to the
    gradient, rate 2e-3 (ImageNet: 2e-4), batches of 256, 100 epochs with 1, 2 and 4 shots, else
    200; with RN50.

    **Checkpoint.** `text_feature_residuals`, and `base_text_features`, which replaces t. The public
    code keeps `_` in class names.
    """

    node = "TaskRes"
    rules = MEANS
    public = Public(
        submodule="prompt_learner",
        ignored=("N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION"),
    )
    class_bound = True
    class_rows = ("prompt_learner.text_feature_residuals", "base")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        RESIDUAL_SCALE: Positive = 1.0  # published: 0.5, and 1.0 for OxfordFlowers
        ENHANCED_BASE: str = "none"  # or the path of a file

    settings: Settings
    base: torch.Tensor

    def build(self, clip_model, classnames, dataset):
        """Make the residuals, and the fixed text features t (K, D)."""
        self.prompt_learner = Residuals(len(classnames), self.width)
        templates = [*IMAGENET, DEFAULT] if dataset.startswith("ImageNet") else ()
        text = class_text(self.settings, classnames, dataset, templates, "raw_mean")
        projection = None
        if (file := self.settings.ENHANCED_BASE) != "none":
            weight = Saved.read(file).state_dict["weight"]
            projection = weight.detach().float().T.contiguous()
        self.register_buffer("base", text.features(clip_model, projection).raw[0])

    def text_features(self, contexts):
        """Return n(t_k + RESIDUAL_SCALE r_k)."""
        raw = self.base + self.settings.RESIDUAL_SCALE * self.prompt_learner.text_feature_residuals
        return TextFeatures(F.normalize(raw, dim=-1)[None], raw[None])

    def load_public_state_dict(self, state_dict):
        """Load the residuals, and the text features of a public checkpoint in place of our own."""
        rest = dict(state_dict)
        base = rest.pop(BASE, rest.pop(f"prompt_learner.{BASE}", None))
        super().load_public_state_dict(rest)
        if base is not None:
            self.base = base.detach().to(self.device, torch.float32)
