"""The cfg nodes of every method, and their translation into a point in the space of prompts."""

from types import SimpleNamespace

from yacs.config import CfgNode

from .align import ALIGN, MMP
from .cocoop import CoCoOp
from .coop import CoOp
from .ivlp import IVLP
from .maple import MaPLe
from .plot import PLOT
from .prompting import PromptSpec, UserError
from .prompting.errors import nearest
from .upt import UPT
from .vpt import VPT
from .zeroshot_clip import ZeroshotCLIP

METHODS = {
    cls.__name__: cls
    for cls in (ZeroshotCLIP, CoOp, CoCoOp, VPT, IVLP, PLOT, UPT, MaPLe, ALIGN, MMP)
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add every method's node, under the names of the public repositories, to a Dassl cfg."""
    for method in METHODS.values():
        cfg.TRAINER[method.node] = CfgNode(method.defaults)
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new


def prompt_spec(method: str, node: dict) -> PromptSpec:
    """A method's point in the space from its cfg node.

    Args:
        method: trainer name, e.g. `MaPLe`.
        node: the keys of the method's node; missing ones take the defaults.

    Raises:
        UserError: unknown method or key, or values that contradict each other.
    """
    if method not in METHODS:
        raise UserError(f"There is no method '{method}': {nearest(method, METHODS)}")
    cls = METHODS[method]
    for key in node:
        if key not in cls.defaults:
            raise UserError(f"TRAINER.{cls.node} has no key '{key}': {nearest(key, cls.defaults)}")
    return cls.spec(SimpleNamespace(**{**cls.defaults, **node}))
