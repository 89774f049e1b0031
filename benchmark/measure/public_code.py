"""Let a process import a checkout of published code, for public_step.py and public_training.py.

It imports nothing of this repository, since modules of the checkout have the same names as ours.
"""

import sys
from functools import partial
from types import ModuleType

import packaging.version
import torch

# imported by the codes of ALIGN, TCP and the original Dassl; training uses none
UNUSED = ("cv2", "pickle5", "pkg_resources", "wilds")


def enter(checkout: str, device: str, precision: str) -> None:
    """Let this process import a checkout, which then computes on the device and in the precision.

    `device` is `cpu` or `cuda`, `precision` as `PREC` of the checkout's trainers.
    """
    sys.path.insert(0, checkout)
    for name in UNUSED:
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["pkg_resources"])["packaging"] = packaging
    vars(sys.modules["wilds"])["get_dataset"] = None
    if device == "cpu":  # several codes move parts to a GPU without asking for the device
        for kind in (torch.Tensor, torch.nn.Module):
            kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        cast = partial(torch.autocast, "cpu", torch.float16)  # CUDA's is off
        torch.cuda.amp.autocast = cast  # type: ignore[assignment,misc]
    if precision == "fp32":  # MaPLe's and PromptSRC's convert parts in each
        torch.nn.Module.half = torch.nn.Module.float  # type: ignore[method-assign]
        torch.Tensor.half = torch.Tensor.float  # type: ignore[method-assign]


def give_weights(path: str) -> None:
    """Let every copy of CLIP that is imported read its weights from a file."""
    for module in list(sys.modules.values()):  # TCP's code has two copies
        if hasattr(module, "_download") and hasattr(module, "_MODELS"):
            vars(module)["_download"] = lambda *args, **kwargs: path
