"""The keys that this project adds to a cfg, besides the nodes of methods: defaults, ranges, rules.

Keys that change the images of a run are in `dataset_keys`: only this repository's data sets read
them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..dataset_keys import SENTENCES, STREAM
from ..errors import need
from ..robustness import ATTACKS, STARTS, TEXTS


class Key(NamedTuple):
    """A key: its default, and what a value must be, in words and as a test."""

    default: object
    wanted: str = ""
    holds: Callable[[Any], bool] = lambda value: True


SHUFFLED = STREAM["STREAM"]
Range = tuple[str, Callable[[Any], bool]]


def _words(valid: Sequence[str]) -> Range:
    return f"one of {', '.join(filter(None, valid))}", lambda word: word in valid


def _count(least: int) -> Range:
    return f"a whole number, {least} or more", lambda n: n >= least


POSITIVE: Range = "a finite number above 0", lambda x: 0 < x < math.inf
EPS: Range = "above 0, up to 255", lambda eps: 0 < eps <= 255  # the most that a pixel changes

KEYS = {
    "INPUT.RESIZE": Key("shortest"),  # as `Family.resize`
    "DATASET.SUBSAMPLE_CLASSES": Key("all"),  # all, base or new
    "DATASET.CLASSES_AT": Key(0, "0, 1 or 2", lambda n: n in (0, 1, 2)),  # docs/advise.md
    "DATASET.VALIDATION_SHOTS": Key(  # of a class; 0: as CoOp
        0,
        "0 or more, or -1, for as many validation images of each class as shots",
        lambda n: n >= -1,
    ),
    **{f"DATASET.{key}": Key(default) for key, default in SENTENCES.items()},
    "DATALOADER.TRAIN_X.DROP_LAST": Key(True),  # the last batch, if it is short
    "OPTIM.ADAM_EPS": Key(1e-8, "at least 0 and less than 1", lambda eps: 0 <= eps < 1),
    "OPTIM.CLIP_NORM": Key(  # of gradients, at most; 0: as they are
        0.0, "0 or a finite number above 0", lambda norm: 0 <= norm < math.inf
    ),
    "OPTIM.STEPS": Key(0, *_count(0)),  # above 0: replaces MAX_EPOCH, and implies LR_BY_STEP
    "OPTIM.LR_BY_STEP": Key(False),  # the learning rate changes after every step
    "OPTIM.LR_MIN": Key(0.0),  # where the cosine ends
    "OPTIM.COSINE_STEPS": Key(0, *_count(0)),  # above 0: the cosine's; then it rises again
    "TRAIN.ATTACK": Key("", *_words(["", "pgd"])),  # learn from attacked images alone
    "TRAIN.ATTACK_EPS": Key(4.0, *EPS),
    "TRAIN.ATTACK_ALPHA": Key(0.667, *POSITIVE),
    "TRAIN.ATTACK_STEPS": Key(3, *_count(1)),
    "TRAIN.ATTACK_TEXT": Key("onfly", *_words(TEXTS)),  # what the attack reads
    "TRAIN.ATTACK_TEXT_STEP": Key(0.0),  # of what is learned, if it is perturbed
    "TEST.PREDICTIONS": Key(True),  # keep the prediction of each test image
    "TEST.RECORD": Key(False),  # write results.json (train.py of this project always does)
    "TEST.OOD": Key([]),  # data sets of other classes, for detection
    "TEST.ATTACK": Key("", *_words(["", *ATTACKS])),  # measure accuracy under attack
    "TEST.ATTACK_EPS": Key(1.0, *EPS),
    "TEST.ATTACK_ALPHA": Key(0.25, *POSITIVE),  # the size of a step, as a share of it
    "TEST.ATTACK_STEPS": Key(100, *_count(1)),
    "TEST.ATTACK_START": Key("random", *_words(STARTS)),
    "TEST.ATTACK_IMAGES": Key(0, *_count(0)),  # how many, drawn by the seed of the run; 0: all
    **{f"TEST.{key}": Key(default) for key, default in STREAM.items()},
    "TRAINER.MEMORY_BUDGET": Key(0.0),  # GiB for a step's activations; 0: automatic
    "TRAINER.DETERMINISTIC": Key(False),  # the same bits on a GPU, too, but slower
    "TRAINER.PLUGINS": Key([]),  # modules or files that register methods
    "TRAINER.UNREAD": Key([]),  # keys of other nodes in config files: nobody reads them
    "TRAINER.PER_DATASET": Key([]),  # keys of the method that a config sets by data set
}
# Those that data sets, Dassl or train.py read, too; the others are of this project's trainers.
NOT_OF_METHODS = (
    "DATASET.SUBSAMPLE_CLASSES", "DATASET.CLASSES_AT", "DATASET.VALIDATION_SHOTS", "TEST.RECORD",
    "TRAINER.PLUGINS", "TRAINER.UNREAD", "TRAINER.PER_DATASET",
)  # fmt: skip


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
        "TEST.RECORD True writes into the output folder: add --output-dir FOLDER": (
            cfg.OUTPUT_DIR or not test.RECORD
        ),
    }
