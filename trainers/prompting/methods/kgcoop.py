"""KgCoOp (Yao et al., CVPR 2023; arXiv:2303.13283).

Visual-Language Prompt Tuning with Knowledge-guided Context Optimization.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.templates import KGCOOP, template_of
from ..method import Method
from ..node import NotNegative, Switch
from ..registry import register
from ..regularizers import apart
from ..teacher import Teacher
from .coop import CoOp

WORDS = "a photo of a"


@register
class KgCoOp(CoOp):
    """CoOp's context, whose text features are kept close to those of a hand-written sentence.

    CoOp with the class name at the end.

        loss = CE + W (1 - 1/K sum_k cos(h_k, h0_k))

    The mean is over all classes of the list, not over the labels of the batch. h0_k is of one
    hand-written template of the data set (docs/methods.md, section 8). `CTX_INIT` is a switch: any
    true value starts the context from the words `a photo of a`; otherwise `N_CTX` vectors start
    from N(0, 0.02^2), with `CSC` separate ones for each class.

    **Published.** CTX_INIT True, N_CTX 4, W 8; batch 128, rate 0.002, 100 epochs, for every data
    set. CLASS_TOKEN_POSITION is read and ignored.

    **Checkpoint.** `ctx`; `bias_vectors`, `meta_net.linear1.*` and token buffers in public files
    are ignored.
    """

    public = Public(dead=("bias_vectors", "meta_net."), ignored=("ALPHA", "CLASS_TOKEN_POSITION"))
    training_only: ClassVar[tuple[str, ...]] = ("W",)
    position = "end"
    taught = KGCOOP  # the templates of the teacher
    weight = property(attrgetter("settings.W"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Switch = False
        W: NotNegative = 1.0

    settings: Settings  # type: ignore[assignment]

    @property
    def start(self):
        """The words from which the context starts."""
        return WORDS if self.settings.CTX_INIT else ""

    def build(self, clip_model, classnames, dataset):
        """Make the context, and the teacher with the data set's sentence."""
        super().build(clip_model, classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, [template_of(self.taught, dataset)])

    def loss(self, output, batch):
        """Return the cross-entropy and W times the distance from the teacher's text features."""
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "kg": self.weight * apart(output.text.h, self.teacher.h),
        }
