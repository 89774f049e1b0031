"""ProGrad: Prompt-aligned Gradient for Prompt Tuning (Zhu et al., ICCV 2023; arXiv:2205.14865)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..encoders.sentences import SLOT
from ..encoders.templates import PROGRAD, template_of
from ..errors import need, not_negative, one_of
from ..method import Method, register
from ..node import Switch
from ..teacher import Teacher
from .coop import CoOp


def _words(dataset: str) -> list[str]:
    """Return the words before the class name in the data set's sentence."""
    return template_of(PROGRAD, dataset).removesuffix(" {}.").split()


@register
class ProGrad(CoOp):
    """CoOp's context, whose gradient is kept from contradicting zero-shot CLIP.

    The gradient a of the cross-entropy loses its component against the gradient of a distillation
    term: g = a - LAMBDA min(a . u, 0) u, u the direction of that gradient. The distillation term is
    KD = -(T^2 / B) sum q log p, where q is the softmax of zero-shot CLIP and p that of the prompted
    CLIP, at temperature T (docs/methods.md, section 9). `CTX_INIT` is a switch: any true value
    starts the last vectors from the words of the data set's sentence, and the others from zero.
    """

    training_only = ("NAME", "T", "LAMBDA")
    ignored = ("GM", "ALPHA")
    outside = {key: f"LOSS.{key}" for key in ("NAME", "T", "LAMBDA", "GM", "ALPHA")}

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Switch = False
        CLASS_TOKEN_POSITION: str = "end"
        NAME: str = "prograd"
        T: float = 1.0
        LAMBDA: float = 1.0

        def __post_init__(self) -> None:
            need(
                self.NAME in ("", "prograd"),
                f"LOSS.NAME is '{self.NAME}' but ProGrad has only the loss prograd",
            )
            one_of("CLASS_TOKEN_POSITION", self.CLASS_TOKEN_POSITION, ("end", "middle", "front"))
            not_negative("LOSS.LAMBDA", self.LAMBDA)
            need(0 < self.T < float("inf"), f"LOSS.T is {self.T} but must be positive")
            words = _words(self.dataset) if self.CTX_INIT else []
            need(
                len(words) <= self.N_CTX,
                f"N_CTX is {self.N_CTX} but CTX_INIT starts from '{' '.join(words)}', which is "
                f"{len(words)} words: raise N_CTX, or set CTX_INIT False",
            )

    settings: Settings  # type: ignore[assignment]

    @property
    def start(self) -> str:
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
