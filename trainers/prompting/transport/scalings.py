"""The steps of Sinkhorn's iteration, on scalings or on their logarithms.

Letters, in the order (problem, column, row), since products along rows are several times as fast:
    C    (n, L, P)  costs
    x    (n, L, P)  exponents (mean C - C) / reg, the mean taken over each column (`column_means`)
    K    (n, L, P)  the kernel exp(x), in code `kernel`
    a, b (n, 1, P)  and (n, 1, L), weights of rows and columns
    u, v (n, 1, P)  and (n, 1, L), the scalings: u = a / (K v), v = b / (K' u)
    w    (n, 1, L)  K' u: the plan's column sums are v w
    T    (n, L, P)  the plan diag(v) K diag(u)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def exponent_bound(dtype: torch.dtype) -> float:
    """Bound on |x| below which K, u, v and their products are in range."""
    return math.log(torch.finfo(dtype).max) / 4


LEAST_REG = 2 / exponent_bound(torch.float32)  # for costs of cosines, which differ by 2 at most


def widest(device: torch.device) -> torch.dtype:
    """The widest type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


def column_means(C: Tensor, a: Tensor) -> Tensor:
    """Means of the columns of C (n, L, P) under a (n, P): (n, L).

    v absorbs any shift of a column. After this one numbers are near 1, and v = 1 is so good a
    start that the token level takes two or three iterations.
    """
    mean = torch.bmm(a[:, None], C.transpose(1, 2))[:, 0] / a.sum(-1, keepdim=True)
    return mean.nan_to_num_(0, 0, 0)


def exponents(C: Tensor, mean: Tensor, reg: float, out: Tensor | None = None) -> Tensor:
    """x = (mean - C) / reg in one pass."""
    return torch.add(mean[..., None] / reg, C, alpha=-1 / reg, out=out)


@dataclass
class Scalings:
    """Steps on u and v themselves."""

    kernel: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, x: Tensor, a: Tensor, b: Tensor):
        """The steps for exponents x, whose memory K takes, and weights a (n, P), b (n, L)."""
        return cls(x.exp_(), a[:, None], b[:, None])

    def __getitem__(self, problems):
        return type(self)(self.kernel[problems], self.a[problems], self.b[problems])

    def start(self, padded: bool) -> Tensor:
        """v = 1, and 0 on padding, which therefore is never seen."""
        if not padded:
            return torch.ones_like(self.b)
        return ((self.b > 0) | (self.b.sum(-1, keepdim=True) == 0)).to(self.kernel.dtype)

    def v_of(self, log_v: Tensor) -> Tensor:
        """v from its logarithms (n, L)."""
        return log_v[:, None].exp().to(self.kernel.dtype)

    def log_of(self, v: Tensor) -> Tensor:
        """Logarithms (n, L) of v, in a type that can hold those of any problem."""
        return v[:, 0].to(widest(v.device)).log()

    def u(self, v: Tensor) -> Tensor:
        """u = a / (K v)."""
        return self.a / torch.bmm(v, self.kernel)

    def w(self, u: Tensor) -> Tensor:
        """w = K' u."""
        return torch.bmm(u, self.kernel.mT)

    def v(self, w: Tensor) -> Tensor:
        """v = b / w."""
        return self.b / w

    def error(self, v: Tensor, w: Tensor) -> Tensor:
        """L1 error of the column sums v w, (n, 1, 1)."""
        return (v * w).sub_(self.b).abs_().sum(-1, keepdim=True)

    def into_plan(self, u: Tensor, v: Tensor) -> Tensor:
        """T, written over K: fresh memory of that size takes as long as an iteration.

        No other step can follow.
        """
        return self.kernel.mul_(u).mul_(v.mT)


class LogScalings(Scalings):
    """The same with the logarithms of K, a, u, v and w in their places: nothing overflows."""

    @classmethod
    def of(cls, x, a, b):
        return cls(x, a[:, None].log(), b[:, None])

    def start(self, padded):
        return super().start(padded).log_()

    def v_of(self, log_v):
        return log_v[:, None]

    def log_of(self, v):
        return v[:, 0]

    def u(self, v):
        return self.a - torch.logsumexp(self.kernel + v.mT, 1, keepdim=True)

    def w(self, u):
        return torch.logsumexp(self.kernel + u, 2)[:, None]

    def v(self, w):
        return self.b.log() - w

    def error(self, v, w):
        return (v + w).exp_().sub_(self.b).abs_().sum(-1, keepdim=True)

    def into_plan(self, u, v):
        return self.kernel.add_(u).add_(v.mT).exp_()


@dataclass
class SharedScalings(Scalings):
    """Steps where the first c columns of K are the same for many problems in a row.

    `kernel` (n, L - c, P) holds each problem's own columns, `shared` (g, c, P) those of n / g
    problems in a row.
    """

    shared: Tensor

    def __getitem__(self, problems):
        group = problems // (len(self.kernel) // len(self.shared))
        kernel = torch.cat([self.shared[group], self.kernel[problems]], 1)
        return Scalings(kernel, self.a[problems], self.b[problems])

    def u(self, v):
        g, c, P = self.shared.shape
        rows = torch.bmm(v[..., :c].reshape(g, len(v) // g, c), self.shared).view(len(v), 1, P)
        return self.a / torch.baddbmm(rows, v[..., c:], self.kernel, out=rows)

    def w(self, u):
        return over_rows(u, self.shared, self.kernel)


def over_rows(u: Tensor, shared: Tensor, own: Tensor) -> Tensor:
    """u (n, 1, P) times X (g, c, P), shared, and times X (n, L - c, P): (n, 1, L)."""
    g, c, P = shared.shape
    first = torch.bmm(u.view(g, len(u) // g, P), shared.mT).view(len(u), 1, c)
    return torch.cat([first, torch.bmm(u, own.mT)], 2)
