"""Diagnostics of transport: how far a model's plans are from the uniform plan.

Letters as in `scores`. A plan T with weights a of its rows and b of its columns is compared with
the uniform plan a b', which matches nothing: by entropy, where a b' has the maximum (Cuturi 2013,
section 3), and by the total variation sum |T - a b'| / 2, from 0 to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoders.vision import ImageFeatures
from .scores import similarity
from .transport.plans import token_plan
from .transport.released import sinkhorn_released

if TYPE_CHECKING:
    from .encoders.text import TextFeatures
    from .model.parts import Output
    from .model.prompted_clip import PromptedCLIP
    from .spec import PromptSpec

IMAGES = 32  # sampled in an evaluation
NEARLY_UNIFORM = 0.1  # total variation below which the log has a remark


class Problem(NamedTuple):
    """Solved problems: plans (..., P, L) and the weights of their rows and columns."""

    T: Tensor
    a: Tensor
    b: Tensor


def has_plans(spec: PromptSpec) -> bool:
    """Return True if the score of a method solves transport problems."""
    if spec.score == "plot":
        return True
    several = max(spec.M, 1) * max(spec.N, 1) > 1
    return (
        spec.score in ("ot", "released")
        and spec.plan in ("sinkhorn", "scaled", "unbalanced")
        and (spec.token_level or several)
    )


def plans(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, k: Tensor
) -> dict[str, Problem]:
    """Return the plans between B images and one class each, as the method's score solves them.

    Args:
        spec: the method; `has_plans` must hold.
        image: features of the images.
        text: features of the classes.
        k: (B,), the number of each image's class.

    Returns:
        `tokens`: plans (B, M, N, P, L), if the method has a token level; `prompts`: plans
        (B, M, N), if there are several prompts. PLOT has `prompts` (B, P, N), between patches and
        prompts.
    """
    z, h = image.z.float(), text.h.float()[:, k].transpose(0, 1)  # (B, M, D), (B, N, D)
    if spec.score == "plot":
        assert image.r is not None
        S = image.r[:, 0].float() @ h.mT
        return {"prompts": _uniform_weights(sinkhorn_released(1 - S, reg=spec.reg).plan)}
    found, d = {}, None
    how = spec.reg, spec.rho, spec.tol, spec.max_iter
    S = z @ h.mT
    if spec.token_level:
        assert image.r is not None and text.s is not None and text.s_weights is not None
        s, mass = text.s.float()[:, k].transpose(0, 1), text.s_weights.mass[:, k].transpose(0, 1)
        C = 1 - torch.einsum("bmpd,bnld->bmnpl", image.r.float(), s)
        b = mass[:, None].expand(*C.shape[:-2], -1)
        if spec.score == "released":
            T = sinkhorn_released(C, b=b, reg=spec.reg, group_dims=2).plan
            d = -(T * (1 - C)).sum((-2, -1))
        else:
            T = token_plan(spec.plan, C, b, *how)
            d = (T * C).sum((-2, -1))
        found["tokens"] = Problem(T, torch.full_like(T[..., 0], 1 / T.shape[-2]), b)
    if S[0].numel() > 1:
        if spec.score == "released":
            C = 1 - S if d is None else 1 - S - d
            T = sinkhorn_released(C, reg=spec.reg).plan
        else:
            C = 1 - similarity(spec, S, d)
            plan = "scaled" if spec.plan == "scaled" else "sinkhorn"
            T = token_plan(plan, C, torch.full_like(C[..., 0, :], 1 / C.shape[-1]), *how)
        found["prompts"] = _uniform_weights(T)
    return found


def _uniform_weights(T: Tensor) -> Problem:
    P, L = T.shape[-2:]
    return Problem(T, torch.full_like(T[..., 0], 1 / P), torch.full_like(T[..., 0, :], 1 / L))


def departure(problem: Problem) -> dict[str, float]:
    """Return the distance of plans from the uniform plan, averaged over the problems.

    Returns:
        `entropy`, divided by the maximum: 1 for the uniform plan; `total_variation`: 0 for it.
    """
    T, a, b = problem
    uniform = a[..., :, None] * b[..., None, :]
    entropy = [torch.special.entr(plan).sum((-2, -1)) for plan in (T, uniform)]
    return {
        "entropy": float((entropy[0] / entropy[1]).mean()),
        "total_variation": float((T - uniform).abs().sum((-2, -1)).mean() / 2),
    }


def mean_cosine(x: Tensor) -> float | None:
    """Return the mean cosine between pairs of n prompts, from features (..., n, D).

    None if n is 1.
    """
    n = x.shape[-2]
    if n < 2:
        return None
    x = F.normalize(x.float(), dim=-1)
    return float(((x @ x.mT).sum((-2, -1)) - n).mean() / (n * (n - 1)))


class TransportSample:
    """An evenly spaced sample of an evaluation's images, whose plans are measured at the end.

    Args:
        model: the model that is evaluated; `has_plans` must hold for its spec.
        total: number of images in the evaluation.
    """

    def __init__(self, model: PromptedCLIP, total: int):
        self._model = model
        self._every = max(1, total // IMAGES)
        self._seen = 0
        self._z: list[Tensor] = []
        self._r: list[Tensor] = []
        self._k: list[Tensor] = []  # predicted classes

    def add(self, output: Output) -> None:
        """Keep the features and predicted classes of the sampled images of a batch."""
        first = -self._seen % self._every
        rows = slice(first, None, self._every)
        self._seen += len(output.logits)
        if first < len(output.logits):
            self._z.append(output.image.z[rows].clone())
            self._k.append(output.logits[rows].argmax(1))
            if output.image.r is not None:
                self._r.append(output.image.r[rows].clone())

    @torch.no_grad()
    def measure(self) -> dict[str, object]:
        """Return the entry on transport for the record.

        Returns:
            `images`, their number; the `departure` of each level, under its name in `plans`;
            `visual_cosine` and `textual_cosine`, the `mean_cosine` of each side's prompts.
        """
        spec, text = self._model.spec, self._model.text_features()
        z, k = torch.cat(self._z), torch.cat(self._k)
        image = ImageFeatures(z, torch.cat(self._r) if self._r else None)
        found = plans(spec, image, text, k)
        return {
            "images": len(z),
            **{level: departure(problem) for level, problem in found.items()},
            "visual_cosine": mean_cosine(z),
            "textual_cosine": mean_cosine(text.h[:, k].transpose(0, 1)),
        }


def remark(measured: dict) -> str | None:
    """Return a line for the log if plans are nearly uniform, or None."""
    uniform = {
        level: measured[level]["total_variation"]
        for level in ("tokens", "prompts")
        if level in measured and measured[level]["total_variation"] < NEARLY_UNIFORM
    }
    if not uniform:
        return None
    each = " and ".join(
        f"between {level} (total variation {tv:.3f})" for level, tv in uniform.items()
    )
    return f"Transport {each} is nearly the uniform plan (docs/metrics.md)"
