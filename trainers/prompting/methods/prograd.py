"""ProGrad: Prompt-aligned Gradient for Prompt Tuning (Zhu et al., ICCV 2023; arXiv:2205.14865)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.sentences import SLOT
from ..encoders.templates import PROGRAD, template_of
from ..errors import need
from ..method import Method
from ..node import NotNegative, Positive, Switch
from ..registry import register
from ..teacher import Teacher
from .coop import CoOp


def _words(dataset: str) -> list[str]:
    """Return the words before the class name in the data set's sentence."""
    return template_of(PROGRAD, dataset).removesuffix(" {}.").split()


@register
class ProGrad(CoOp):
    """CoOp's context, whose gradient is kept from contradicting zero-shot CLIP.

    CoOp, with the class name at the end or the front. The distillation term, with q =
    softmax(logits0 / T), p = softmax(logits / T) and T of `LOSS`, is a cross-entropy; the teacher's
    entropy is not subtracted:

        KD = -(T^2 / B) sum_j sum_k q_jk log p_jk

    The gradient, separately for each parameter tensor, with a = dCE and u = dKD / |dKD|:

        g = a - LAMBDA (a . u) u   if a . u < 0,   else a

    dKD itself is never added; if dKD = 0, then g = a. Momentum and weight decay follow. This takes
    two backward passes through one graph. The teacher sees the same augmented image.

    `CTX_INIT` is a switch. True: w are the words of the data set's template (docs/methods.md,
    section 8) before the class name, q their number by spaces; the first N_CTX - q vectors are
    zero, the last q the embeddings of the first q tokens of w, and positions 1..N_CTX of
    `X ... X w {class}.` are replaced. A template with a comma has one token more than words: its
    last word stays fixed. False: N(0, 0.02^2), `X ... X`.

    **Published.** CTX_INIT True, N_CTX 16; RN50, batch 32, rate 0.002. Few-shot: 50 epochs with 1
    shot, 100 with 2 and 4, 200 with 8 and 16, ImageNet 50; LAMBDA 0.8 with 8 and 16 shots of
    OxfordFlowers, DescribableTextures and EuroSAT. Base-to-new: 4 shots, 100 epochs, ImageNet 50.
    Domain generalization: 4 shots, 50 epochs.

    **Checkpoint.** `ctx`.
    """

    training_only = ("NAME", "T", "LAMBDA")
    public = Public(
        outside={key: f"LOSS.{key}" for key in ("NAME", "T", "LAMBDA", "GM", "ALPHA")},
        ignored=("GM", "ALPHA"),
    )

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Switch = False
        CLASS_TOKEN_POSITION: Literal["end", "middle", "front"] = "end"
        NAME: Literal["", "prograd"] = "prograd"
        T: Positive = 1.0
        LAMBDA: NotNegative = 1.0

        def __post_init__(self) -> None:
            need(
                not self.CALIBRATE,
                "CALIBRATE is True, but ProGrad projects gradients of two terms alone: leave it "
                "out, or take CoOp",
            )
            words = _words(self.dataset) if self.CTX_INIT else []
            need(
                len(words) <= self.N_CTX,
                f"N_CTX is {self.N_CTX} but CTX_INIT starts from '{' '.join(words)}', which is "
                f"{len(words)} words: raise N_CTX, or set CTX_INIT False",
            )

    settings: Settings  # type: ignore[assignment]

    @property
    def start(self):
        """Placeholders and the words from which the context starts."""
        if not self.settings.CTX_INIT:
            return ""
        words = _words(self.settings.dataset)
        return " ".join([SLOT] * (self.settings.N_CTX - len(words)) + words)

    def build(self, clip_model, classnames, dataset):
        """Make the context, whose vectors without a word start from zero, and the teacher."""
        super().build(clip_model, classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, [template_of(PROGRAD, dataset)])
        if self.settings.CTX_INIT:
            ctx = self.prompt_learner.ctx
            ctx.data[: len(ctx) - len(_words(dataset))] = 0

    def loss(self, output, batch):
        """Return the cross-entropy, and the distillation term that `backward` reads."""
        T = self.settings.T
        q = (self.teacher.logits(output.image.z[:, 0]) / T).softmax(-1)
        ce = F.cross_entropy(output.logits, batch.labels)
        return {"loss": ce, "ce": ce, "kd": T**2 * F.cross_entropy(output.logits / T, q)}

    def backward(self, terms, scale=lambda loss: loss):
        """Write g = a - LAMBDA min(a . u, 0) u to each parameter's `.grad`."""
        trained = list(self.learned().values())
        gradients = torch.autograd.grad(scale(terms["ce"]), trained, retain_graph=True)
        distilled = torch.autograd.grad(scale(terms["kd"]), trained)
        for parameter, a, b in zip(trained, gradients, distilled, strict=True):
            u = b / b.norm().clamp_min(torch.finfo(b.dtype).tiny)  # 0 if b is 0
            parameter.grad = a - self.settings.LAMBDA * (a * u).sum().clamp_max(0) * u
