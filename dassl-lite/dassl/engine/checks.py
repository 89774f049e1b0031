"""Checks the values of a config before data and model are built."""

import math
import os.path as osp

from dassl.utils.errors import UserError, unknown_name

_FINITE = "a finite number, 0 or more"
_COUNT = "a whole number, 1 or more"

# The condition on a key's value, in words and as a test.
_RULES = {
    "TRAIN.PRINT_FREQ": (_COUNT, lambda n: n >= 1),
    "DATALOADER.TRAIN_X.BATCH_SIZE": (_COUNT, lambda n: n >= 1),
    "DATALOADER.TRAIN_U.BATCH_SIZE": (_COUNT, lambda n: n >= 1),
    "DATALOADER.TEST.BATCH_SIZE": (_COUNT, lambda n: n >= 1),
    "DATALOADER.K_TRANSFORMS": (_COUNT, lambda n: n >= 1),
    "DATALOADER.NUM_WORKERS": ("a whole number, 0 or more", lambda n: n >= 0),
    "DATASET.NUM_SHOTS": ("a number of images, or -1 for all", lambda n: n >= -1),
    "OPTIM.LR": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.MOMENTUM": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.WEIGHT_DECAY": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.WARMUP_CONS_LR": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.WARMUP_MIN_LR": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.BASE_LR_MULT": (_FINITE, lambda x: 0 <= x < math.inf),
    "OPTIM.MAX_EPOCH": (_COUNT, lambda n: n >= 1),
    "OPTIM.WARMUP_EPOCH": ("a number of epochs, or -1 for none", lambda n: n >= -1),
    "DATALOADER.CACHE_GIB": (_FINITE, lambda x: 0 <= x < math.inf),
    "DATALOADER.TRAIN_X.N_INS": (_COUNT, lambda n: n >= 1),
    "INPUT.GB_K": ("an odd number, 1 or more", lambda n: n >= 1 and n % 2 == 1),
    "INPUT.COLORJITTER_H": ("from 0 to 0.5", lambda x: 0 <= x <= 0.5),
    "INPUT.SIZE": (
        "two whole numbers, 1 or more: height and width",
        lambda size: len(size) == 2 and all(isinstance(n, int) and n >= 1 for n in size),
    ),
    "INPUT.PIXEL_MEAN": (
        "three finite numbers, one a channel",
        lambda mean: len(mean) == 3 and all(map(math.isfinite, mean)),
    ),
    "INPUT.PIXEL_STD": (
        "three finite numbers above 0, one a channel",
        lambda std: len(std) == 3 and all(0 < x < math.inf for x in std),
    ),
    "INPUT.RRCROP_SCALE": (
        "two shares of an image's area above 0, the smaller one first",
        lambda scale: len(scale) == 2 and 0 < scale[0] <= scale[1] < math.inf,
    ),
}


def check_values(cfg):
    """Raise a UserError for the first invalid value."""
    for key, (wanted, holds) in _RULES.items():
        value = cfg
        for part in key.split("."):
            value = value[part]
        try:
            good = holds(value)
        except TypeError:
            good = False
        if not good:
            raise UserError(f"{key} is {value} but must be {wanted}")
    for name, value, valid in (
        ("TEST.SPLIT", cfg.TEST.SPLIT, ["test", "val"]),
        ("TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, ["best_val", "last_step"]),
        ("head MODEL.HEAD.NAME", cfg.MODEL.HEAD.NAME, ["", "mlp"]),
    ):
        if value not in valid:
            raise unknown_name(name, value, filter(None, valid))
    if cfg.RESUME and not osp.isdir(cfg.RESUME):
        raise UserError(f"There is no folder '{cfg.RESUME}' to resume from: check RESUME")
