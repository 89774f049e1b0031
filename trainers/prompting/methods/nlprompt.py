"""NLPrompt (Pan et al., CVPR 2025; arXiv:2412.01256).

NLPrompt: Noise-Label Prompt Learning for Vision-Language Models.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from ..capabilities.planned import Planned
from ..checkpoint.public import Public
from ..node import Fraction, From0, Positive
from ..registry import register
from ..transport.released import sinkhorn_released
from ..transport.scalings import widest
from ..transport.solver import sinkhorn
from .coop import CoOp

EPSILON = 1e-6  # added to p_y
ROUNDS, TOL = 1000, 1e-6  # of Sinkhorn's iteration
MODES = {"linear": lambda t: t, "exp": lambda t: 1 - math.exp(-4 * t)}
SCORES = {"out": lambda p: p, "logP": lambda p: p.log_softmax(1), "softmax": lambda p: p.softmax(1)}
OF_DATASET = "USE_OT", "REG_E", "CURRICLUM_EPOCH", "BEGIN_RATE", "CURRICLUM_MODE", "PMODE"


class Split(NamedTuple):
    """The division of N training images."""

    plan: torch.Tensor  # T, (N, K), float64
    pseudo_label: torch.Tensor  # (N,), argmax_k T
    selected: torch.Tensor  # (N,), True for those of the largest max_k T
    clean: torch.Tensor  # (N,), True for selected images whose label is the pseudo label


@register
class NLPrompt(Planned, CoOp):
    """CoOp's prompt, trained with wrong labels: before each epoch, transport finds the clean ones.

    With the present prompt, p = softmax(s z . h) of all N training images, augmented, gives a cost
    and the entropic plan between images and classes, both uniform:

        C = -log_softmax(p),   T = argmin_T <T, C> - REG_E H(T)

    p is a softmax already, so costs differ by 1 at most. An image is clean if its label is
    argmax_k T_k, and it is among the int(N budget) images with the largest max_k T_k. Then come all
    steps on clean images, and those on the others:

        L = CE,   L = mean(1 - (p_y + 1e-6))

    Labels are never changed, and T does not depend on them. budget = 1, or, in the first
    CURRICLUM_EPOCH epochs, rises from BEGIN_RATE, as CURRICLUM_MODE `linear` or `exp`. PMODE `out`
    and `softmax` take -p and -softmax(p) as C. With USE_OT False it is CoOp.

    FORM `log` solves T in the log domain, for any REG_E. `released` does as the public code: where
    exp(-C / REG_E) underflows, as with the REG_E of its script, T = 0, so that images labelled with
    the first class are clean, and no others; and budget is at most the sum of N times 1/N, which
    rounding may leave below 1: then one image fewer is selected. PyTorch's sum does so for some N,
    such as 24 and 160, which may depend on the processor.

    Wrong labels are those of DATASET.LABEL_NOISE. Batches that are not full count, which the public
    code drops.

    **Published.** RN50, 16 shots, REG_E 0.001, SGD, rates 0.001, 0.0006 and 0.0007, 200 epochs.

    **Checkpoint.** `ctx`, as CoOp's.
    """

    node = "NLPROMPT"
    public = Public(outside={key: f"DATASET.{key}" for key in OF_DATASET})
    training_only = (*OF_DATASET, "FORM")

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of the node, and those that the public code keeps elsewhere."""

        USE_OT: bool = True
        REG_E: Positive = 0.01
        CURRICLUM_EPOCH: From0 = 0
        BEGIN_RATE: Fraction = 0.3
        CURRICLUM_MODE: Literal["linear", "exp"] = "linear"
        PMODE: Literal["out", "logP", "softmax"] = "logP"
        FORM: Literal["log", "released"] = "log"

    settings: Settings  # type: ignore[assignment]
    clean: torch.Tensor

    def build(self, clip_model, classnames, dataset):
        """Make the context, and room for the images that are clean in the present epoch."""
        super().build(clip_model, classnames, dataset)
        self.register_buffer("clean", torch.empty(0, dtype=torch.bool), persistent=False)

    def budget(self, epoch: int) -> float:
        """Return the share of images that may be clean in an epoch, counted from 1."""
        s = self.settings
        if epoch > s.CURRICLUM_EPOCH:
            return 1.0
        risen = MODES[s.CURRICLUM_MODE]((epoch - 1) / s.CURRICLUM_EPOCH)
        return s.BEGIN_RATE + risen * (1 - s.BEGIN_RATE)

    def cost(self, logits: torch.Tensor) -> torch.Tensor:
        """Return C (N, K) of logits (N, K)."""
        return -SCORES[self.settings.PMODE](logits.softmax(1))

    def plan(self, cost: torch.Tensor) -> torch.Tensor:
        """Return T (N, K) for costs (N, K).

        The public code scales the columns by the budget, which changes the scalings and not T.
        """
        C, reg = cost.to(widest(cost.device)).T, self.settings.REG_E  # scales columns first
        if self.settings.FORM == "log":
            return sinkhorn(C, reg=reg, tol=TOL, max_iter=ROUNDS).plan.T
        return sinkhorn_released(C, reg=reg, tol=0.0, max_iter=ROUNDS).plan.T

    def split(self, logits: torch.Tensor, labels: torch.Tensor, budget: float = 1.0) -> Split:
        """Divide N images by their logits (N, K) and labels (N,)."""
        T = self.plan(self.cost(logits))
        N = len(T)
        if self.settings.FORM == "released":
            budget = min(float(torch.full((N,), 1 / N, dtype=torch.float64).sum()), budget)
        confidence, pseudo_label = T.max(1)
        selected = torch.zeros_like(labels, dtype=torch.bool)
        selected[confidence.topk(int(N * budget)).indices] = True
        return Split(T, pseudo_label, selected, selected & (pseudo_label == labels))

    def plan_epoch(self, epoch, last, batches):
        """Return steps on all clean images, then on the others, each in random order."""
        if not self.settings.USE_OT:
            return None
        logits, labels, rows = [], [], []
        for batch in batches:
            logits.append(self.output(batch.images).logits)
            labels.append(batch.labels)
            rows.append(batch.index)
        B, index, label = len(rows[0]), torch.cat(rows), torch.cat(labels)
        clean = self.split(torch.cat(logits), label, self.budget(epoch)).clean
        self.clean = torch.zeros_like(clean).index_put((index,), clean)
        print(f"Epoch {epoch}: {int(clean.sum()):,} of {len(clean):,} labels are taken as clean")
        drawn = torch.randperm(len(index)).to(index.device)
        parts = (index[drawn[part[drawn]]] for part in (clean, ~clean))
        return [step for part in parts if len(part) for step in part.split(B)]

    def loss(self, output, batch):
        """Return the mean of CE over clean images, and of 1 - (p_y + 1e-6) over the others."""
        ce = F.cross_entropy(output.logits, batch.labels, reduction="none")
        if batch.index is None or not len(self.clean):
            return ce.mean()
        return torch.where(self.clean[batch.index], ce, 1 - ((-ce).exp() + EPSILON)).mean()
