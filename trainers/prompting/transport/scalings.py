"""The steps of Sinkhorn's iteration, on the scalings u and v or on their logarithms."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 64  # numbers that PyTorch sums at once, in the widest registers there are


def exponent_bound(dtype: torch.dtype) -> float:
    """Return a bound on |x| below which K = exp(x), u, v and their products are in range."""
    return math.log(torch.finfo(dtype).max) / 4


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass
class Scalings:
    """Steps on u and v themselves; letters and shapes as in `solver`."""

    kernel: Tensor  # K, (n, L, P)
    a: Tensor  # weights, (n, 1, P)
    b: Tensor  # weights, (n, 1, L)
    columns: ClassVar[int] = -1  # the dimension of b that counts the columns

    @classmethod
    def of(cls, x: Tensor, a: Tensor, b: Tensor):
        """Return the steps for K = exp(x); x is overwritten."""
        return cls(x.exp_(), a, b)

    def start(self) -> Tensor:
        """Return the first v: 1, and 0 on padding, which therefore never contributes."""
        return ((self.b > 0) | (self.b.sum(self.columns, keepdim=True) == 0)).to(self.b.dtype)

    def u(self, v: Tensor) -> Tensor:
        """Return the row scalings u = a / (K v)."""
        return self.a / torch.bmm(v, self.kernel)

    def w(self, u: Tensor) -> Tensor:
        """Return the column sums before scaling, w = K' u."""
        return torch.bmm(u, self.kernel.transpose(1, 2))

    def v(self, w: Tensor) -> Tensor:
        """Return the column scalings v = b / w."""
        return self.b / w

    def error(self, v: Tensor, w: Tensor) -> Tensor:
        """Return the L1 error of the column sums v w, (n, 1, 1)."""
        return (v * w - self.b).abs().sum(self.columns, keepdim=True)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """Return T = diag(v) K diag(u), (n, L, P); it overwrites K, so it is the last step."""
        return self.kernel.mul_(u).mul_(v.mT)


class SmallScalings(Scalings):
    """The same steps with the problems last: K is (L, P, n), u (1, P, n), and v and w (L, 1, n).

    A matrix product a problem has a fixed cost, larger than the arithmetic of a problem of 4 x 4.
    Sums over whole dimensions have none.

    Empty problems fill up n to an odd multiple of `LANES`: PyTorch sums a remainder in another
    order, and rows that are a power of two apart evict each other from the cache.
    """

    columns = 0

    @classmethod
    def of(cls, x, a, b):
        """Return the steps for K = exp(x) and weights as in `Scalings`."""
        fill = 0, -(len(x) + LANES) % (2 * LANES)
        x, a, b = (
            F.pad(z, fill) for z in (x.permute(1, 2, 0), a.permute(1, 2, 0), b.permute(2, 1, 0))
        )
        return cls(x.exp_(), a, b)

    def u(self, v):
        """Return u = a / (K v)."""
        return self.a / (self.kernel * v).sum(0, keepdim=True)

    def w(self, u):
        """Return w = K' u."""
        return (self.kernel * u).sum(1, keepdim=True)

    def plan(self, u, v):
        """Return T, (n, L, P); it overwrites K."""
        return self.kernel.mul_(u).mul_(v).permute(2, 0, 1).contiguous()


class LogScalings(Scalings):
    """The same steps on the logarithms of K, a, u, v and w, which cannot overflow."""

    @classmethod
    def of(cls, x, a, b):
        """Return the steps for log K = x."""
        return cls(x, a.log(), b)

    def start(self):
        """Return the first log v."""
        return super().start().log()

    def u(self, v):
        """Return log u for log v."""
        return self.a - torch.logsumexp(self.kernel + v.mT, 1, keepdim=True)

    def w(self, u):
        """Return log w for log u."""
        return torch.logsumexp(self.kernel + u, 2)[:, None]

    def v(self, w):
        """Return log v for log w."""
        return self.b.log() - w

    def error(self, v, w):
        """Return the L1 error of the column sums, from log v and log w."""
        return ((v + w).exp() - self.b).abs().sum(-1, keepdim=True)

    def plan(self, u, v):
        """Return T; it overwrites log K."""
        return self.kernel.add_(u).add_(v.mT).exp_()
