"""The keys that this project adds to OPTIM, and the length of a training by them.

Letters: E epochs of n steps each; the last epoch may have fewer.
"""

import math

from yacs.config import CfgNode

from ..errors import UserError

KEYS = {
    "ADAM_EPS": 1e-8,  # Dassl itself leaves it to PyTorch
    "STEPS": 0,  # above 0: replaces MAX_EPOCH, and implies LR_BY_STEP
    "LR_BY_STEP": False,  # the learning rate changes after every step
    "LR_MIN": 0.0,  # where the cosine ends
    "COSINE_STEPS": 0,  # above 0: the cosine ends after so many steps, rises again, and so on
}


def check_optim(optim: CfgNode) -> None:
    """Check the keys that this project adds to OPTIM."""
    if not 0 <= optim.STEPS <= 10**9:
        raise UserError(
            f"OPTIM.STEPS is {optim.STEPS} but must be a whole number, 0 or more, {10**9:,} at most"
        )
    if not 0 <= optim.ADAM_EPS < 1:
        raise UserError(
            f"OPTIM.ADAM_EPS is {optim.ADAM_EPS} but must be at least 0 and less than 1"
        )
    if not 0 <= optim.LR_MIN <= optim.LR:
        raise UserError(
            f"OPTIM.LR_MIN is {optim.LR_MIN} but must be from 0 to OPTIM.LR ({optim.LR})"
        )
    if optim.LR_MIN and optim.LR_SCHEDULER != "cosine":
        raise UserError(
            f"OPTIM.LR_MIN is {optim.LR_MIN}, which needs OPTIM.LR_SCHEDULER cosine and not "
            f"{optim.LR_SCHEDULER}"
        )
    if not 0 <= optim.COSINE_STEPS <= 10**9:
        raise UserError(
            f"OPTIM.COSINE_STEPS is {optim.COSINE_STEPS} but must be from 0 to {10**9:,}"
        )
    if optim.COSINE_STEPS and not (by_step(optim) and optim.LR_SCHEDULER == "cosine"):
        raise UserError(
            f"OPTIM.COSINE_STEPS is {optim.COSINE_STEPS}, which needs OPTIM.LR_SCHEDULER cosine, "
            "and OPTIM.LR_BY_STEP True or OPTIM.STEPS"
        )


def epochs(optim: CfgNode, n: int) -> int:
    """Return E, the number of epochs."""
    return math.ceil(optim.STEPS / n) if optim.STEPS else optim.MAX_EPOCH


def steps(optim: CfgNode, n: int) -> int:
    """Return the number of steps of the whole training."""
    return optim.STEPS or optim.MAX_EPOCH * n


def by_step(optim: CfgNode) -> bool:
    """Return True if the learning rate changes after every step, and not after every epoch."""
    return bool(optim.STEPS or optim.LR_BY_STEP)
