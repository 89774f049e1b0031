"""Registers the methods with Dassl: their keys in its cfg, their trainers in its registry."""

from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from ..building.base_config import read_bases
from ..building.config import add_nodes
from ..method import METHODS
from .trainer import PromptTrainer

TAKEN = "Prompted"  # prefix of a method whose name the surrounding checkout already uses


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys of all methods to a Dassl cfg, and register their trainers with Dassl.

    Its config files may then name another as their BASE.

    A method whose name is taken by a trainer of the surrounding checkout is registered with the
    prefix `Prompted`. So call this after all trainers of the checkout have been imported, as they
    are where its `train.py` sets up the cfg.
    """
    add_nodes(cfg)
    read_bases(cfg)
    names = TRAINER_REGISTRY.registered_names()
    kinds = {getattr(TRAINER_REGISTRY.get(name), "kind", None) for name in names}
    for name, method in METHODS.items():
        if method not in kinds:
            name = TAKEN + name if name in names else name
            attributes = {"__doc__": method.__doc__, "__module__": PromptTrainer.__module__}
            TRAINER_REGISTRY.register()(
                type(name, (PromptTrainer,), {"kind": method, **attributes})
            )
