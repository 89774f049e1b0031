"""PromptSRC (Khattak et al., ICCV 2023; arXiv:2307.06948).

Self-regulating Prompts: Foundational Model Adaptation without Forgetting.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..capabilities.staged import Staged
from ..checkpoint.public import Public
from ..encoders.templates import PROMPTSRC
from ..errors import need
from ..node import From0, From1
from ..registry import register
from ..regularizers import self_consistency
from ..teacher import Teacher
from .ivlp import IVLP


@register
class PromptSRC(Staged, IVLP):
    """IVLP, kept close to CLIP's features and predictions, and averaged over the epochs.

    IVLP with 4 tokens on both sides; all words of `a photo of a` are learned, deep contexts N(0,
    0.02^2). With p = softmax(logits), q = softmax(logits0):

        loss     = CE + L_text + L_image + L_logits
        L_text   = TEXT_LOSS_WEIGHT  1/(K D) sum_k sum_d |h_kd - h0_kd|
        L_image  = IMAGE_LOSS_WEIGHT 1/(B D) sum_j sum_d |z_jd - z0_jd|
        L_logits = 1/(B K) sum_j sum_k q_jk (log q_jk - log p_jk)

    The last term is 1/K of the usual mean over a batch. h0_k is the mean of the text features of 60
    of CLIP's 80 ImageNet templates, normalised after the mean but not before; the same 60 for every
    data set. z0 is of the same augmented image.

    After the last of E epochs, counted from 1, the prompts are replaced by their mean over the ends
    of the epochs with weights

        w_a = exp(-(a - GPA_MEAN)^2 / (2 GPA_STD^2)) / sum over a = 1..E of the same

    Earlier checkpoints have the plain parameters, and the optimiser never sees the mean.

    **Published.** Batch 4, rate 0.0025, 16 shots unless few-shot. GPA_MEAN / GPA_STD are 15 / 1 for
    base-to-new (20 epochs), 30 / 30 for few-shot (50 epochs; 45 / 5 for StanfordCars,
    OxfordFlowers, FGVCAircraft, DescribableTextures and EuroSAT), and 6 / 10 for transfer (20
    epochs, depth 3).

    **Checkpoint.** Names of IVLP. In public files CLIP and `prompt_learner.ZS_image_encoder.*` are
    ignored.
    """

    node = "PROMPTSRC"
    public = Public(dead=("ZS_image_encoder.",), outside={"MAX_EPOCH": "OPTIM.MAX_EPOCH"})
    training_only = ("TEXT_LOSS_WEIGHT", "IMAGE_LOSS_WEIGHT", "GPA_MEAN", "GPA_STD", "MAX_EPOCH")

    @dataclass(frozen=True)
    class Settings(IVLP.Settings):
        """The keys of the node."""

        N_CTX_VISION: From0 = 4
        N_CTX_TEXT: int = 4
        TEXT_LOSS_WEIGHT: From0 = 25
        IMAGE_LOSS_WEIGHT: From0 = 10
        GPA_MEAN: int = 15
        GPA_STD: From1 = 1
        MAX_EPOCH: int = 20

    settings: Settings

    def build(self, clip_model, classnames, dataset):
        """Make the contexts, the teacher with 60 sentences, and the mean over the epochs."""
        settings = self.settings
        need(
            settings.MAX_EPOCH >= settings.GPA_MEAN,
            f"OPTIM.MAX_EPOCH is {settings.MAX_EPOCH} but the mean over the epochs is centred on "
            f"epoch {settings.GPA_MEAN}: lower {self.place('GPA_MEAN')}, or train longer",
        )
        super().build(clip_model, classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, PROMPTSRC)
        trained = self.public_parameters()
        self.average = GaussianMean(trained, settings.GPA_MEAN, settings.GPA_STD)

    def loss(self, output, batch):
        """Return the cross-entropy, and the distances from the features of the untouched CLIP."""
        s = self.settings
        weights = {
            "scl_text": s.TEXT_LOSS_WEIGHT,
            "scl_image": s.IMAGE_LOSS_WEIGHT,
            "scl_logits": 1.0,
        }
        ce = F.cross_entropy(output.logits, batch.labels)
        terms = self_consistency(self.teacher, output, batch.images)
        return {"ce": ce, **{name: weights[name] * term for name, term in terms.items()}}

    def after_epoch(self, epoch, last):
        """Add the epoch's prompts to their mean."""
        self.average.add(self.public_parameters(), epoch, last)


class GaussianMean(nn.Module):
    """The mean theta = sum_a w_a theta_a over the epochs a = 1..E, w_a from a normal density of a.

    This is the aggregation of PromptSRC (arXiv:2307.06948, section 3.2). The sum so far is kept in
    float32 buffers, so that checkpoints hold it and a run can resume. `mean` and `std` are in
    epochs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std
        for name, parameter in parameters.items():
            self.register_buffer(self._own(name), torch.zeros(parameter.shape))

    @staticmethod
    def _own(name: str) -> str:
        return name.replace(".", "/")

    def weights(self, last: int) -> list[float]:
        """Return w_1 to w_E, which sum to 1, for E = `last`."""
        distances = [(a - self.mean) / self.std for a in range(1, last + 1)]
        nearest = min(d * d for d in distances)  # subtracted, or all densities may underflow to 0
        densities = [math.exp((nearest - d * d) / 2) for d in distances]
        return [density / sum(densities) for density in densities]

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter], epoch: int, last: int) -> None:
        """Add the parameters of an epoch, 1 to `last`; after the last, set them to the mean.

        The first epoch begins a new mean.
        """
        weight = self.weights(last)[epoch - 1]
        for name, parameter in parameters.items():
            total = getattr(self, self._own(name))
            if epoch == 1:
                total.zero_()
            total += weight * parameter.float()
            if epoch == last:
                parameter.copy_(total)
