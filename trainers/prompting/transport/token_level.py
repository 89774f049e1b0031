"""The token level of ALIGN's cost: transport between tokens of every image and every class.

arXiv:2309.13847, Eq. 5 (docs/methods.md, section 3).

Classes have different numbers of tokens. They are solved in groups of equal length, so that little
padding is computed, and in pieces that fit into memory.

Letters: B images, M visual prompts, P image tokens (patches and prompt tokens), K classes, N
textual prompts, L text tokens, D width; r, s the features of image and text tokens, normalised;
C the costs 1 - r . s.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .solver import Sinkhorn

COSINES = 2.0  # the largest difference of two costs 1 - cos
CPU_CHUNK = 6 << 20  # bytes; memory of this size is reused, larger comes from the system


class TokenWeights(nn.Module):
    """The weights of the text tokens, and the classes grouped by their number of tokens.

    They are constants of a text encoder and made with it, so a step does not read them on the host.

    Attributes:
        mass: (N, K, L), weights that sum to 1 over a class's tokens, which come first in L.
        shared: number of leading tokens, of the L, that are the same for all classes.
        order: (K,), the classes sorted by their number of tokens.
    """

    mass: Tensor
    order: Tensor

    def __init__(self, mass: Tensor, shared: int = 0):
        super().__init__()
        self.shared = shared
        positions = torch.arange(1, mass.shape[2] + 1, device=mass.device)
        lengths = ((mass > 0) * positions).amax((0, 2)).clamp_min(max(shared, 1))  # (K,)
        lengths, order = lengths.sort(stable=True)
        lengths, counts = lengths.unique_consecutive(return_counts=True)
        self._lengths, self._counts = lengths.tolist(), counts.tolist()
        self.register_buffer("mass", mass, persistent=False)
        self.register_buffer("order", order, persistent=False)

    @property
    def groups(self) -> list[tuple[int, Tensor]]:
        """Pairs of a number of tokens and the classes (k,) that have it; each class is in one pair.

        1000 classes of mixed lengths, padded to the longest name, took 2 to 3 times as long.
        """
        return [*zip(self._lengths, self.order.split(self._counts), strict=True)]


class Piece(NamedTuple):
    """Some images, and some classes with the same number of tokens, which are solved together."""

    images: slice
    classes: Tensor
    length: int


@dataclass(frozen=True)
class TokenProblems:
    """The problems of every image, class and pair of prompts, with the solver's settings.

    Attributes:
        r: (B, M, P, D); s: (N, K, L, D), normalised.
        weights: of the text tokens; image tokens have uniform weights.
        reg, tol, max_iter: as in `sinkhorn`.
        chunk_bytes: the most memory that the costs of a piece may take.
    """

    r: Tensor
    s: Tensor
    weights: TokenWeights
    reg: float = 0.1
    tol: float = 1e-4
    max_iter: int = 100
    chunk_bytes: int = 256 << 20

    def pieces(self) -> Iterator[Piece]:
        """Yield all problems, in pieces whose costs take at most `chunk_bytes`, or `CPU_CHUNK`."""
        limit = self.chunk_bytes if self.r.is_cuda else min(self.chunk_bytes, CPU_CHUNK)
        B, M, P, _ = self.r.shape
        for length, classes in self.weights.groups:
            pairs = max(1, limit // (4 * M * len(self.s) * P * length))  # float32
            for part in classes.split(pairs):
                step = max(1, pairs // len(part))
                for start in range(0, B, step):
                    yield Piece(slice(start, start + step), part, length)

    def solve(self, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Reduce the costs of each piece to one number per problem, (B, K, M, N), with gradient.

        `reduce` is (costs (b, k, M, N, P, l), mass (k, 1, N, l)) -> (b, k, M, N).
        """
        r, s, mass = self.r.float(), self.s.float(), self.weights.mass.transpose(0, 1)[:, None]
        if torch.compiler.is_compiling():  # all at once, as sizes may be unknown
            return reduce(1 - torch.einsum("bmpd,nkld->bkmnpl", r, s), mass)
        results = r.new_empty(len(r), len(mass), r.shape[1], len(s))
        for images, classes, length in self.pieces():
            C = costs(r[images], s, classes, self.weights.shared, length)
            results[images, classes] = reduce(C, mass.index_select(0, classes)[..., :length])
        return results


def token_distances(problems: TokenProblems) -> Tensor:
    """Return distances d = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), (B, K, M, N), float32."""
    solver = Sinkhorn(problems.reg, problems.tol, problems.max_iter, spread=COSINES)
    return problems.solve(lambda C, mass: solver(C, b=mass).distance)


def costs(r: Tensor, s: Tensor, classes: Tensor, shared: int, length: int) -> Tensor:
    """Return costs C[p, l] = 1 - r[p] . s[l] of some images and classes, (b, k, M, N, P, l).

    Tokens that all classes share are multiplied once: otherwise an evaluation with 1000 classes
    takes 15% longer, in bfloat16 22%. Image tokens are the last dimension in memory, which the
    solver reads fastest.
    """
    parts = s[:, :1, :shared], s.index_select(1, classes)[:, :, shared:length]
    tokens = torch.cat([part.reshape(-1, s.shape[-1]) for part in parts])
    products = tokens @ r.reshape(-1, s.shape[-1]).T
    first, own = (
        cos.view(*part.shape[:3], *r.shape[:3]).permute(3, 1, 4, 0, 2, 5)
        for cos, part in zip(products.split([p[..., 0].numel() for p in parts]), parts, strict=True)
    )
    cos = torch.cat([first.expand(-1, len(classes), -1, -1, -1, -1), own], 4)
    return (1 - cos).transpose(-1, -2)
