"""Fits a training step into memory: chooses the activations that are computed again.

A frozen encoder keeps its activations only for the gradient of the prompts. With recomputation, it
keeps the input of each block, and all activations of one block at a time; or all but the attention
of its text blocks, whose padded copies are large and cheap. On a CPU, where nothing reports that
memory is short before the system ends the process, the bytes of a step are measured before the
first. On other devices a step that does not fit is repeated with recomputation.
"""

import ctypes
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import UserError

GIB = 1 << 30
FROZEN = ("text_encoder.", "image_encoder.")  # sub-modules whose buffers do not change
ALLOC_FAILED = "_STATUS_ALLOC_FAILED"  # of cuBLAS and cuDNN, which the allocator does not see
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h
# what is recomputed, least first: see `TextEncoder.recompute`, `ImageEncoder.recompute`
LEVELS = ((0, False), (1, False), (2, False), (1, True), (2, True))
Result = TypeVar("Result")


class Snapshot:
    """The random state and the buffers of a method, to undo a step that did not end."""

    def __init__(self, method: Any):
        self._random = torch.get_rng_state()
        self._of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._buffers = [
            (method.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], x, x.clone())
            for name, x in method.named_buffers()
            if not name.startswith(FROZEN)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Set all of it back."""
        torch.set_rng_state(self._random)
        if self._of_gpus:
            torch.cuda.set_rng_state_all(self._of_gpus)
        for owner, name, buffer, value in self._buffers:
            owner._buffers[name] = buffer.copy_(value)  # the step may have put another there


def recomputed_encoders(method: Any) -> list[str]:
    """Return what a method recomputes: text attention or text blocks, image blocks."""
    text = ("", "text attention", "text blocks")[method.text_encoder.recompute]
    return [name for name in (text, "image blocks" * method.image_encoder.recompute) if name]


def gpu_is_full(error: BaseException) -> bool:
    """Return True if an accelerator lacks memory: PyTorch's allocator, cuBLAS or cuDNN says so.

    Examples:
        >>> gpu_is_full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."))
        True
    """
    of_library = isinstance(error, RuntimeError) and ALLOC_FAILED in str(error)
    return of_library or isinstance(error, torch.OutOfMemoryError)


def within_memory(method: Any, work: Callable[[], Result]) -> Result:
    """Return `work()`; while memory runs out, repeat it and recompute more, by `LEVELS`.

    The random state and the buffers of the method are set back before a repetition. `work` computes
    gradients, and changes nothing else that outlasts it.

    Raises:
        RuntimeError: it does not fit even so (`gpu_is_full`), or `work` fails otherwise.
    """
    text, image = method.text_encoder, method.image_encoder
    for level in LEVELS[LEVELS.index((text.recompute, image.recompute)) + 1 :]:
        state = Snapshot(method)
        try:
            return work()
        except RuntimeError as error:
            if not gpu_is_full(error):
                raise
        # outside of that block the failed step's tensors are gone
        text.recompute, image.recompute = level
        print(
            f"Memory: a step did not fit; recomputing {' and '.join(recomputed_encoders(method))}"
        )
        state.restore()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return work()


def fit(method: Any, batch: int, gib: float, precision: Any, features: bool = False) -> str:
    """Set up a method so that training steps fit into memory.

    Args:
        method: in train mode, on its device.
        batch: number of images of a step.
        gib: the budget as configured, see `memory_budget`; up to a sixteenth of it is for a chunk
            of token-level costs.
        precision: the `Precision` of the run.
        features: True if steps take features of images, which are encoded before.

    Returns:
        A sentence on what was decided.
    """
    budget = memory_budget(gib, precision.device)
    method.chunk_bytes = min(method.chunk_bytes, budget // 16)
    limit = f"the budget is {budget / GIB:.2f} GiB"
    if precision.device.type != "cpu":
        if gib and precision.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(precision.device)
            share = (torch.cuda.memory_reserved(precision.device) + budget) / total
            torch.cuda.set_per_process_memory_fraction(min(share, 1.0), precision.device)
        return f"Memory: {limit}; blocks will be recomputed if a step does not fit"
    transformer = getattr(method.text_encoder, "transformer", None)  # a closed side has none
    blocks, largest = len(transformer.resblocks) if transformer else 1, 0.0
    for level in LEVELS:
        method.text_encoder.recompute, method.image_encoder.recompute = level
        needed = step_bytes(method, batch, precision, features, budget - method.chunk_bytes)
        largest = max(largest, needed)
        needed += (largest - needed) / blocks  # one block at a time
        if needed <= budget - method.chunk_bytes:
            parts = " and ".join(recomputed_encoders(method)) or "nothing"
            return (
                f"Memory: a step keeps at most {needed / GIB:.2f} GiB of activations, {limit}; "
                f"{parts} will be recomputed"
            )
    enough = math.ceil(needed / GIB * 110) / 100  # with a tenth on top
    raise UserError(
        f"A training step keeps at least {needed / GIB:.2f} GiB of activations but MEMORY_BUDGET "
        f"leaves {budget / GIB:.2f} GiB: set TRAINER.MEMORY_BUDGET {enough:.2f}, or lower "
        "DATALOADER.TRAIN_X.BATCH_SIZE"
    )


def step_bytes(
    method: Any, batch: int, precision: Any, features: bool = False, enough: float = 0
) -> float:
    """Return the bytes that a step saves for its backward pass, from two and three images.

    Two images suffice for an upper bound, which is returned if it is at most `enough`.
    """
    size = method.image_encoder.visual.input_resolution
    shape = (method.row_width,) if features else (3, size, size)

    def of(count: int) -> int:  # one image would be too few for a BatchNorm
        images = torch.zeros(min(count, batch), *shape, device=precision.device)
        state = Snapshot(method)
        with precision.autocast():
            saved = saved_bytes(method, partial(method.output, images))
        state.restore()
        return saved

    two = of(2)
    if batch <= 2 or two * batch / 2 <= enough:
        return two * max(batch / 2, 1)
    return two + (batch - 2) * (of(3) - two)


def saved_bytes(method: torch.nn.Module, work: Callable[[], object]) -> int:
    """Return the bytes that autograd saves in a call, except weights; nothing is kept.

    Storages that tensors share count once.
    """
    tensors = [x for x in (*method.parameters(), *method.buffers()) if x.layout == torch.strided]
    weights = {x.untyped_storage().data_ptr() for x in tensors}
    storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def count(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            ref = StorageWeakRef(storage)
            storages[ref.cdata] = ref, storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        work()
    return sum(size for _, size in storages.values())


def memory_budget(gib: float, device: torch.device) -> int:
    """Return the bytes that activations may take.

    Args:
        gib: as configured; 0 takes 90% of the free memory of an accelerator. On the CPU, and if
            the accelerator does not report its free memory, 0 takes a quarter of the machine's
            memory: other runs need memory, too.
        device: where the method computes.
    """
    if gib:
        return int(gib * GIB)
    mem_get_info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if mem_get_info:
        return int(0.9 * mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def keep_freed_memory():
    """Make this process keep freed memory and reuse it; only glibc supports this.

    Otherwise every large tensor is allocated from the system page by page and returned to it. If a
    step keeps gigabytes, that takes as long as the arithmetic.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
