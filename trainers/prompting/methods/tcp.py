"""TCP (Yao et al., CVPR 2024; arXiv:2311.18231).

TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model.
"""

from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch
from torch import nn

from ..backbones.openai_clip.model import QuickGELU
from ..checkpoint.public import Public
from ..encoders.templates import TCP as SENTENCES
from ..encoders.templates import TCP_ENDS
from ..method import Method
from ..node import From1, Switch
from ..registry import register
from .kgcoop import KgCoOp


@register
class TCP(KgCoOp):
    """CoOp's context, replaced by tokens of each class at text block INSERT_BLOCK.

    CoOp with 4 tokens, whose sentence is a template of the data set (docs/methods.md, section 8)
    with positions 1..4 replaced by the context; words after the class name stay. With h0_k of one
    template, W1 (D/4, D), W2 (4 width, D/4), and g(x) = x sigmoid(1.702 x):

        t_k  = W2 g(W1 h0_k + b1) + b2       read as 4 tokens of `width`, token first
        loss = CE + 8 (1 - 1/K sum_k cos(h_k, h0_k))

    At the input of text block INSERT_BLOCK, counted from 0, the states at positions 1..4 of class k
    are replaced by t_k, without positional embedding. `CTX_INIT` is a switch: true starts from
    `a photo of a`, false from N(0, 0.02^2). `W` has no effect, as in the published code, where only
    N_CTX 4 works.

    **Published.** CTX_INIT False; Adam (rate 0.002, L2 weight decay 5e-4, eps 1e-3), batch 32, 50
    epochs, 25 for ImageNet and SUN397.

    **Checkpoint.** `ctx`, `meta_net.linear{1,2}.{weight,bias}`.
    """

    public = Public(dead=(), ignored=("ALPHA", "W", "CLASS_TOKEN_POSITION"))
    training_only = ()
    class_bound = False
    taught = SENTENCES
    weight = 8.0  # a constant of the published code, like the network's width D / 4

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 4
        CSC: Literal[False] = False  # it has tokens for each class instead
        CTX_INIT: Switch = False
        INSERT_BLOCK: From1 = 8

    settings: Settings  # type: ignore[assignment]

    insert_block = property(attrgetter("settings.INSERT_BLOCK"))

    def templates(self):
        """Return the template, which ends in the words of the data set."""
        (words,) = super().templates()
        return [f"{words} {TCP_ENDS.get(self.settings.dataset, '{}.')}"]

    def build(self, clip_model, classnames, dataset):
        """Make the context, the teacher and the network t_k = W2 QuickGELU(W1 h0_k + b1) + b2."""
        super().build(clip_model, classnames, dataset)
        D, (b, width) = self.width, self.prompt_learner.ctx.shape
        layers = {
            "linear1": nn.Linear(D, D // 4),
            "gelu": QuickGELU(),
            "linear2": nn.Linear(D // 4, b * width),
        }
        self.prompt_learner.meta_net = nn.Sequential(OrderedDict(layers))

    def tokens(self) -> torch.Tensor:
        """Return the tokens t (K, b, W) of the classes."""
        learner = self.prompt_learner
        tokens: torch.Tensor = learner.meta_net(self.teacher.h)
        return tokens.unflatten(-1, learner.ctx.shape)

    def contexts(self):
        """Return the context, and the tokens that replace it at INSERT_BLOCK."""
        return super().contexts()._replace(inserted=self.tokens())
