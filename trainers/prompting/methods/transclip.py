"""TransCLIP (Zanella et al., NeurIPS 2024; arXiv:2406.01837).

Boosting Vision-Language Models with Transduction.

The file is long because it has the rounds of the paper and those of the public code.

Letters: Q test images, S shots (labelled images), V validation images, K classes, D the width of
the features.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from ..capabilities.earlier import earlier_method
from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..capabilities.transductive import Transductive
from ..checkpoint.public import Public
from ..marks import EQUAL, WHOLE
from ..method import Method
from ..node import From0, From1, NotNegative, Positive
from ..registry import register
from ..teacher import MethodTeacher

TINY = 1e-37  # smallest probability of a prior
LEAST = 1e-10  # variance, of images that are all alike


class Mixture(NamedTuple):
    """log z (Q, K), and the means mu (K, D) and variance v (D) that it was computed with."""

    log_z: torch.Tensor
    mu: torch.Tensor
    v: torch.Tensor


@register
class TransCLIP(OnSupport, PerClass, Transductive):
    """Gaussians of the test images, a graph of neighbours and the text's predictions together.

    z (Q, K) are assignments of the normalised features x_i to K Gaussians with means mu_k and one
    variance v (D); q_i = softmax(SCALE x_i . h), or the probabilities of another run. The graph has
    W_ij = x_i . x_j for the N_NEIGHBORS nearest other images j of i, else 0. The logits are log z.

        z_i ~ q_i^lambda exp(m_i / TAU + sum_j (W_ij + W_ji) z_j / (2 N_NEIGHBORS))
        m_ik = -1/2 sum_d (x_id - mu_kd)^2 / v_d
        mu_k = n(sum_i z_ik x_i),   v = sum_ik z_ik (x_i - mu_k)^2 / sum_ik z_ik

    In each of MAX_ITER rounds z is computed Z_ITER times, then mu, then v; at the end z once more.
    At first z = q, mu_k is that of the N_CONFIDENT images with the largest q_ik, and v = 1 / D.

    With FEW_SHOT, lambda is LAMBDA_FS. The training images are nodes with known z, whose edges lead
    to their nearest test images. They enter mu and v with the weight TAU gamma / S each, those of
    the test with 1 / Q; mu starts as their normalised sum. GAMMA has the values of gamma. The first
    one with the best validation accuracy counts, where a validation image gets the prediction of
    the test image nearest to it; without SEARCH_HP or such images, the first. On ImageNet these are
    four unused training images of each class, or fewer with fewer shots
    (`DATASET.VALIDATION_SHOTS 4`).

    Few images cost much: with RN50 on WHU-RS19, 95.9% on all 1,005 become 86.3% in batches of 100.
    The order of the images has no effect. A batch of `predict` is classified for itself.

    PRIOR is the output folder of another run, such as one of CoOp or TaskRes with this backbone,
    whose probabilities are q; records name it as a teacher. `{run}`, `{seed}` and `{dataset}` in it
    are those of this run. Methods that adapt to test images cannot be it.

    **Published.** The constants, for all data sets. In RS-TransCLIP (arXiv:2409.00698) on WHU-RS19
    with RN50, ViT-B/32, ViT-L/14 and the mean over 106 sentences: 95.92, 90.35, 99.10
    (`whurs19_all`).

    **Differences.** FORM `released` is the public code: with FEW_SHOT the rows of W are in another
    order than those of z, so that wrong images are neighbours, shots lose their nearest image, and
    each gamma starts from the end of the one before; without it, a PRIOR changes with z. The public
    sentence of DescribableTextures has no full stop. It needs an image of each class, and 8 in all.

    **Checkpoint.** With FEW_SHOT buffers `shots` (S, D), `labels` (S), `val` (V, D), `val_labels`
    (V). The public code saves nothing.
    """

    node = "TRANSCLIP"
    public = Public(folder="transclip", ignored=("SIGMA_INIT",))
    trains = False
    class_bound = property(attrgetter("settings.FEW_SHOT"))
    searches = property(attrgetter("settings.searches"))

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The keys of the node, which are constants of the public code, and FEW_SHOT to PRIOR."""

        MAX_ITER: From0 = 10
        Z_ITER: From1 = 5
        N_NEIGHBORS: From1 = 3
        N_CONFIDENT: From1 = 8
        LAMBDA_ZS: NotNegative = 1.0
        LAMBDA_FS: NotNegative = 0.5
        GAMMA: list[float] = field(default_factory=lambda: [0.002, 0.01, 0.02, 0.2])
        TAU: Positive = 50.0
        FEW_SHOT: bool = False
        SEARCH_HP: bool = True
        FORM: Literal["aligned", "released"] = "aligned"
        PRIOR: str = ""

        @property
        def searches(self) -> bool:
            """True if gamma is chosen."""
            return self.FEW_SHOT and self.SEARCH_HP and len(self.GAMMA) > 1

    settings: Settings
    shots: torch.Tensor
    labels: torch.Tensor
    val: torch.Tensor
    val_labels: torch.Tensor

    @property
    def support_passes(self):
        """One pass with FEW_SHOT, else none."""
        return int(self.settings.FEW_SHOT)

    @property
    def takes(self):
        """The marks: all test images, and with PRIOR a teacher."""
        return (WHOLE,) if self.teacher is None else (WHOLE, EQUAL)

    def build(self, clip_model, classnames, dataset):
        """Make room for labelled images, and the method of PRIOR."""
        s = self.settings
        self.teacher: MethodTeacher | None = None
        if s.PRIOR:
            key = type(self).place("PRIOR")
            self.teacher = earlier_method(s.PRIOR, key, clip_model, classnames, dataset)
        if s.FEW_SHOT:
            self.make_room(0)

    def make_room(self, n):
        """Empty the labelled images, whose number a support or a checkpoint decides."""
        if self.settings.FEW_SHOT:
            self._keep("shots", "labels", torch.empty(0, self.width), torch.empty(0))
            self._keep("val", "val_labels", torch.empty(0, self.width), torch.empty(0))

    def _keep(self, key: str, label_key: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        z = F.normalize(features, dim=-1).to(self.device)
        self.register_buffer(key, z)
        self.register_buffer(label_key, labels.long().to(self.device))

    def take_support(self, features, labels):
        """Keep the normalised features of the training images."""
        self.need_each_class(labels)
        self._keep("shots", "labels", features[0], labels)

    def take_validation(self, features, labels):
        """Keep the validation images, on whose nearest test images gamma is chosen."""
        self._keep("val", "val_labels", features, labels)

    def prior(self, images):
        """Return the probabilities of the method of PRIOR."""
        return None if self.teacher is None else self.teacher.output(images).logits.softmax(-1)

    def predict_all(self, image, text, prior=None):
        """Return log z (Q, K)."""
        x = image.z[:, 0]
        if prior is None:
            log_q = (self.logit_scale * x @ text.h[0].T).log_softmax(-1)
        else:
            log_q = prior.clamp_min(TINY).log()
        solver = self.solver(x, log_q, given=prior is not None)
        few_shot = self.settings.FEW_SHOT
        end = self._best(solver, x) if few_shot else solver.last(solver.start(), 0.0)
        return end.log_z

    def solver(self, x: torch.Tensor, log_q: torch.Tensor, given: bool = False) -> "Solver":
        """Return the solver for images x (Q, D) with log q (Q, K); `given` by a PRIOR or not."""
        s = self.settings
        self.need_support(not s.FEW_SHOT or len(self.shots))
        shots = (self.shots, self.labels) if s.FEW_SHOT else (x[:0], x.new_zeros(0).long())
        inputs = s, x, log_q, *shots, self.chunk_bytes
        return ReleasedRounds(*inputs, given=given) if s.FORM == "released" else Solver(*inputs)

    def _best(self, solver: "Solver", x: torch.Tensor) -> Mixture:
        """Return the end of the first gamma with the best validation accuracy."""
        gammas = self.settings.GAMMA if self.searches else self.settings.GAMMA[:1]
        nearest = neighbours(self.val, x, 1, chunk_bytes=self.chunk_bytes)[0][:, 0]

        def right(state: Mixture) -> int:
            return int((state.log_z.argmax(1)[nearest] == self.val_labels).sum())

        return max(solver.ends(gammas), key=right)


class Solver:
    """The rounds of TransCLIP for some images.

    Args:
        x: (Q, D), normalised features.
        log_q: (Q, K).
        shots: (S, D), normalised; none without FEW_SHOT.
        labels: (S,).
        chunk_bytes: the most memory for cosines of pairs of images.
    """

    def __init__(
        self,
        s: Any,
        x: torch.Tensor,
        log_q: torch.Tensor,
        shots: torch.Tensor,
        labels: torch.Tensor,
        chunk_bytes: int,
    ):
        self.s, self.log_q, self.few_shot = s, log_q, len(shots) > 0
        self.chunk_bytes = chunk_bytes
        self.Y = F.one_hot(labels, log_q.shape[1]).to(x)
        self.center = x.mean(0)  # distances of centred features lose fewer digits
        self.x, self.shots = x - self.center, shots - self.center
        parts = self.edges(x, shots)
        n = min(index.shape[1] for index, _ in parts)  # fewer of few images
        self.index, self.cosine = (
            torch.cat([part[:, :n] for part in both]) for both in zip(*parts, strict=True)
        )
        # W + W^T of rows i and nodes j, the test images and then the shots, sorted by rows
        numbers, Q = torch.arange(len(self.index), device=x.device), len(x)
        nodes = numbers[:, None].expand_as(self.index)
        rows, order = torch.cat([nodes[:Q].flatten(), self.index.flatten()]).sort(stable=True)
        self.joined = torch.cat([self.index[:Q].flatten(), nodes.flatten()])[order]
        self.weights = torch.cat([self.cosine[:Q].flatten(), self.cosine.flatten()])[order]
        self.first = torch.searchsorted(rows, numbers[:Q])

    @property
    def power(self) -> float:
        """lambda, of q."""
        return self.s.LAMBDA_FS if self.few_shot else self.s.LAMBDA_ZS

    def edges(self, x: torch.Tensor, shots: torch.Tensor) -> list[Sequence[torch.Tensor]]:
        """Return the nearest test images of test images and of shots, with their cosines."""
        return [self.nearest(x, x, itself=True), self.nearest(shots, x)]

    def nearest(self, rows: torch.Tensor, x: torch.Tensor, **more) -> Sequence[torch.Tensor]:
        """Return the N_NEIGHBORS images nearest to each row, and their cosines."""
        return neighbours(rows, x, self.s.N_NEIGHBORS, chunk_bytes=self.chunk_bytes, **more)

    def start(self) -> Mixture:
        """Return z = q, mu and v before the first round."""
        q, D = self.log_q.exp(), self.x.shape[1]
        weights, nodes = self.Y, self.shots
        if not self.few_shot:
            least = q.topk(min(self.s.N_CONFIDENT, len(q)), dim=0).values[-1]
            weights, nodes = q * (q >= least), self.x  # all that tie, in whatever order they come
        mu = weights.T @ nodes + weights.sum(0)[:, None] * self.center
        return Mixture(self.log_q, F.normalize(mu, dim=-1), self.x.new_full((D,), 1 / D))

    def rounds(self, state: Mixture, gamma: float) -> Iterator[Mixture]:
        """Yield the state after each round's computation of z, and after the last one."""
        log_z, mu, v = state
        for last in range(self.s.MAX_ITER, -1, -1):
            log_z = self.assign(log_z, mu, v)
            yield Mixture(log_z, mu, v)
            if last:
                mu, v = self.fit(log_z.exp(), mu, gamma)

    def ends(self, gammas: Iterable[float]) -> Iterator[Mixture]:
        """Yield the state after all rounds with each gamma."""
        for gamma in gammas:
            yield self.last(self.start(), gamma)

    def last(self, state: Mixture, gamma: float) -> Mixture:
        """Return the state after all rounds."""
        *_, end = self.rounds(state, gamma)
        return end

    def assign(self, log_z: torch.Tensor, mu: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return log z after Z_ITER computations, each of all images together."""
        s, m = self.s, self.likeness(mu, v)
        for _ in range(s.Z_ITER):
            z = log_z.exp()
            near = self.of_neighbours(z) / (2 * s.N_NEIGHBORS)
            log_z = (self.power * self.log_prior(log_z) + m / s.TAU + near).log_softmax(-1)
        return log_z

    def likeness(self, mu: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return m (Q, K), without |x / v|^2, which is equal for all classes."""
        mu = mu - self.center
        return self.x @ (mu / v).T - (mu * mu / v).sum(1) / 2

    def log_prior(self, log_z: torch.Tensor) -> torch.Tensor:
        """Return log q (Q, K), from which z does not stray far."""
        return self.log_q

    def of_neighbours(self, z: torch.Tensor) -> torch.Tensor:
        """Return sum_j (W_ij + W_ji) z_j, (Q, K), over test images and shots j."""
        how: Any = {"mode": "sum", "per_sample_weights": self.weights}
        return F.embedding_bag(self.joined, torch.cat([z, self.Y]), self.first, **how)

    def fit(
        self, z: torch.Tensor, mu: torch.Tensor, gamma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mu (K, D) and v (D) for z; a class that has no image at all keeps its mean."""
        w, c = 1 / len(z), self.s.TAU * gamma / max(1, len(self.shots))
        mass = w * z.sum(0) + c * self.Y.sum(0)
        sums = w * z.T @ self.x + c * self.Y.T @ self.shots
        whole = F.normalize(sums + mass[:, None] * self.center, dim=-1)
        mu = torch.where(mass[:, None] > 0, whole, mu)
        own = mu - self.center
        squares = w * self.x.square().sum(0) + c * self.shots.square().sum(0)
        v = squares - 2 * (own * sums).sum(0) + (mass[:, None] * own * own).sum(0)
        return mu, (v / mass.sum()).clamp_min(LEAST)


class ReleasedRounds(Solver):
    """The rounds of the public code; `given` is True if q was given by another method.

    Then q is z, unless there are shots.
    """

    def __init__(self, *inputs, given: bool):
        super().__init__(*inputs)
        self.moving = given and not self.few_shot

    def edges(self, x, shots):
        """Return those of shots first, unlike z, and without the nearest image of each shot."""
        return [self.nearest(shots, x, first=1), self.nearest(x, x, itself=True)]

    def ends(self, gammas):
        """Yield the states; each gamma starts from the end of the one before."""
        state = self.start()
        for gamma in gammas:
            state = self.last(state, gamma)
            yield state

    def log_prior(self, log_z):
        """Return log q, or log z in its place."""
        return log_z if self.moving else self.log_q


def neighbours(
    rows: torch.Tensor,
    x: torch.Tensor,
    n: int,
    first: int = 0,
    *,
    itself: bool = False,
    chunk_bytes: int,
) -> Sequence[torch.Tensor]:
    """Return the numbers and cosines of the images nearest to each row, nearest first.

    Args:
        rows: (R, D), normalised.
        x: (Q, D), normalised.
        n: of images, or as many as there are.
        first: how many nearest ones are left out before.
        itself: True if the rows are x, of which none is its own neighbour.
        chunk_bytes: the most memory for cosines.

    Returns:
        (R, n) and (R, n).
    """
    k, chunks = min(n + first, len(x) - itself), []
    for start in range(0, len(rows), size := max(1, chunk_bytes // (4 * len(x)))):
        cosines = rows[start : start + size] @ x.T
        if itself:
            cosines.diagonal(start).fill_(-torch.inf)
        best = cosines.topk(k, dim=1)
        chunks.append((best.indices[:, first:], best.values[:, first:]))
    if not chunks:
        return torch.empty(0, n, dtype=torch.long, device=x.device), x.new_empty(0, n)
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]
