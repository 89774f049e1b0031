"""TCP (Yao et al., CVPR 2024; arXiv:2311.18231).

TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from ..backbones.openai_clip.model import QuickGELU
from ..encoders.templates import TCP as SENTENCES
from ..encoders.templates import TCP_ENDS, template_of
from ..errors import UserError
from ..method import Method, register
from ..model.learner import Contexts
from ..model.parts import Parts
from ..node import Switch
from ..spec import PromptSpec, text_prompt
from ..teacher import Teacher
from .kgcoop import WORDS

KG_WEIGHT = 8.0  # a constant of the published code, like the network's width D / 4


class ClassTokens(Parts):
    """A network that makes b tokens for each class: t_k = W2 QuickGELU(W1 h0_k + b1) + b2."""

    prefix = "prompt_learner."

    def __init__(self, teacher: Teacher, dim: int, length: int, width: int):
        super().__init__()
        self.teacher = teacher
        self.shape = (length, width)
        layers = {
            "linear1": nn.Linear(dim, dim // 4),
            "gelu": QuickGELU(),
            "linear2": nn.Linear(dim // 4, length * width),
        }
        self.meta_net = nn.Sequential(OrderedDict(layers))

    def tokens(self) -> torch.Tensor:
        """Return the tokens t (K, b, W)."""
        return self.meta_net(self.teacher.h).unflatten(-1, self.shape)

    def contexts(self, contexts: Contexts) -> Contexts:
        """Return the contexts with the tokens of each class as `inserted`."""
        return contexts._replace(inserted=self.tokens())


@register
class TCP(Method):
    """CoOp's context, replaced by tokens of each class at text block INSERT_BLOCK.

    A small network makes these tokens from the text feature h0_k of a hand-written sentence.
    L = CE + 8 (1 - mean_k cos(h_k, h0_k)) (docs/methods.md, section 11). `CTX_INIT` is a switch,
    as in KgCoOp. The key `W` does not affect the loss of the published code.
    """

    node = "COOP"
    saves_submodule = True
    ignored = ("ALPHA", "W", "CLASS_TOKEN_POSITION")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 4
        CSC: bool = False
        CTX_INIT: Switch = False
        INSERT_BLOCK: int = 8

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        if settings.CSC:
            raise UserError("TCP has tokens instead of contexts for each class: set CSC False")
        point = text_prompt(
            settings.N_CTX, WORDS if settings.CTX_INIT else "", insert_block=settings.INSERT_BLOCK
        )
        (words,) = point.templates
        return point.with_(templates=(f"{words} {TCP_ENDS.get(settings.dataset, '{}.')}",))

    def setup(self, clip_model, classnames, dataset):
        """Make the teacher, and the network from its text features to tokens."""
        self.teacher = Teacher(clip_model, classnames, [template_of(SENTENCES, dataset)])
        self.regularizers = [({"kg": KG_WEIGHT}, self.teacher)]
        width, dim = clip_model.text_projection.shape
        self.model.parts = ClassTokens(self.teacher, dim, self.model.spec.text_length, width)
