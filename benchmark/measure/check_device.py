"""Check that this machine computes correctly. It takes two minutes; run nothing else meanwhile.

A training step of ALIGN with random weights of full size is checked: fused kernels against plain
PyTorch, half precision against float32, the same step twice for identical bits, the memory that a
step keeps against the plan, and time and logits against a naive reference.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from tabulate import tabulate

from trainers.prompting.running.memory import GIB
from trainers.prompting.running.precision import fix_cublas, make_deterministic
from trainers.prompting.scores import token_problems
from trainers.prompting.transport.token_level import plain_token_distances

from ..cli import Parser, from_one
from .case import Case, Model, NaiveModel, check_usable, device_name, seconds
from .geometry import GEOMETRY

# Backbone, classes and images of a step.
SIZES = {"cuda": ("ViT-B/16", 50, 4), "cpu": ("ViT-B/32", 10, 2)}
PRECISIONS = {"cuda": ("amp", "fp16"), "cpu": ("amp",)}
REPEATS = 2

# Limits that have to hold.
SAME_DISTANCE = 1e-4  # largest difference of distances, fused kernels to plain PyTorch
SAME_LOGIT = 1e-3  # largest difference of logits, to the naive reference in float32
HALF_LOGIT = 0.1  # largest difference of logits, as a share of their spread over the classes
HALF_GRADIENT = 0.99  # least cosine with the gradient in float32
MEMORY = 1.2  # kept memory over planned memory


class Check(NamedTuple):
    """A check: its name, the value found, the value wanted, and whether it holds."""

    name: str
    found: str
    wanted: str
    holds: bool


@dataclass
class Step:
    """The results of a training step."""

    logits: torch.Tensor  # (B, K)
    gradient: torch.Tensor  # of all prompts, flat
    seconds: float  # the least of several steps
    kept: int  # bytes for the backward pass
    planned: float  # bytes for the backward pass, by the plan

    def same_as(self, other: "Step") -> bool:
        """Return True if logits and gradient are the same to the last bit."""
        pairs = ((self.logits, other.logits), (self.gradient, other.gradient))
        return all(torch.equal(a, b) for a, b in pairs)


def take_step(case: Case, repeats: int, kind: type[Model] = Model) -> Step:
    """Build a case, run its first step, and time `repeats` more."""
    model = kind(case)
    with bytes_kept(model) as kept:
        logits = model.first_step()
    parameters = model.model.trained().parameters()
    gradients = [p.grad for p in parameters if p.grad is not None]
    gradient = torch.cat([one.float().cpu().flatten() for one in gradients])
    least = min((seconds(model.step, case.device) for _ in range(repeats)), default=0.0)
    return Step(logits, gradient, least, sum(kept.values()), model.planned)


@contextmanager
def bytes_kept(model: Model) -> Iterator[dict[int, int]]:
    """Collect the memory that autograd keeps inside the `with` block, except weights.

    Yields:
        Bytes of each storage, by its address.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def checks(device: str, threads: int) -> Iterator[Check]:
    """Run the checks and yield each as soon as it is done; stderr reports progress."""
    backbone, classes, batch = SIZES[device]
    case = Case("ALIGN", GEOMETRY[backbone], classes, batch, device, "fp32", threads)
    _say("fused kernels")
    yield kernels(case)
    _say(f"steps in float32: {backbone}, {classes} classes, {batch} images")
    ours = take_step(case, REPEATS)
    yield Check(
        "memory of a step",
        f"{ours.kept / GIB:.2f} GiB kept",
        f"at most {MEMORY} x {ours.planned / GIB:.2f} GiB planned",
        ours.kept <= MEMORY * ours.planned,
    )
    for precision in PRECISIONS[device]:
        _say(f"a step with {precision}")
        yield from half(precision, take_step(replace(case, precision=precision), 0), ours)
    _say("steps of the naive reference")
    naive = take_step(case, 1, NaiveModel)
    apart = (ours.logits - naive.logits).abs().max().item()
    yield Check("logits of the reference", f"{apart:.1e} apart", f"at most {SAME_LOGIT}",
                apart <= SAME_LOGIT)  # fmt: skip
    faster = naive.seconds / ours.seconds
    yield Check(
        "time of a step",
        f"{ours.seconds:.3g} s, the reference {naive.seconds:.3g} s",
        "less than the reference",
        faster > 1,
    )
    _say("the same step again")
    first = ours
    if device == "cuda":
        make_deterministic()  # as TRAINER.DETERMINISTIC
        first = take_step(case, 0)
    same = first.same_as(take_step(case, 0))
    yield Check("the same step twice", "the same bits" if same else "other bits", "the same", same)


def _say(what: str) -> None:
    print(f"now: {what}", file=sys.stderr, flush=True)


def kernels(case: Case) -> Check:
    """Check the token-level distances of the fused kernels, if the device has kernels."""
    name, wanted = "fused kernels", f"at most {SAME_DISTANCE} apart"
    if case.device == "cpu":
        return Check(name, "none on this device", wanted, True)
    try:
        from trainers.prompting.transport import triton_kernels
    except ImportError as error:
        return Check(name, f"none ({error})", wanted, False)
    model = Model(case)
    model.prepare_score()
    with torch.no_grad():
        image, text = model.features
        problems = token_problems(case.spec, image, text, model.model.chunk_bytes)
        obstacle = triton_kernels.obstacle(problems, reference=plain_token_distances)
        if obstacle:
            return Check(name, f"not used: {obstacle}", wanted, False)
        own, expected = triton_kernels.token_distances(problems), plain_token_distances(problems)
    apart = (own - expected).abs().max().item()
    return Check(name, f"{apart:.1e} apart", wanted, apart <= SAME_DISTANCE)


def half(precision: str, step: Step, reference: Step) -> Iterator[Check]:
    """Check logits and gradients of a precision against float32."""
    spread = reference.logits.std(1).mean()
    apart = ((step.logits - reference.logits).abs().max() / spread).item()
    cosine = torch.cosine_similarity(step.gradient, reference.gradient, dim=0).item()
    found = f"{apart:.4f} of their spread apart"
    yield Check(f"{precision}: logits", found, f"at most {HALF_LOGIT}", apart <= HALF_LOGIT)
    found, wanted = f"cosine {cosine:.5f}", f"at least {HALF_GRADIENT}"
    yield Check(f"{precision}: gradients", found, wanted, cosine >= HALF_GRADIENT)


def main(argv: list[str]) -> int:
    """Run `python -m benchmark check-device`; return 0 if all checks hold, else 1."""
    fix_cublas()  # `checks` calls `make_deterministic` only at its end
    parser = Parser(prog="python -m benchmark check-device", description=__doc__)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=usual, help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=from_one,
        default=torch.get_num_threads(),
        help="CPU threads (default: all)",
    )
    args = parser.parse_args(argv)
    check_usable(args.device)
    found = list(checks(args.device, args.threads))
    lines = [[*check[:3], "yes" if check.holds else "NO"] for check in found]
    print(tabulate(lines, headers=["Check", "Found", "Should be", "Holds"], disable_numparse=True))
    where = f"{device_name(args.device)}, PyTorch {torch.__version__}"
    wrong = [check.name for check in found if not check.holds]
    told = f"Not all checks hold: see {', '.join(wrong)}" if wrong else "All checks hold"
    print(f"\n{told} ({where}).")
    return int(bool(wrong))
