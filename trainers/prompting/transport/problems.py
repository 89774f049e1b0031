"""The token problems of a batch: transport between the tokens of every image and every class.

Letters: B images, M visual prompts, P image tokens (patches and prompt tokens), K classes, N
textual prompts, L text tokens, D width; r, s the features of image and text tokens, normalised;
C the costs 1 - r . s. Classes have different numbers of tokens. They are taken in groups of equal
length, so that little padding is computed, and in pieces that fit into memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

CPU_CHUNK = 16 << 20  # bytes; memory of this size is reused, larger is fetched from the system


class Group(NamedTuple):
    """Classes (k,) of `length` tokens; padded: whether under some prompt they have fewer."""

    length: int
    classes: Tensor
    padded: bool


class TokenWeights(nn.Module):
    """The weights of the text tokens, and what follows from them once and for all.

    They are constants of a text encoder: made with it, they need no look of the host in a step.

    Attributes:
        mass: (N, K, L), which sum to 1 over the tokens of a class, the first of the L.
        shared: how many of the L tokens, the first, are the same for all classes.
    """

    mass: Tensor
    order: Tensor  # (K,) the classes by their number of tokens

    def __init__(self, mass: Tensor, shared: int = 0):
        super().__init__()
        self.shared = shared
        positions = torch.arange(1, mass.shape[2] + 1, device=mass.device)
        lengths = ((mass > 0) * positions).amax((0, 2)).clamp_min(max(shared, 1))  # (K,)
        lengths, order = lengths.sort(stable=True)
        lengths, counts = (x.tolist() for x in lengths.unique_consecutive(return_counts=True))
        parts = zip(lengths, order.split(counts), strict=True)
        padded = [not bool(mass[:, some, :length].all()) for length, some in parts]
        self._groups = list(zip(lengths, counts, padded, strict=True))
        self.register_buffer("mass", mass, persistent=False)
        self.register_buffer("order", order, persistent=False)

    @property
    def groups(self) -> list[Group]:
        """Every class once, in groups of rising length."""
        lengths, counts, padded = zip(*self._groups, strict=True)
        return [*map(Group, lengths, self.order.split(counts), padded)]


class Piece(NamedTuple):
    """Some images and some classes of one group, which are solved in one go."""

    images: slice
    classes: Tensor
    length: int
    padded: bool


@dataclass(frozen=True)
class TokenProblems:
    """The problems of every image, class and pair of prompts, and how to solve them.

    Attributes:
        r: (B, M, P, D); s: (N, K, L, D), normalised.
        weights: of the text tokens; those of the image's are uniform.
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

    @property
    def wants_gradient(self) -> bool:
        return torch.is_grad_enabled() and (self.r.requires_grad or self.s.requires_grad)

    def pieces(self, most_bytes: int | None = None) -> Iterator[Piece]:
        """All problems, in pieces whose costs take at most `chunk_bytes`, or fewer."""
        limit = min(self.chunk_bytes, most_bytes or self.chunk_bytes)
        B, M, P, _ = self.r.shape
        for length, classes, padded in self.weights.groups:
            pair = 4 * M * len(self.s) * P * length  # bytes of an image and a class in float32
            pairs = max(1, limit // pair)
            for some in classes.split(pairs):
                step = max(1, pairs // len(some))
                for start in range(0, B, step):
                    yield Piece(slice(start, start + step), some, length, padded)

    def solve(self, reduce: Callable[[Tensor, Tensor, bool], Tensor]) -> Tensor:
        """What `reduce` makes of the costs of each piece, (B, K, M, N), with gradient.

        Args:
            reduce: (costs (b, k, M, N, P, l), mass (k, 1, N, l), padded) -> (b, k, M, N).
        """
        (B, M, *_), (N, K, *_) = self.r.shape, self.s.shape
        r, s = self.r.float().contiguous(), self.s.float()
        if torch.compiler.is_compiling():  # in one go, as sizes may not be known
            C = 1 - torch.einsum("bmpd,nkld->bkmnpl", r, s)
            return reduce(C, self.weights.mass.transpose(0, 1)[:, None], True)
        found = r.new_empty(B, K, M, N)
        for piece in self.pieces(None if r.is_cuda else CPU_CHUNK):
            images, classes, length, padded = piece
            mass = self.weights.mass.index_select(1, classes)[..., :length]
            some = r if len(r) <= images.stop - images.start else r[images]
            C = costs(some, s, classes, self.weights.shared, length)
            found[images, classes] = reduce(C, mass.transpose(0, 1)[:, None], padded)
        return found


def costs(r: Tensor, s: Tensor, classes: Tensor, shared: int, length: int) -> Tensor:
    """C[p, l] = 1 - r[p] . s[l] of images r (b, M, P, D) and some classes: (b, k, M, N, P, l)."""
    own = s.index_select(1, classes)[:, :, shared:length]
    return TokenCosts.apply(r, own, s[:, 0, :shared]).transpose(-1, -2)


class TokenCosts(torch.autograd.Function):
    """C[p, l] = 1 - r[p] . s[l], where the first c tokens are the same for all classes."""

    @staticmethod
    def forward(ctx, r, own, common):
        """r (b, M, P, D); own (N, k, L - c, D), common (N, c, D) -> (b, k, M, N, L, P).

        Image tokens come last: they are read fastest.
        """
        ctx.save_for_backward(r, own, common)
        (b, M, P, D), (N, k, rest, _), c = r.shape, own.shape, common.shape[1]
        C = r.new_empty(b, k, M, N, c + rest, P)
        patches = r.reshape(-1, D).T
        cos = (common.reshape(-1, D) @ patches).view(N, 1, c, b, M, P)
        C[..., :c, :] = 1 - cos.permute(3, 1, 4, 0, 2, 5)
        cos = (own.reshape(-1, D) @ patches).view(N, k, rest, b, M, P)
        torch.sub(r.new_ones(()), cos.permute(3, 1, 4, 0, 2, 5), out=C[..., c:, :])
        return C

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        r, own, common = ctx.saved_tensors
        D, c = r.shape[-1], common.shape[1]
        patches = r.reshape(-1, D)
        grad_r = grad_own = grad_common = None
        of_common = grad[..., :c, :].sum(1).permute(2, 3, 0, 1, 4).reshape(-1, len(patches))
        of_own = grad[..., c:, :].permute(3, 1, 4, 0, 2, 5).reshape(-1, len(patches))
        if ctx.needs_input_grad[0]:
            grad_r = of_own.T @ own.reshape(-1, D)
            grad_r = grad_r.addmm_(of_common.T, common.reshape(-1, D)).neg_().view(r.shape)
        if ctx.needs_input_grad[1]:
            grad_own = (of_own @ patches).neg_().view(own.shape)
        if ctx.needs_input_grad[2]:
            grad_common = (of_common @ patches).neg_().view(common.shape)
        return grad_r, grad_own, grad_common
