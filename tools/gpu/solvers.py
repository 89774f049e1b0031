"""Token-level and prompt-level transport: our kernels and PyTorch path, and other solvers.

All solve the same problems from the same features: costs 1 - cos of image tokens and text tokens,
regularisation 0.1, uniform weights. Text tokens of different numbers are padded.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from statistics import median

import ot
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.measure.case import product_rate, seconds
from trainers.prompting import sinkhorn
from trainers.prompting.errors import in_short
from trainers.prompting.transport.problems import TokenProblems, TokenWeights
from trainers.prompting.transport.token_level import plain_token_distances

REG, TOL, MOST = 0.1, 1e-4, 100
REPEATS = 5
FEW = 64  # problems whose distances are compared with float64, and that flash-sinkhorn solves


@dataclass(frozen=True)
class Shape:
    """B images and K classes, with M and N prompts of P and L tokens, which are D wide.

    At the prompt level M and N are 1, and the "tokens" are the prompts.
    """

    level: str
    B: int
    K: int
    M: int = 4
    N: int = 4
    P: int = 196
    L: int = 6
    D: int = 512

    def __str__(self):
        return f"{self.level}, {self.B} x {self.K}"


def shapes(small: bool, more: bool) -> list[Shape]:
    """Return the shapes to measure."""
    if small:
        return [Shape("token", 2, 3, 2, 2, 20, 4, 32), Shape("prompt", 2, 3, 1, 1, 4, 4, 32)]
    token = [Shape("token", 4, 50), Shape("token", 32, 50), Shape("token", 4, 1000)]
    if more:
        token.append(Shape("token", 32, 1000))
    square = {"M": 1, "N": 1, "P": 4, "L": 4}
    return token + [Shape("prompt", B, K, **square) for B, K in ((4, 50), (32, 50), (100, 1000))]


class Problems:
    """The problems of a shape on a device; features of images and texts are leaves.

    Attributes:
        r: (B, M, P, D), s: (N, K, L, D), normalised; mass: (N, K, L), of the text tokens.
    """

    def __init__(self, shape: Shape, device: str):
        seeded = torch.Generator().manual_seed(0)

        def unit(*size):
            x = F.normalize(torch.randn(*size, shape.D, generator=seeded), dim=-1)
            return x.to(device).requires_grad_()

        self.r, self.s = unit(shape.B, shape.M, shape.P), unit(shape.N, shape.K, shape.L)
        least = shape.L if shape.level == "prompt" else max(1, shape.L - 2)
        lengths = least + torch.arange(shape.K) % (shape.L - least + 1)
        mass = (torch.arange(shape.L) < lengths[:, None]) / lengths[:, None]
        weights = TokenWeights(mass.expand(shape.N, -1, -1)).to(device)
        self.mass = weights.mass
        self.problems = TokenProblems(self.r, self.s, weights, REG, TOL, MOST)

    def costs(self, few: bool = False) -> tuple[Tensor, Tensor]:
        """Return all costs (n, P, L) and weights b (n, L); with `few` at most FEW of them."""
        C = 1 - torch.einsum("bmpd,nkld->bkmnpl", self.r, self.s)
        b = self.mass.transpose(0, 1)[None, :, None].expand(*C.shape[:4], -1)
        C, b = C.flatten(0, 3), b.flatten(0, 3)
        every = max(1, len(C) // FEW) if few else 1
        return C[::every], b[::every]

    @property
    def count(self) -> int:
        """The number of problems."""
        return math.prod((*self.r.shape[:2], *self.s.shape[:2]))


# --------------------------------------------------------------- solvers: problems -> distances


def ours(problems: Problems) -> Tensor:
    """Return the distances (n,) in PyTorch, as where no kernels are."""
    if problems.r.shape[1] == problems.s.shape[0] == 1:  # as scores.py solves the prompt level
        C, b = problems.costs()
        return sinkhorn(C, None, b, REG, TOL, MOST).distance
    return plain_token_distances(problems.problems).flatten()


def kernels(problems: Problems) -> Tensor:
    """Return the distances (n,) of the fused kernels; raises Unmeasured."""
    try:
        from trainers.prompting.transport import triton_kernels
    except ImportError as error:
        raise Unmeasured(str(error)) from None
    if problems.r.device.type == "cpu":
        raise Unmeasured("needs a GPU")
    if obstacle := triton_kernels.obstacle(problems.problems, reference=plain_token_distances):
        raise Unmeasured(obstacle)
    return triton_kernels.token_distances(problems.problems).flatten()


def pot(problems: Problems) -> Tensor:
    """Return the distances (n,) of `ot.solve_batch`, with plans that are constants."""
    C, b = problems.costs()
    plan = ot.solve_batch(C.detach(), REG, None, b, MOST, TOL, "log_sinkhorn").plan
    return (plan * C).sum((1, 2))


@cache
def compiled_loop():
    """Return `loop`, compiled."""
    return torch.compile(loop)


def loop(C: Tensor, b: Tensor) -> Tensor:
    """Return the distances (n,) after MOST textbook iterations: u = a / (K v), v = b / (K' u)."""
    K, v = (C.detach() / -REG).exp(), torch.ones_like(b)
    for _ in range(MOST):
        u = 1 / (C.shape[1] * (K @ v[..., None]))
        v = b / (K.mT @ u)[..., 0]
    return (u * K * v[:, None] * C).sum((1, 2))


def compiled(problems: Problems) -> Tensor:
    """Return the distances (n,) of the compiled textbook loop."""
    return compiled_loop()(*problems.costs())


def flash(problems: Problems) -> Tensor:
    """Return the entropic costs (FEW,) of flash-sinkhorn; half of |r - s|^2 is 1 - cos.

    It solves one problem at a time, so it gets few of them; raises Unmeasured.
    """
    try:
        from flash_sinkhorn import SamplesLoss
    except ImportError:
        raise Unmeasured("pip install flash-sinkhorn to measure it") from None
    if problems.r.device.type == "cpu":
        raise Unmeasured("needs a GPU")
    n = min(FEW, problems.count)
    x = problems.r.flatten(0, 1)[torch.arange(n) % math.prod(problems.r.shape[:2])]
    y = problems.s.flatten(0, 1)[torch.arange(n) % math.prod(problems.s.shape[:2])]
    how = {"use_epsilon_scaling": False, "half_cost": True, "eps": REG, "n_iters": MOST}
    return SamplesLoss(backend="alternating", threshold=TOL, allow_tf32=False, **how)(x, y)


SOLVERS: dict[str, Callable[[Problems], Tensor]] = {
    "fused kernels": kernels,
    "PyTorch path": ours,
    "POT": pot,
    "compiled loop": compiled,
    "flash-sinkhorn": flash,
}


class Unmeasured(Exception):
    """A solver cannot run here; the message says why."""


def exact(problems: Problems) -> Tensor:
    """Return the distances of few problems in float64."""
    C, b = problems.costs(few=True)
    return sinkhorn(C.detach().double(), None, b.double(), REG, 1e-10, 10_000).distance


def measure(shape: Shape, name: str, device: str) -> dict:
    """Measure a solver: seconds forward, and with the gradient of the features; memory; error."""
    problems, solve = Problems(shape, device), SOLVERS[name]
    try:
        distances = solve(problems)
    except Unmeasured as error:
        return {"problem": str(error)}
    except torch.OutOfMemoryError:
        return {"problem": "out of memory"}
    except Exception as error:
        if solve in (ours, kernels):
            raise
        return {"problem": in_short(error, 100)}  # of another package on this device
    record: dict = {"problems": len(distances)}
    if solve is not flash:
        every = max(1, problems.count // FEW)
        record["error"] = (distances.detach()[::every] - exact(problems)).abs().max().item()

    def forward():
        with torch.no_grad():
            solve(problems)

    def both():
        solve(problems).sum().backward()

    del distances
    for key, work in (("seconds", forward), ("gradient_seconds", both)):
        try:
            work()
            before = _reset(device)
            record[key] = [seconds(work, device) for _ in range(REPEATS)]
            if device == "cuda":
                peak = torch.cuda.max_memory_allocated() - before
                record[key.replace("seconds", "mib")] = peak / 2**20
        except torch.OutOfMemoryError:
            record[key] = None
    if record["seconds"] and solve is not flash:
        record |= shares(shape, record, device)
    return record


def _reset(device: str) -> int:
    gc.collect()
    if device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def shares(shape: Shape, record: dict, device: str) -> dict:
    """Return the shares of the device's bandwidth and peak that necessary work takes.

    Necessary are the features, read once, the distances, and the products of the costs.
    """
    time, n = median(record["seconds"]), record["problems"]
    features = shape.B * shape.M * shape.P + shape.N * shape.K * shape.L
    return {
        "of_bandwidth": 4 * (features * shape.D + n) / time / bandwidth(device),
        "of_peak": 2 * n * shape.P * shape.L * shape.D / time / peak(device),
    }


@cache
def bandwidth(device: str) -> float:
    """Return bytes per second of a large copy."""
    x = torch.empty(1 << (28 if device == "cuda" else 24), device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / min(seconds(partial(y.copy_, x), device) for _ in range(4))


@cache
def peak(device: str) -> float:
    """Return operations per second of a large product in float32."""
    return product_rate(device, "fp32", 8192 if device == "cuda" else 1024)


def items(device: str, small: bool, more: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield the items of this piece by name."""
    for shape in shapes(small, more):
        for name in SOLVERS:
            if shape.level == "prompt" and name in ("fused kernels", "flash-sinkhorn"):
                continue  # of tokens only, and of one problem at a time
            yield f"{shape}, {name}", partial(measure, shape, name, device)
