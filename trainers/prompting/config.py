"""The cfg nodes of every method, and their translation into a point in the space of prompts."""

from types import SimpleNamespace

from yacs.config import CfgNode

from . import PromptSpec, UserError
from .errors import nearest
from .methods.align import ALIGN
from .methods.cocoop import CoCoOp
from .methods.coop import CoOp
from .methods.ivlp import IVLP
from .methods.maple import MaPLe
from .methods.mmp import MMP
from .methods.plot import PLOT
from .methods.upt import UPT
from .methods.vpt import VPT
from .methods.zeroshot_clip import ZeroshotCLIP

METHODS = {
    cls.__name__: cls
    for cls in (ZeroshotCLIP, CoOp, CoCoOp, VPT, IVLP, PLOT, UPT, MaPLe, ALIGN, MMP)
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add every method's node, under the names of the public repositories, to a Dassl cfg.

    Keys that the cfg already has keep their values: they are those of the checkout around us.
    """
    for method in METHODS.values():
        node = CfgNode({**dict.fromkeys(method.ignored), **method.defaults})
        node.update(cfg.TRAINER.get(method.node, {}))
        cfg.TRAINER[method.node] = node
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new
    cfg.TRAINER.MEMORY_BUDGET = 0.0  # GiB for the activations of a step; 0 asks the machine
    cfg.TRAINER.COMPILE = False  # let torch.compile fuse the blocks


def prompt_spec(method: str, node: dict) -> PromptSpec:
    """A method's point in the space from its cfg node.

    Args:
        method: trainer name, e.g. `MaPLe`.
        node: the keys of the method's node; missing ones take the defaults. One that means
            nothing here is named in a printed warning, unless its value is None.

    Raises:
        UserError: unknown method or key, or values that contradict each other.
    """
    if method not in METHODS:
        raise UserError(f"There is no method '{method}': {nearest(method, METHODS)}")
    cls = METHODS[method]
    for key in node:
        if key not in cls.defaults and key not in cls.ignored:
            raise UserError(f"TRAINER.{cls.node} has no key '{key}': {nearest(key, cls.defaults)}")
    unused = [f"TRAINER.{cls.node}.{key}" for key in cls.ignored if node.get(key) is not None]
    if unused:
        print(f"warning: ignored, as they mean nothing here: {', '.join(unused)}")
    return cls.spec(SimpleNamespace(**{**cls.defaults, **node}))
