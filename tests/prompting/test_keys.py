"""The keys of the cfg: defaults, ranges, rules, and where pages name them."""

import re
from ast import literal_eval
from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from trainers.prompting.building.config import add_nodes
from trainers.prompting.building.keys import KEYS, check_keys
from trainers.prompting.errors import UserError

DOCS = Path(__file__).resolve().parents[2] / "docs"
VALUES = {  # key -> good values, then bad ones
    "DATASET.VALIDATION_SHOTS": ([-1, 0, 4], [-2]),
    "OPTIM.ADAM_EPS": ([0.0, 0.5], [-1e-9, 1.0, float("nan")]),
    "OPTIM.STEPS": ([0, 10**9], [-1, 10**9 + 1]),
    "OPTIM.LR_MIN": ([0.0, 1e-4], [-1e-9, 1.0]),
    "OPTIM.COSINE_STEPS": ([0], [-1, 10**9 + 1]),
    "TRAIN.ATTACK": (["", "pgd"], ["cw"]),
    "TRAIN.ATTACK_EPS": ([0.1, 255.0], [0.0, 255.1, float("nan")]),
    "TRAIN.ATTACK_ALPHA": ([0.1, 2.0], [0.0, float("inf")]),
    "TRAIN.ATTACK_STEPS": ([1], [0, -1]),
    "TRAIN.ATTACK_TEXT": (["constant"], ["off", ""]),
    "TRAIN.ATTACK_TEXT_STEP": ([0.0], [1.0]),  # of `onfly`
    "TEST.CONFORMAL": (["", "lac", "aps", "raps"], ["lax"]),
    "TEST.CONFORMAL_ALPHA": ([0.01, 0.99], [0.0, 1.0, None]),
    "TEST.CONFORMAL_SHARE": ([0.0, 0.99], [-0.1, 1.0]),
    "TEST.ATTACK": (["", "pgd", "transfer-cw"], ["fgsm", "transfer-"]),
    "TEST.ATTACK_EPS": ([0.1, 255.0], [0.0, 255.1]),
    "TEST.ATTACK_ALPHA": ([0.1, 2.0], [-1.0, 0.0, float("inf")]),
    "TEST.ATTACK_STEPS": ([1, 100], [0]),
    "TEST.ATTACK_START": (["image"], ["zero", ""]),
    "TEST.ATTACK_IMAGES": ([0, 5], [-1]),
}
RULES = {
    "rate": ({"OPTIM.LR_MIN": 0.02, "OPTIM.LR": 0.01}, "must be from 0 to OPTIM.LR (0.01)"),
    "no cosine": (
        {"OPTIM.LR_MIN": 1e-5, "OPTIM.LR_SCHEDULER": "multi_step"}, "and not multi_step",
    ),
    "by epoch": ({"OPTIM.COSINE_STEPS": 5}, "COSINE_STEPS is 5, which needs OPTIM.LR_SCHEDULER"),
    "still": ({"TRAIN.ATTACK_TEXT": "perturbed"}, "ATTACK_TEXT perturbed needs a size above 0"),
    "endless": (
        {"TRAIN.ATTACK_TEXT": "perturbed", "TRAIN.ATTACK_TEXT_STEP": float("inf")}, "needs a size",
    ),
    "moving": ({"TRAIN.ATTACK_TEXT_STEP": 1.0}, "ATTACK_TEXT onfly needs none: leave it out"),
    "rows": ({"TEST.ATTACK": "pgd", "DATASET.FEATURES": "a"}, "TEST.ATTACK changes pixels, but"),
    "trained rows": (
        {"TRAIN.ATTACK": "pgd", "DATASET.FEATURES": "a"}, "TRAIN.ATTACK changes pixels, but",
    ),
    "raw": ({"TEST.ATTACK": "pgd", "INPUT.TRANSFORMS": ("random_flip",)}, "add normalize to INPUT"),
    "order": ({"TEST.ATTACK": "pgd", "TEST.STREAM": "separate:5"}, "TEST.STREAM separate:5: leave"),
    "other rows": ({"TEST.OOD": ["DTD"], "DATASET.FEATURES": "a"}, "the features of DATASET.FEAT"),
    "nowhere": ({"TEST.RECORD": True, "OUTPUT_DIR": ""}, "add --output-dir FOLDER"),
    "unkept": ({"TEST.CONFORMAL": "lac", "TEST.PREDICTIONS": False}, "set TEST.PREDICTIONS True"),
}  # fmt: skip


@pytest.fixture
def cfg():
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.DATASET.FEATURES = ""
    cfg.OPTIM.LR_SCHEDULER = "cosine"
    return cfg


def put(cfg, place, value):
    section, _, key = place.rpartition(".")
    (cfg[section.split(".")[0]] if section else cfg)[key] = value


def test_defaults_are_valid(cfg):
    check_keys(cfg)
    assert {key for key, (_, wanted, _) in KEYS.items() if wanted} <= VALUES.keys()


@pytest.mark.parametrize("place", VALUES)
def test_the_ends_of_each_range(cfg, place):
    good, bad = VALUES[place]
    for value in good:
        put(cfg, place, value)
        check_keys(cfg)
    for value in bad:
        put(cfg, place, value)
        with pytest.raises(UserError, match=f"{place} is .*but"):
            check_keys(cfg)


@pytest.mark.parametrize("rule", RULES)
def test_keys_that_contradict_each_other(cfg, rule):
    changes, sentence = RULES[rule]
    for place, value in changes.items():
        put(cfg, place, value)
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_keys(cfg)


def test_pages_give_the_defaults():
    """As `KEY` (DEFAULT), or `KEY` (DEFAULT: what it means)."""
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    found = dict(re.findall(r"`([A-Z]+(?:\.[A-Z_]+)+)` \((True|False|[\de.-]+)", text))
    given = {key: literal_eval(value) for key, value in found.items() if key in KEYS}
    assert len(given) > 5 and given == {key: KEYS[key].default for key in given}
