"""KgCoOp (Yao et al., CVPR 2023; arXiv:2303.13283).

Visual-Language Prompt Tuning with Knowledge-guided Context Optimization.
"""

from dataclasses import dataclass

from ..encoders.templates import KGCOOP, template_of
from ..method import Method, register
from ..node import Switch
from ..spec import PromptSpec, text_prompt
from ..teacher import Teacher

WORDS = "a photo of a"


@register
class KgCoOp(Method):
    """CoOp's context, whose text features are kept close to those of a hand-written sentence.

    L = CE + W * (1 - mean_k cos(h_k, h0_k)) over all classes (docs/methods.md, section 8).
    `CTX_INIT` is a switch: any true value starts the context from the words `a photo of a`.
    """

    node = "COOP"
    saves_submodule = True
    dead_weights = ("bias_vectors", "meta_net.")
    training_only = ("W",)
    ignored = ("ALPHA", "CLASS_TOKEN_POSITION")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Switch = False
        W: float = 1.0

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        words = WORDS if settings.CTX_INIT else ""
        return text_prompt(settings.N_CTX, words, class_specific=settings.CSC and not words)

    def setup(self, clip_model, classnames, dataset):
        """Make the teacher with the data set's sentence."""
        self.teacher = Teacher(clip_model, classnames, [template_of(KGCOOP, dataset)])
        self.regularizers = [({"kg": self.settings.W}, self.teacher)]
