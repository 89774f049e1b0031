"""HiCroPL (Zheng et al., ICCV 2025; arXiv:2507.14976).

Hierarchical Cross-modal Prompt Learning for Vision-Language Models.

Letters: b tokens of a prompt, J blocks with prompts, k of them before the flow turns; W and V the
widths of the text and the image encoder.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.public import Public
from ..encoders.class_text import ClassText
from ..errors import need
from ..full_precision import no_autocast
from ..marks import FILE
from ..method import Method
from ..node import NotNegative, Words
from ..prompts import Contexts, Size, Textual, normal, size_of, visual_width
from ..registry import register
from ..regularizers import apart
from ..teacher import Teacher, sentences_of
from .prompted import Point, Prompted

HEADS = 8  # of every attention between prompts
Prompts = list[torch.Tensor]  # of the J blocks, each (b, W) or (b, V)


class Pool(nn.Module):
    """P(q, S) = LN2(q + MHA(LN1 q, LN1 S, LN1 S)), the proxy of a block's prompt S."""

    def __init__(self, width: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, q: torch.Tensor, S: torch.Tensor) -> torch.Tensor:
        """Return the proxy (1, width) of S (b, width), for a query q (1, width)."""
        key = self.ln_1(S)
        proxy: torch.Tensor = self.ln_2(
            q + self.attn(self.ln_1(q), key, key, need_weights=False)[0]
        )
        return proxy


class Mapper(nn.Module):
    """M(X, Y) = a + FFN(LN2 a), a = L_q X + MHA(LN1 L_q X, LN1 L_k Y, LN1 L_v Y)."""

    def __init__(self, width: int, other: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS)
        self.linear_q = nn.Linear(width, width)
        self.linear_k, self.linear_v = nn.Linear(other, width), nn.Linear(other, width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        """Return prompts X (n, width) of one side after proxies Y (m, other) of the other one."""
        a = self.linear_q(X)
        key, value = self.ln_1(self.linear_k(Y)), self.ln_1(self.linear_v(Y))
        a = a + self.attn(self.ln_1(a), key, value, need_weights=False)[0]
        x = self.ffn["c_fc"](self.ln_2(a))
        out: torch.Tensor = a + self.ffn["c_proj"](x * torch.sigmoid(1.702 * x))  # QuickGELU
        return out


def instead_of(prompts: Prompts, values: Prompts) -> Prompts:
    """Return the values, with gradients to the prompts in whose place they stand."""
    return [(p - p.detach()) + new.detach() for p, new in zip(prompts, values, strict=True)]


class TwoWay(nn.Module):
    """Textual and visual prompts between which knowledge flows: Eq. 1 and 2 of `HiCroPL`.

    Args:
        templates: of the one textual prompt.
        size: b and J.
        k: the number of first blocks whose visual prompts get the flow.
        inside: True if the flow is inside the graph; else only the prompts learn.
    """

    def __init__(self, clip_model: Any, templates: Sequence[str], size: Size, k: int, inside: bool):
        super().__init__()
        (b, J, _), self.k, self.inside = size, k, inside
        self.ctx = Textual(clip_model, templates, b, single=True).ctx
        W, V = self.ctx.shape[-1], visual_width(clip_model)
        self.cross_prompts_text = nn.ParameterList(
            [self.ctx, *(normal(b, W) for _ in range(J - 1))]
        )
        self.text2visual_net, self.visual2text_net = Mapper(V, W), Mapper(W, V)

        def copies(first: Any, count: int) -> list[Any]:
            return [first, *(copy.deepcopy(first) for _ in range(count - 1))]

        # as in the public code on a GPU, these start equal
        self.cross_prompts_visual = nn.ParameterList(copies(normal(b, V), J))
        self.attn_pooling_text_nets = nn.ModuleList(copies(Pool(W), k))
        self.attn_pooling_visual_nets = nn.ModuleList(copies(Pool(V), J - k))
        self.text_proxy_token = nn.ParameterList(copies(nn.Parameter(torch.randn(1, W)), k))
        self.visual_proxy_token = nn.ParameterList(copies(nn.Parameter(torch.randn(1, V)), J - k))
        if not inside:
            self.requires_grad_(False)
            self.cross_prompts_text.requires_grad_(True)
            self.cross_prompts_visual.requires_grad_(True)
        self._flowed: tuple[Prompts, Prompts] | None = None  # of the step that is under way

    @property
    def prompts(self) -> tuple[Prompts, Prompts]:
        """The textual and the visual prompts before the flow."""
        return [*self.cross_prompts_text], [*self.cross_prompts_visual]

    def proxies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return y (k, W) of the early textual and y (J - k, V) of the late visual prompts."""
        text, vision = self.prompts
        early = zip(self.attn_pooling_text_nets, self.text_proxy_token, text, strict=False)
        late = zip(
            self.attn_pooling_visual_nets, self.visual_proxy_token, vision[self.k :], strict=True
        )
        return (
            torch.cat([pool(q, t) for pool, q, t in early]),
            torch.cat([pool(q, v) for pool, q, v in late]),
        )

    def flow(self) -> tuple[Prompts, Prompts]:
        """Return the textual and the visual prompts after the flow."""
        (text, vision), k, (y, x) = self.prompts, self.k, self.proxies()
        early = self.text2visual_net(torch.cat(vision[:k]), y).split(len(self.ctx))  # Eq. 1
        late = self.visual2text_net(torch.cat(text[k:]), x).split(len(self.ctx))  # Eq. 2
        return [*text[:k], *late], [*early, *vision[k:]]

    def forward(self) -> Contexts:
        """Return the contexts of both encoders."""
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and self.inside), no_autocast(self.ctx.device.type):
            flowed = self.flow()
        if learns and not self.inside:
            self._flowed = flowed
            flowed = instead_of(self.prompts[0], flowed[0]), instead_of(self.prompts[1], flowed[1])
        text, vision = flowed
        return Contexts([t[None] for t in text], [v[None] for v in vision])

    @torch.no_grad()
    def overwrite(self) -> None:
        """Put the prompts of the last step's flow in the place of those before it."""
        for side, after in zip(self.prompts, self._flowed or ((), ()), strict=True):
            for p, new in zip(side, after, strict=False):
                p.copy_(new)
        self._flowed = None


@register
class HiCroPL(Prompted):
    """Prompts on both sides, which pass knowledge from text to image, then from image to text.

    J = PROMPT_DEPTH blocks have prompts t_i (b, W) and v_i (b, V), b = N_CTX, which enter as
    IVLP's. Before, the first k = CROSS_LAYER visual prompts and the last J - k textual ones are
    replaced, all of a side at a time:

        [v_0 .. v_{k-1}] <- M_tv([v_0 .. v_{k-1}], [P_i(q_i, t_i), i < k])       (1)
        [t_k .. t_{J-1}] <- M_vt([t_k .. t_{J-1}], [P_i(q_i, v_i), i >= k])      (2)

        P(q, S) = LN2(q + MHA(LN1 q, LN1 S, LN1 S))
        M(X, Y) = a + FFN(LN2 a),   a = Lq X + MHA(LN1 Lq X, LN1 Lk Y, LN1 Lv Y)

    MHA has 8 heads, FFN is 4-fold with QuickGELU. With z_p, h_p the features under prompts, and
    h0_k the normalised mean of the normalised features of all sentences about class k,

        z = n(z_p + z0),   h = n(h_p + h0),   logits = s z . h
        loss = CE + LAMBD [(1 - mean h . h0) + (1 - mean z . z0)]

    FORM `released` is what the public code computes: it copies the results of (1) and (2) into the
    prompts' data, outside the graph. Only the 2 J prompts learn, at their new values; M, P and q
    stay random. There every forward moves the prompts again, in evaluations too; here only a
    training step does, and every evaluation gives what the public code's first pass gives. FORM
    `paper` keeps the flow inside the graph, where everything learns, and moves no prompts.

    `SENTENCES` is a JSON file as [CoPrompt](#coprompt)'s, whose lists may differ in length.
    Evaluations read it, too: for transfer, it has the classes of all data sets. With an N_CTX of at
    most 4, CTX_INIT stays and its first b words are learned; else there are no words. z0 is of the
    run's own CLIP; the public code takes that of TEACHER_NAME.

    **Published.** N_CTX 16, PROMPT_DEPTH 12, LAMBD 12; Adam, rate 0.0025, eps 0.001, batch 32, 50
    epochs (base-to-new on ImageNet: 128, 40), the best epoch on validation images (here not on
    ImageNet, where these are the test images). Transfer: N_CTX 2, CROSS_LAYER 5, PROMPT_DEPTH 6, 5
    epochs, the last one. The published base 85.89, new 77.99 and H 81.75 are of `released` and of
    prompts that each test batch moves: on the tiny CLIP of the parity file, whose logits of an
    image span about 2, by up to 0.72 in the second pass and 1.19 in the 21st.

    **Checkpoint.** `prompt_learner.{ctx, cross_prompts_text.{i}, cross_prompts_visual.{i}}`, and
    all of M, P and q.
    """

    node = "HICROPL"
    public = Public(
        folder="VLPromptLearner",
        dead=("ZS_image_encoder.", "cross_prompts_text.0"),  # the latter is ctx
        ignored=("TEACHER_NAME",),
    )
    takes = (FILE,)
    training_only = ("LAMBD",)
    point = Point(M=1, N=1, coupling="independent")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"
        PROMPT_DEPTH: int = 9
        CROSS_LAYER: int = 6
        LAMBD: NotNegative = 10.0
        SENTENCES: str | Mapping | None = None  # a JSON file
        FORM: Literal["released", "paper"] = "released"

        def __post_init__(self) -> None:
            need(
                1 <= self.CROSS_LAYER < self.PROMPT_DEPTH,
                f"CROSS_LAYER is {self.CROSS_LAYER} but must be from 1 to PROMPT_DEPTH - 1, which "
                f"is {self.PROMPT_DEPTH - 1}",
            )

    settings: Settings

    text_size = vision_size = size_of("N_CTX", "PROMPT_DEPTH")

    def build(self, clip_model, classnames, dataset):
        """Make the prompts with their flow, and the teacher."""
        s = self.settings
        inside = s.FORM == "paper"
        self.prompt_learner = TwoWay(
            clip_model, self.templates(), self.text_size, s.CROSS_LAYER, inside
        )
        self.teacher = Teacher(
            clip_model,
            classnames,
            lambda: ClassText([], classnames, lists=sentences_of(s.SENTENCES, classnames)),
        )

    def image_features(self, images, contexts):
        """Return z = n(z_p + z0), and z0."""
        features = super().image_features(images, contexts)
        z0 = self.teacher.z(images)[:, None]
        raw = features.z.float() + z0
        return features._replace(z=F.normalize(raw, dim=-1), raw=raw, untouched=z0)

    def text_features(self, contexts):
        """Return h = n(h_p + h0)."""
        features = super().text_features(contexts)
        raw = features.h.float() + self.teacher.h
        return features._replace(h=F.normalize(raw, dim=-1), raw=raw)

    def loss(self, output, batch):
        """Return the cross-entropy, the distances from z0 and h0 without LAMBD, and the loss."""
        ce = F.cross_entropy(output.logits, batch.labels)
        text = apart(output.text.h[0], self.teacher.h)
        image = apart(output.image.z[:, 0], output.image.untouched[:, 0])
        loss = ce + self.settings.LAMBD * (text + image)
        return {"loss": loss, "ce": ce, "distill_text": text, "distill_image": image}

    def backward(self, terms, scale=lambda loss: loss):
        """Write the gradients; in the released form, put the flow's results into the prompts."""
        super().backward(terms, scale)
        self.prompt_learner.overwrite()
