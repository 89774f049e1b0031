"""KgCoOp (Yao et al., CVPR 2023; arXiv:2303.13283).

Visual-Language Prompt Tuning with Knowledge-guided Context Optimization.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from ..encoders.templates import KGCOOP, template_of
from ..errors import not_negative
from ..method import Method, register
from ..node import Switch
from ..regularizers import apart
from ..teacher import Teacher
from .coop import CoOp

WORDS = "a photo of a"


@register
class KgCoOp(CoOp):
    """CoOp's context, whose text features are kept close to those of a hand-written sentence.

    L = CE + W * (1 - mean_k cos(h_k, h0_k)) over all classes (docs/methods.md, section 8).
    `CTX_INIT` is a switch: any true value starts the context from the words `a photo of a`.
    """

    dead_weights = ("bias_vectors", "meta_net.")
    training_only = ("W",)
    ignored = ("ALPHA", "CLASS_TOKEN_POSITION")
    position = "end"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Switch = False
        W: float = 1.0

        def __post_init__(self) -> None:
            not_negative("W", self.W)

    settings: Settings  # type: ignore[assignment]

    @property
    def start(self) -> str:
        """The words from which the context starts."""
        return WORDS if self.settings.CTX_INIT else ""

    def build(self, clip_model, classnames, dataset):
        """Make the context, and the teacher with the data set's sentence."""
        super().build(clip_model, classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, [template_of(KGCOOP, dataset)])

    def loss(self, output, batch):
        """Return the cross-entropy and W times the distance from the teacher's text features."""
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "kg": self.settings.W * apart(output.text.h, self.teacher.h),
        }
