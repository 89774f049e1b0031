"""The steps of Sinkhorn's iteration, on the scalings u and v or on their logarithms."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def exponent_bound(dtype: torch.dtype) -> float:
    """Return a bound on |x| below which K = exp(x), u, v and their products are in range."""
    return math.log(torch.finfo(dtype).max) / 4


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass
class Scalings:
    """Steps on u and v themselves; letters and shapes as in `solver`.

    Attributes:
        kernel: K, (n, L, P).
        a, b: the weights, (n, 1, P) and (n, 1, L).
    """

    kernel: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, x: Tensor, a: Tensor, b: Tensor):
        """Return the steps for K = exp(x); x is overwritten."""
        return cls(x.exp_(), a, b)

    def start(self) -> Tensor:
        """Return the first v: 1, and 0 on padding, which therefore never contributes."""
        return ((self.b > 0) | (self.b.sum(-1, keepdim=True) == 0)).to(self.b.dtype)

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
        return (v * w - self.b).abs().sum(-1, keepdim=True)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """Return T = diag(v) K diag(u), (n, L, P); it overwrites K, so it is the last step."""
        return self.kernel.mul_(u).mul_(v.mT)


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
