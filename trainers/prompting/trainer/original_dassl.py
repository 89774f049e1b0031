"""Refuses in one sentence what an original Dassl does and a recent PyTorch does not take.

Its last release is older than PyTorch 2.6; `dassl-lite` needs none of this.
"""

import inspect
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from yacs.config import CfgNode

from ..errors import UserError


def check_warm_up(optim: CfgNode) -> None:
    """Check, before data are loaded, that the warm-up of the installed Dassl can be built."""
    from dassl.config import get_cfg_default
    from dassl.optim import build_lr_scheduler

    if optim.WARMUP_EPOCH < 1:
        return
    plain = get_cfg_default().OPTIM
    plain.WARMUP_EPOCH = 1
    try:
        build_lr_scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0), plain)
    except TypeError as error:
        raise UserError(
            f"This Dassl gives schedulers an argument that PyTorch {torch.__version__} does not "
            "take: write `super().__init__(optimizer, last_epoch)`, without `verbose`, in "
            f"'{inspect.getsourcefile(build_lr_scheduler)}' (docs/checkouts.md)"
        ) from error


@contextmanager
def readable() -> Iterator[None]:
    """Let Dassl read a checkpoint to resume from."""
    try:
        yield
    except pickle.UnpicklingError as error:
        from dassl.utils import load_checkpoint

        raise UserError(
            f"This Dassl reads no checkpoint to resume from with PyTorch {torch.__version__}: if "
            "you trust it, give `torch.load` the argument `weights_only=False` in "
            f"'{inspect.getsourcefile(load_checkpoint)}' (docs/checkouts.md)"
        ) from error
