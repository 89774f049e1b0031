"""The plug-in: prompted CLIPs, the methods that train them, and their trainers for Dassl.

This one folder can be copied into any checkout of the CoOp family. It imports nothing of the
checkout, and each name only when it is asked for: PyTorch takes seconds to load.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backbones import build_clip, load_clip
    from .errors import UserError
    from .method import Method, register
    from .model.prompted_clip import PromptedCLIP
    from .model.spec import PromptSpec
    from .teacher import Teacher
    from .trainer.config import build_method, prompt_spec
    from .transport.solver import sinkhorn
    from .use.run import load_run

__version__ = "0.3.0"

_PLACES = {
    "Method": "method",
    "PromptSpec": "model.spec",
    "PromptedCLIP": "model",
    "Teacher": "teacher",
    "UserError": "errors",
    "build_clip": "backbones",
    "build_method": "trainer.config",
    "load_clip": "backbones",
    "load_run": "use.run",
    "prompt_spec": "trainer.config",
    "register": "method",
    "sinkhorn": "transport.solver",
}

__all__ = [
    "Method",
    "PromptSpec",
    "PromptedCLIP",
    "Teacher",
    "UserError",
    "build_clip",
    "build_method",
    "extend_cfg",
    "load_clip",
    "load_run",
    "prompt_spec",
    "register",
    "sinkhorn",
]


def extend_cfg(cfg) -> None:
    """As `trainer.extend_cfg`. Where a package is missing that all of ours need, or Python is too
    old, a warning says so, and the checkout around us runs without them."""
    from .errors import UserError

    try:
        if sys.version_info < (3, 10):  # noqa: UP036 (a checkout may have an older one)
            raise ImportError("Python 3.10 or newer is needed")
        from .trainer import trainer
    except (ImportError, UserError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        remedy = f": run `pip install {missing.partition('.')[0]}`" if missing else ""
        print(f"warning: the trainers of {__name__} are left out: {error}{remedy}")
    else:
        trainer.extend_cfg(cfg)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
