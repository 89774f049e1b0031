"""What must hold for the values of KEYS, and between them."""

import math
from typing import Any

from ..checkpoint.keys import KEYS
from ..errors import need

SHUFFLED = str(KEYS["TEST.STREAM"].default)


def value_at(cfg: Any, place: str) -> Any:
    """Return the value of a cfg at a dotted place; None if it has none."""
    node = cfg
    for part in place.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return node


def check_keys(cfg: Any) -> None:
    """Refuse values of `KEYS` out of their range, and those that contradict others (UserError)."""
    for place, key in KEYS.items():
        value = value_at(cfg, place)
        if value is None and key.read_by == "here":  # another program, which does not have it
            continue
        try:
            good = key.holds(value)
        except TypeError:  # in other checkouts any key may be None
            good = False
        need(good, f"{place} is {value!r:.40} but must be {key.wanted}")
    for sentence, holds in _rules(cfg).items():
        need(holds, sentence)


def _rules(cfg: Any) -> dict[str, object]:
    """Return what must hold between keys, by the sentence that says so."""
    optim, test, train = cfg.OPTIM, cfg.TEST, cfg.TRAIN
    rate, least, cosine = optim.LR, optim.LR_MIN, optim.LR_SCHEDULER == "cosine"
    by_step, moves = optim.STEPS or optim.LR_BY_STEP, train.ATTACK_TEXT == "perturbed"
    rows, step = cfg.DATASET.get("FEATURES"), train.ATTACK_TEXT_STEP
    attacked = " and ".join(f"{node}.ATTACK" for node in ("TRAIN", "TEST") if cfg[node].ATTACK)
    return {
        f"OPTIM.LR_MIN is {least} but must be from 0 to OPTIM.LR ({rate})": 0 <= least <= rate,
        f"OPTIM.LR_MIN is {least}, which needs OPTIM.LR_SCHEDULER cosine and not "
        f"{optim.LR_SCHEDULER}": cosine or not least,
        f"OPTIM.COSINE_STEPS is {optim.COSINE_STEPS}, which needs OPTIM.LR_SCHEDULER cosine, and "
        "OPTIM.LR_BY_STEP True or OPTIM.STEPS": (cosine and by_step) or not optim.COSINE_STEPS,
        f"TRAIN.ATTACK_TEXT_STEP is {step}, but TRAIN.ATTACK_TEXT {train.ATTACK_TEXT} needs "
        f"{'a size above 0' if moves else 'none: leave it out, or set perturbed'}": (
            0 < step < math.inf if moves else not step
        ),
        f"{attacked} changes pixels, but DATASET.FEATURES has rows of features: run on images": (
            not (attacked and rows)
        ),
        f"{attacked} needs images as the CLIP reads them: add normalize to INPUT.TRANSFORMS": (
            not attacked or "normalize" in cfg.INPUT.TRANSFORMS
        ),
        f"TEST.ATTACK has the images in another order than TEST.STREAM {test.STREAM}: leave one "
        "out": not test.ATTACK or test.STREAM == SHUFFLED,
        f"TEST.OOD is {list(test.OOD)}, but the run has only the features of DATASET.FEATURES: "
        "leave it out": not (test.OOD and rows),
        "INPUT.INTERPOLATE is True, but DATASET.FEATURES has rows of features: leave it out": (
            not (cfg.INPUT.get("INTERPOLATE") and rows)
        ),
        "TEST.RECORD True writes into the output folder: add --output-dir FOLDER": (
            cfg.OUTPUT_DIR or not test.RECORD
        ),
    }
