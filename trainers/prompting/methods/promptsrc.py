"""PromptSRC (Khattak et al., ICCV 2023; arXiv:2307.06948).

Self-regulating Prompts: Foundational Model Adaptation without Forgetting.
"""

from dataclasses import dataclass

from ..averaging import GaussianMean
from ..encoders.templates import PROMPTSRC
from ..errors import UserError
from ..method import register
from ..teacher import Teacher
from .ivlp import IVLP


@register
class PromptSRC(IVLP):
    """IVLP, kept close to CLIP's features and predictions, and averaged over the epochs.

    L = CE + TEXT_LOSS_WEIGHT L_text + IMAGE_LOSS_WEIGHT L_image + L_logits, which compare with 60
    sentences per class and the image features of the untouched CLIP (docs/methods.md, section 10).
    After the last epoch the prompts are set to their mean over the epochs, weighted by a normal
    density with GPA_MEAN and GPA_STD.
    """

    node = "PROMPTSRC"
    dead_weights = ("ZS_image_encoder.",)
    training_only = ("TEXT_LOSS_WEIGHT", "IMAGE_LOSS_WEIGHT", "GPA_MEAN", "GPA_STD", "MAX_EPOCH")
    outside = {"MAX_EPOCH": "OPTIM.MAX_EPOCH"}

    @dataclass(frozen=True)
    class Settings(IVLP.Settings):
        """The keys of the node."""

        N_CTX_VISION: int = 4
        N_CTX_TEXT: int = 4
        TEXT_LOSS_WEIGHT: int = 25
        IMAGE_LOSS_WEIGHT: int = 10
        GPA_MEAN: int = 15
        GPA_STD: int = 1
        MAX_EPOCH: int = 20

    settings: Settings

    def setup(self, clip_model, classnames, dataset):
        """Make the teacher with 60 sentences, and the mean over the epochs."""
        settings = self.settings
        if settings.GPA_STD <= 0:
            raise UserError(f"GPA_STD is {settings.GPA_STD}: the spread of epochs must be positive")
        if settings.MAX_EPOCH < settings.GPA_MEAN:
            raise UserError(
                f"OPTIM.MAX_EPOCH is {settings.MAX_EPOCH} but the mean over the epochs is centred "
                f"on epoch {settings.GPA_MEAN}: lower TRAINER.PROMPTSRC.GPA_MEAN, or train longer"
            )
        weights = {"scl_text": settings.TEXT_LOSS_WEIGHT, "scl_image": settings.IMAGE_LOSS_WEIGHT}
        self.teacher = Teacher(clip_model, classnames, PROMPTSRC)
        self.regularizers = [({**weights, "scl_logits": 1.0}, self.teacher)]
        trained = self.model.public_parameters()
        self.average = GaussianMean(trained, settings.GPA_MEAN, settings.GPA_STD)

    def after_epoch(self, epoch, last):
        """Add the epoch's prompts to their mean."""
        self.average.add(self.model.public_parameters(), epoch, last)
