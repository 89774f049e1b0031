"""The plug-in: prompted CLIPs, the methods that train them, and their trainers for Dassl.

Copy this folder into any checkout of the CoOp family, or install it as `promptedclip`. It imports
nothing from the checkout. Each public name is imported on first use, since PyTorch takes seconds.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .one_package import share

if TYPE_CHECKING:  # for type checkers and editors, which do not follow __getattr__
    from .backbones import build_clip as build_clip
    from .backbones import from_module as from_module
    from .backbones import list_backbones as list_backbones
    from .backbones import load_clip as load_clip
    from .backbones.bert import OpenText as OpenText
    from .building.build import build_method as build_method
    from .capabilities.at_test_time import AtTestTime as AtTestTime
    from .capabilities.on_support import OnSupport as OnSupport
    from .capabilities.per_class import PerClass as PerClass
    from .capabilities.planned import Planned as Planned
    from .capabilities.staged import Stage as Stage
    from .capabilities.staged import Staged as Staged
    from .capabilities.taught import Taught as Taught
    from .capabilities.unlabelled import Unlabelled as Unlabelled
    from .checkpoint.public import Public as Public
    from .encoders.added import Added as Added
    from .encoders.added import LowRank as LowRank
    from .encoders.added import blocks_of as blocks_of
    from .encoders.added import tuned_norm as tuned_norm
    from .encoders.sentences import write_sentences as write_sentences
    from .encoders.text import TextEncoder as TextEncoder
    from .encoders.vision import ImageEncoder as ImageEncoder
    from .errors import UserError as UserError
    from .method import Method as Method
    from .methods import list_methods as list_methods
    from .prompts import Contexts as Contexts
    from .prompts import word_embeddings as word_embeddings
    from .registry import register as register
    from .teacher import MethodTeacher as MethodTeacher
    from .teacher import Teacher as Teacher
    from .teacher import read_sentences as read_sentences
    from .transport.solver import sinkhorn as sinkhorn
    from .use.run import load_run as load_run

__version__ = "0.7.0"
share(__name__)

_MODULES = {
    "Added": "encoders.added",
    "AtTestTime": "capabilities.at_test_time",
    "Contexts": "prompts",
    "ImageEncoder": "encoders.vision",
    "LowRank": "encoders.added",
    "Method": "method",
    "MethodTeacher": "teacher",
    "OnSupport": "capabilities.on_support",
    "OpenText": "backbones.bert",
    "PerClass": "capabilities.per_class",
    "Planned": "capabilities.planned",
    "Public": "checkpoint.public",
    "Stage": "capabilities.staged",
    "Staged": "capabilities.staged",
    "Taught": "capabilities.taught",
    "Teacher": "teacher",
    "TextEncoder": "encoders.text",
    "Unlabelled": "capabilities.unlabelled",
    "UserError": "errors",
    "blocks_of": "encoders.added",
    "build_clip": "backbones",
    "build_method": "building.build",
    "from_module": "backbones",
    "list_backbones": "backbones",
    "list_methods": "methods",
    "load_clip": "backbones",
    "load_run": "use.run",
    "read_sentences": "teacher",
    "register": "registry",
    "sinkhorn": "transport.solver",
    "tuned_norm": "encoders.added",
    "word_embeddings": "prompts",
    "write_sentences": "encoders.sentences",
}

__all__ = [*_MODULES, "extend_cfg"]


def extend_cfg(cfg: Any) -> None:
    """Add the keys of all methods to a Dassl cfg, in place, and register their trainers with Dassl.

    If a required package is missing or Python is too old, a warning says so, and the surrounding
    checkout runs without these trainers.

    Examples:
        >>> from dassl.config import get_cfg_default
        >>> cfg = get_cfg_default()
        >>> extend_cfg(cfg)
        >>> cfg.TRAINER.ALIGN.BETA
        1.0
    """
    from .errors import UserError

    try:
        if sys.version_info < (3, 11):  # noqa: UP036 (a checkout may have an older one)
            raise ImportError("Python 3.11 or newer is needed")
        from .trainer.register import extend_cfg as extend
    except (ImportError, UserError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        remedy = f": run `pip install {missing.partition('.')[0]}`" if missing else ""
        print(f"warning: the trainers of {__name__} are left out: {error}{remedy}")
    else:
        extend(cfg)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
