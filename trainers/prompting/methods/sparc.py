"""SPARC (Miller et al., CVPR 2025; arXiv:2502.16911).

SPARC: Score Prompting and Adaptive Fusion for Zero-Shot Multi-Label Recognition.

Letters: Q test images, K classes, C compound sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..capabilities.on_support import OnSupport
from ..capabilities.per_class import PerClass
from ..capabilities.transductive import Transductive
from ..checkpoint.public import Public
from ..encoders.sentence_features import encode_sentences
from ..encoders.templates import CLIP
from ..method import Method
from ..node import clean
from ..registry import register
from ..teacher import Teacher

LEAST_PAIR, LEAST_TRIPLE = 0.05, 0.025  # shares of training images, from which on classes go along


@register
class SPARC(OnSupport, PerClass, Transductive):
    """Cosines with sentences about several classes, standardised over all test images and fused.

    Sentences are "A and B" for i < j with P(j | i) > 0.05 among the labels of training images, and
    for each pair "A, B, and C" with the likeliest other class, if P(k | i, j) > 0.025. With cosines
    a of the mean of 80 sentences of each class, b of its name alone and c of these sentences:

        1. a and c are standardised in each image: a over classes, c by mean and deviation of b
        2. then each column over all test images
        3. X of a class: its c, sorted in each image, and a;  w: the first principal component of
           X, of positive mean, divided by sum |w|;  f = X w, or a without a sentence
        4. logits = (f + a) / 2

    Nothing is trained. Training labels must be known.

    **Published.** Its numbers used sentences of a language model, too, which are not public: these
    here are the rule for all others, so no published number is this method's.

    **Differences.** Of several triples of the same classes the public code keeps the chance of the
    last; no score depends on it.
    """

    node = "SPARC"
    public = Public(folder="sparc")
    several = "ranks"
    needs_all_labels = True
    trains = False
    class_bound = True
    rules = ()

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node: only the precision."""

    def build(self, clip_model, classnames, dataset):
        """Make the sentences of single classes; `compounds` has the classes of others, or -1."""
        self.names = [clean(name) for name in classnames]
        self.teacher = Teacher(clip_model, classnames, CLIP)
        self.bare = Teacher(clip_model, classnames, ["{}"])
        self.features = None
        self.register_buffer("compounds", torch.empty(0, 3, dtype=torch.int64))

    def take_support(self, features, labels):
        """Choose which classes go along with each other."""
        if not self.settings.several:
            labels = F.one_hot(labels, self.num_classes)
        found = choose_compounds(labels == 1)
        self.compounds = torch.tensor(found, dtype=torch.int64).view(-1, 3).to(labels.device)

    def transduce(self, seen):
        """Return the output; sentences are encoded first, in the precision of the run."""
        self.features = self.encode()
        output = super().transduce(seen)
        self.features = None
        return output

    def encode(self) -> tuple[torch.Tensor, ...]:
        """Return features of the 80 sentences of classes, of their names, and of compounds."""
        sentences = [
            join_names([self.names[k] for k in row if k >= 0]) for row in self.compounds.tolist()
        ]
        raw = encode_sentences(self.teacher.clip_model, sentences) if sentences else None
        h = self.teacher.h
        return h, self.bare.h, h[:0] if raw is None else F.normalize(raw.float(), dim=-1)

    def predict_all(self, image, text, prior=None):
        """Return the fused scores (Q, K)."""
        a, b, c = (image.z[:, 0] @ h.float().T for h in self.features or self.encode())
        matches = [[k in row for k in range(self.num_classes)] for row in self.compounds.tolist()]
        return fuse(a, b, c, torch.tensor(matches, dtype=torch.bool, device=a.device))


def join_names(names: Sequence[str]) -> str:
    """Return "A and B", or "A, B, and C"."""
    return " and ".join(names) if len(names) == 2 else f"{names[0]}, {names[1]}, and {names[2]}"


def choose_compounds(present: torch.Tensor) -> list[tuple[int, int, int]]:
    """Return the classes of each sentence, of a pair with -1, for presence (n, K) in n images."""
    rows = present.double()
    counts, pairs = rows.T @ rows, list[tuple[int, int, int]]()
    triples = dict[frozenset[int], tuple[int, int, int]]()
    for i, j in torch.combinations(torch.arange(present.shape[1])).tolist():
        if counts[i, j] <= LEAST_PAIR * counts[i, i]:
            continue
        pairs.append((i, j, -1))
        third = rows[present[:, i] & present[:, j]].mean(0)
        third[[i, j]] = 0
        k = int(third.argmax())
        if third[k] > LEAST_TRIPLE:
            a, b, c = sorted((i, j, k))
            triples[frozenset((i, j, k))] = a, b, c
    return pairs + list(triples.values())


def fuse(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Return scores (Q, K) for cosines a and b (Q, K), and c (Q, C) with their classes (C, K)."""
    a = standardise(standardise(a, 1), 0)
    if c.shape[1]:
        c = standardise(standardise(c, 1, b), 0)
    fused = []
    for i in range(a.shape[1]):
        own = c[:, matches[:, i].bool()] if len(matches) and c.shape[1] else c[:, :0]
        X = torch.cat([own.sort(1).values, a[:, i : i + 1]], 1)
        w = torch.linalg.svd(X - X.mean(0), full_matrices=False).Vh[0]
        w = w * (1 - 2 * (w.mean() < 0).to(w.dtype)) / w.abs().sum()
        fused.append(X @ w if own.shape[1] else a[:, i])
    return (torch.stack(fused, 1) + a) / 2


def standardise(x: torch.Tensor, dim: int, by: torch.Tensor | None = None) -> torch.Tensor:
    """Return (x - mean) / deviation along a dimension, of `by` if it is given; 0 has none."""
    by = x if by is None else by
    deviation = by.std(dim, keepdim=True) if by.shape[dim] > 1 else torch.zeros_like(by)
    return (x - by.mean(dim, keepdim=True)) / torch.where(deviation > 0, deviation, 1)
