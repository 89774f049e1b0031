"""LoCoOp (Miyai et al., NeurIPS 2023; arXiv:2306.01293).

LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..capabilities.staged import Staged
from ..checkpoint.public import Public
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageEncoder, ImageFeatures, project_values
from ..errors import need
from ..full_precision import no_autocast
from ..node import From1, NotNegative
from ..registry import register
from .coop import CoOp


@register
class LoCoOp(Staged, CoOp):
    """CoOp's context, whose patches that do not look like their class are kept away from all.

    r_jp is patch p by the value path of the last block, as in GalLoP but without its linear map,
    and q_jp = softmax_k(s r_jp . h_k). A patch is selected if the label of its image is not among
    the TOPK largest of q_jp. With the mean over all selected patches of the batch:

        L = CE(s z . h) + LAMBDA_VALUE mean_{selected} sum_k q log(q + 1e-5)

    Images are classified as by CoOp; `TEST.OOD` and `--ood` score them by MCM and GL-MCM.

    **Published.** LAMBDA_VALUE 0.25 and TOPK 200, which stand outside of the node, on ImageNet
    only. 200 is meant for 1000 classes: the config files take the same share of the classes of
    other sets.
    """

    node = "LOCOOP"
    training_only = ("LAMBDA_VALUE", "TOPK")
    public = Public(outside={"LAMBDA_VALUE": "lambda_value", "TOPK": "topk"})

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of the node, and two arguments of the public code."""

        LAMBDA_VALUE: NotNegative = 0.25
        TOPK: From1 = 200  # meant for the 1000 classes of ImageNet

    settings: Settings

    def begin_stage(self, stage):
        """Refuse a training that selects no patch; raises UserError."""
        topk, K = self.settings.TOPK, self.num_classes
        need(
            topk < K,
            f"topk is {topk} of {K} classes, so that an image's class is always among them and no "
            "patch is selected: choose fewer",
        )

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; the image encoder returns patches by the value path, too."""
        text, _ = super().encoders(clip_model, classnames, dataset)
        return text, ImageEncoder(clip_model.visual, values=True)

    def image_features(self, images, contexts):
        """Return z, and as r the patches of the value path."""
        features = super().image_features(images, contexts)
        r = project_values(self.image_encoder.visual, features.values)  # type: ignore[arg-type]
        return features._replace(r=r, values=None)

    def local_cosines(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return r_jp . h_k, (B, P, K)."""
        assert image.r is not None, "the encoder returns patches"
        return image.r[:, 0].float() @ text.h[0].float().T

    def cosines(self, image, text):
        """Return the cosines of images and of patches, for MCM and GL-MCM."""
        return image.z[:, 0].float() @ text.h[0].float().T, self.local_cosines(image, text)

    def loss(self, output, batch):
        """Return the cross-entropy and the negative entropy E of selected patches."""
        with no_autocast(output.logits.device.type):
            ce, topk = F.cross_entropy(output.logits, batch.labels), self.settings.TOPK
            q = (self.logit_scale * self.local_cosines(*output[1:])).softmax(-1)
            own = q.topk(topk).indices == batch.labels[:, None, None]
            selected = ~own.any(-1)  # (B, P)
            entropy = (q * torch.log(q + 1e-5)).sum(-1)
            E = torch.where(selected, entropy, 0).sum() / selected.sum().clamp_min(1)
            return {"loss": ce + self.settings.LAMBDA_VALUE * E, "ce": ce, "entropy": E}
