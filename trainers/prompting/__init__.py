"""The plug-in: prompted CLIPs, the methods that train them, and their trainers for Dassl.

This one folder can be copied into any checkout of the CoOp family. It imports nothing of the
checkout, and each name only when it is asked for: PyTorch takes seconds to load.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backbones import build_clip, load_clip
    from .config import extend_cfg, prompt_spec
    from .errors import UserError
    from .model import PromptedCLIP
    from .spec import PromptSpec
    from .transport.solver import sinkhorn

_PLACES = {
    "PromptSpec": "spec",
    "PromptedCLIP": "model",
    "UserError": "errors",
    "build_clip": "backbones",
    "extend_cfg": "config",
    "load_clip": "backbones",
    "prompt_spec": "config",
    "sinkhorn": "transport.solver",
}

__all__ = [
    "PromptSpec",
    "PromptedCLIP",
    "UserError",
    "build_clip",
    "extend_cfg",
    "load_clip",
    "prompt_spec",
    "sinkhorn",
]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
