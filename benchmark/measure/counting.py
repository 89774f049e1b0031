"""Count the seconds, operations and launches of a call.

Only PyTorch is imported, because `public_step.py` uses this next to published code.
"""

import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

aten = torch.ops.aten
# PyTorch's formulas leave out the attention that the CPU runs.
FORMULAS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def synchronize(device: str) -> None:
    """Wait until the GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds that a call takes."""
    return seconds_of(work, device)[0]


def seconds_of(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Return the seconds that a call takes, and the processor's, with all threads."""
    synchronize(device)
    start, processor = time.perf_counter(), time.process_time()
    work()
    synchronize(device)
    return time.perf_counter() - start, time.process_time() - processor


def clock(device: str) -> str:
    """Return which of `seconds` and `processor_seconds` is the time of a device's own work.

    On a CPU, other programs lengthen the first; on a GPU, the second is the host's.
    """
    return "processor_seconds" if device == "cpu" else "seconds"


def work_seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds of a device's own work for a call, by its `clock`."""
    return seconds_of(work, device)[clock(device) == "processor_seconds"]


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of a call."""
    with Operations() as counter:
        work()
    return counter.total


def launches(work: Callable[[], object]) -> int:
    """Return the operators that a call dispatches, without views: on a GPU, each is a launch."""
    with Operations() as counter:
        work()
    return counter.launches


class Operations(TorchDispatchMode):
    """Add up floating-point operations, as FlopCounterMode, whose hooks refuse gradients of inputs.

    Attributes:
        total: the sum.
        launches: number of operators but views.
    """

    def __init__(self):
        super().__init__()
        self.total = self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operator and count it, and its operations if there is a formula."""
        out = func(*args, **(kwargs or {}))
        self.launches += not func.is_view and func.namespace != "profiler"
        if formula := FORMULAS.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out
