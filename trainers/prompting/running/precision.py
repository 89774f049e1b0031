"""The precision of a run: `fp32`, `amp` or `bf16` (autocast), `fp16` (frozen encoders in half)."""

import os
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.closed import Closed
from ..backbones.openai_clip import model as openai_model
from ..encoders import blocks
from ..errors import one_of

# Initial loss scale of half precision. With PyTorch's default, 65536, the first steps overflow and
# are skipped.
INIT_SCALE = 1024.0
PRECISIONS = ("fp32", "amp", "bf16", "fp16")
# Of the timed product: its rows and repetitions, how many elements a layer must have for its time
# to matter (the largest of RN50 has as many), and a factor that is worth saying.
ROWS, TIMES, LARGE, WORTH = 128, 4, 2**20, 1.2


def fix_cublas() -> None:
    """Let cuBLAS add in a fixed order; call this before anything is computed on a GPU.

    cuBLAS, and PyTorch before 2.10, read the environment variable only once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic() -> None:
    """Make a GPU compute the same numbers from the same seed: sums have a fixed order.

    Call this before anything is computed on the GPU, or `fix_cublas` there.
    """
    fix_cublas()
    torch.use_deterministic_algorithms(True)
    # nothing here reads uninitialised memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def bfloat16_factor(clip_model: nn.Module) -> float:
    """Return how many times as fast as in float32 the CPU multiplies in bfloat16, by the clock.

    It is timed on a layer as large as the CLIP's largest; 1 for a CLIP without a large one.
    """
    shapes = [layer.weight.shape for layer in clip_model.modules() if isinstance(layer, nn.Linear)]
    shape = max(shapes, key=torch.Size.numel, default=torch.Size([0]))
    if shape.numel() < LARGE:
        return 1.0
    kinds = torch.float32, torch.bfloat16
    seconds: dict[torch.dtype, list[float]] = {kind: [] for kind in kinds}
    for kind in kinds * TIMES:
        x, weight = torch.ones(ROWS, shape[1], dtype=kind), torch.ones(shape, dtype=kind)
        begun = time.perf_counter()
        F.linear(x, weight)
        seconds[kind].append(time.perf_counter() - begun)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


class Precision:
    """The precision of a run on a device.

    Prompts and scores are float32 in any case.

    Args:
        name: `fp32`, `amp` (bfloat16 on the CPU, float16 elsewhere), `bf16` (`amp` in bfloat16
            everywhere, whose range needs no loss scale) or `fp16`, which becomes `fp32` on the CPU.
        device: where the model is.
        half_on_cpu: let `fp16` and `amp` be float16 on the CPU, too, to compare it: that is slow.

    Attributes:
        name: the precision that is used.
        computed_in: the type of most products.
        scaler: a `GradScaler`, disabled where gradients cannot vanish.
    """

    def __init__(self, name: str, device: torch.device, half_on_cpu: bool = False):
        one_of("PREC", name, PRECISIONS)
        without_half = device.type == "cpu" and not half_on_cpu
        self.falls_back = name == "fp16" and without_half
        self.name = "fp32" if self.falls_back else name
        self.device = device
        self.half = torch.bfloat16 if without_half or name == "bf16" else torch.float16
        self.computed_in = torch.float32 if self.name == "fp32" else self.half
        scaled = self.name != "fp32" and self.half == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, init_scale=INIT_SCALE, enabled=scaled)

    def note(self, clip_model: nn.Module) -> str:
        """Return what should be said of the precision before a run; empty if nothing."""
        said = []
        if self.falls_back:
            said.append("PREC fp16 needs a GPU: on the CPU this run computes in fp32")
        if self.device.type == "cpu" and (said or self.name != "fp32"):
            factor, words = bfloat16_factor(clip_model), "this processor computes"
            if self.falls_back and factor >= WORTH:
                said.append(f"{words} {factor:.1f} times as fast in bfloat16: set PREC bf16")
            if not self.falls_back and 1 / factor >= WORTH:
                said.append(f"{words} {1 / factor:.1f} times as fast in float32: set PREC fp32")
        return "\n".join(said)

    def place(self, method: nn.Module, clip_model: Any) -> None:
        """Move a method to the device, with its frozen CLIP in the type that it runs in."""
        if self.name == "fp16":
            openai_model.convert_weights(clip_model)
            for side in clip_model.children():
                if isinstance(side, Closed):
                    side.autocast_to = self.half
        elif self.name != "fp32":
            for encoder in (clip_model, clip_model.visual):
                if hasattr(encoder, "transformer"):
                    blocks.hold_weights_in(self.half, encoder.transformer.resblocks)
        method.to(self.device)

    def load_scale(self, state: dict[str, float]) -> None:
        """Load the loss scale of a checkpoint; it is empty if the run that saved it needed none."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        enabled = self.name in ("amp", "bf16")
        return torch.autocast(self.device.type, dtype=self.half, enabled=enabled)
