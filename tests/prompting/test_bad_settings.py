"""Settings that are refused, each in one sentence, and those that just are not.

Long because of its tables: of ranges and rules of each method, and of the keys of the cfg.
"""

import math
import re
from ast import literal_eval

import pytest
import torch
from dassl.config import get_cfg_default
from models import NAMES, images, settings
from paths import ROOT

from trainers.prompting import UserError, build_method
from trainers.prompting.building import keys
from trainers.prompting.building.config import add_nodes
from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node

INF, NAN = math.inf, math.nan
FROM_0, ABOVE_0 = ([0.0, 1e30], [-1e-9, INF, NAN]), ([1e-9, 1e30], [0.0, INF, NAN])
UNIT = [0.0, 1.0], [-1e-9, 1.0000001, NAN]
COUNT, LENGTH = ([1, 1_000_000], [0, -1]), ([0, 1_000_000], [-1])
WORDS = ["a photo of a", ""], [5, "a\tb", ["a", "b"]]
AROUND = ["a {}", ""], ["a", "{} {}"]

# Of methods, keys with the values that are valid and those that are not. Methods whose settings are
# based on those of another have its ranges, too.
RANGES = {
    "ALIGN": {
        "M": LENGTH, "N": LENGTH, "BETA": FROM_0, "LAMBDA": ABOVE_0, "SINKHORN_TOL": ABOVE_0,
        "SINKHORN_MAX_ITER": COUNT, "COUPLING": (["independent", "unified"], ["none"]),
    },
    "AWT": {"NUM_VIEWS": COUNT, "NUM_DESCRIPTOR": COUNT, "T": ABOVE_0, "CTX_INIT": WORDS},
    "AWTFewShot": {
        "DOWN_RATE": COUNT, "DESC_PER_BATCH": COUNT, "W_IMAGE": FROM_0, "W_TEXT": FROM_0,
    },
    "BiomedCoOp": {
        "N_CTX": COUNT, "N_PROMPTS": ([2], [1]), "TAU": ABOVE_0, "KDSP_LAMBDA": FROM_0,
    },
    "BoostAdapter": {"DELTA": LENGTH, "SELECTION_P": UNIT, "BATCH_SIZE": COUNT},
    "CLAP": {
        "REPETITIONS": COUNT, "INIT": (["ZS"], ["RANDOM", "TR"]), "ENHANCED_BASE": ([], ["x"]),
        "CONSTRAINT": (["none", "l2", "cosine", "l2_balanced"], ["l3", "l2_none"]),
    },
    "CLIPAdapter": {"RATIO": UNIT, "REDUCTION": COUNT},
    "CLIPLoRA": {
        "ALPHA": ABOVE_0, "DROPOUT_RATE": UNIT, "R": COUNT, "POSITION": (["top3", "up"], ["top"]),
    },
    "CLIPSVD": {"RANK": UNIT, "TEMPLATE": AROUND},
    "CTPT": {"LAMBDA_TERM": FROM_0},
    "CoCoOp": {"CTX_INIT": WORDS},
    "CoOp": {
        "N_CTX": LENGTH, "CTX_INIT": WORDS, "PREC": (["amp"], [16]), "CSC": ([False], ["yes"]),
    },
    "CoPrompt": {"W": FROM_0},
    "CrossModal": {
        "LR": ABOVE_0, "WEIGHT_DECAY": FROM_0, "WARMUP_ITER": LENGTH, "BATCH_SIZE": COUNT,
        "ITERS": COUNT, "EVAL_FREQ": COUNT, "WISEFT": UNIT,
    },
    "DPE": {
        "SHOT_CAPACITY": COUNT, "TTA_STEPS": LENGTH, "ALPHA": FROM_0, "BETA": FROM_0,
        "LR_TEXT": FROM_0, "LR_IMAGE": FROM_0, "ALIGN": FROM_0, "SELECTION_P": UNIT,
        "BATCH_SIZE": COUNT,
    },
    "DualCoOp": {
        "N_CTX": COUNT, "GAMMA_NEG": FROM_0, "GAMMA_POS": FROM_0, "CLIP": FROM_0, "LOSS_W": FROM_0,
    },
    "GDA": {"ALPHA": FROM_0, "COPIES": LENGTH, "AUGMENT_EPOCH": COUNT, "NEIGHBORS": COUNT},
    "GalLoP": {
        "N_GLOBAL_PROMPTS": COUNT, "N_LOCAL_PROMPTS": ([4], [0]), "GLOBAL_DROPOUT_P": UNIT,
        "TOPK": ([[1], [9]], [[0], [], 5, ["a"], [5, 10]]), "TEMPLATE": (["a {}"], ["a"]),
    },
    "HiCroPL": {"LAMBD": FROM_0, "CROSS_LAYER": ([1, 8], [0, 9])},
    "IVLP": {"N_CTX_VISION": LENGTH, "PROMPT_DEPTH_VISION": LENGTH},
    "KgCoOp": {"W": FROM_0},
    "LNOnly": {"LN_TEXT_START": LENGTH, "LN_VISION_START": LENGTH},
    "LPPlusPlus": {"TRAIN_EPOCH": COUNT},
    "LinearProbe": {"C": ABOVE_0, "NUM_STEP": LENGTH},
    "LoCoOp": {"TOPK": COUNT, "LAMBDA_VALUE": FROM_0},
    "MMP": {"TEXT_PROMPT_NUMBER": LENGTH, "VISION_PROMPT_NUMBER": LENGTH},
    "MMRL": {
        "REP_LAYERS": ([[1], [2, 5]], [[1.5], ["a"]]), "REP_DIM": COUNT, "N_REP_TOKENS": COUNT,
        "REG_WEIGHT": FROM_0, "ALPHA": UNIT,
    },
    "MMRLpp": {"BETA": UNIT, "PROJ_LORA_DIM": COUNT, "RES_LORA_DIM": COUNT},
    "MTA": {
        "LAMBDA_Y": ABOVE_0, "LAMBDA_Q": FROM_0, "MAX_ITER": COUNT, "CTX_INIT": WORDS,
        "BANDWIDTH_P": UNIT, "BATCH_SIZE": COUNT,
    },
    "MaPLe": {"CTX_INIT": (["a photo of a"], [True])},
    "MultiModalAdapter": {
        "ADAPTER_START": LENGTH, "ADAPTER_DIM": COUNT, "ADAPTER_SCALE": ABOVE_0,
        "TEXT_CTX_INIT": WORDS,
    },
    "MMAPP": {
        "ADAPTER_START": LENGTH, "ADAPTER_DIM": COUNT, "ADAPTER_TRAIN_SCALE": ABOVE_0,
        "ADAPTER_TEST_SCALE": ABOVE_0, "ADAPTER_TRAIN_SCALE_REG": FROM_0, "ADAPTER_DROP": UNIT,
    },
    "NLPrompt": {"REG_E": ABOVE_0, "CURRICLUM_EPOCH": LENGTH, "BEGIN_RATE": UNIT},
    "PLOT": {"N": COUNT},
    "PLOTPP": {"N": ([1, 4], [0, 5]), "M": COUNT, "PRETRAIN_DIR": ([""], ["folder"])},
    "ProGrad": {"LAMBDA": FROM_0, "T": ABOVE_0, "NAME": (["", "prograd"], ["ce"])},
    "ProLIP": {
        "AUG_VIEWS": COUNT, "LAMBDA": (["1/N", "1/N^2", "0", "2.5"], ["-1e-9", "inf", "1/M"]),
        "CTX_INIT": WORDS,
    },
    "PromptKD": {"TEMPERATURE": ABOVE_0, "KD_WEIGHT": FROM_0},
    "PromptSRC": {"TEXT_LOSS_WEIGHT": LENGTH, "IMAGE_LOSS_WEIGHT": LENGTH, "GPA_STD": COUNT},
    "RAM": {
        "DEPTH_VISION": ([[1]], [["a"]]), "VISION_ADAPT": COUNT, "TEXT_CTX": COUNT,
        "KERNEL_SIZE": COUNT, "TEMPERATURE": ABOVE_0, "OT_REG": ABOVE_0, "OT_REGSC": FROM_0,
        "EMA": UNIT,
    },
    "RTPT": {"NEIGHBORS": COUNT, "WEIGHT_TAU": ABOVE_0},
    "TaIDPT": {"N_CTX": COUNT, "GL_MERGE_RATE": UNIT, "SPATIAL_SCALE_IMAGE": FROM_0},
    "SkipTuning": {"TOP_RATIO": ABOVE_0, "MAX_TOP": COUNT, "LAMBDA": ABOVE_0},
    "StatA": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "ALPHA": FROM_0, "LAMBDA_Y": FROM_0,
        "LAMBDA_LAPLACIAN": FROM_0, "MAX_ITER": LENGTH, "TAU": ABOVE_0,
    },
    "TCP": {"INSERT_BLOCK": COUNT, "CSC": ([False], [True])},
    "TDA": {
        "POSITIVE_SHOT_CAPACITY": COUNT, "NEGATIVE_SHOT_CAPACITY": COUNT, "POSITIVE_ALPHA": FROM_0,
        "POSITIVE_BETA": FROM_0, "NEGATIVE_ALPHA": FROM_0, "NEGATIVE_BETA": FROM_0, "VIEWS": LENGTH,
        "NEGATIVE_ENTROPY_THRESHOLD_LOWER": ([0.49], [0.5]),
        "NEGATIVE_MASK_THRESHOLD_UPPER": ([0.04], [0.03]),
    },
    "TPS": {
        "LR": FROM_0, "TTA_STEPS": LENGTH, "SELECTION_P": UNIT, "BATCH_SIZE": COUNT,
        "TEMPLATES": ([["{}", "a {}"], []], [["{}", "a"]]), "CTX_INIT": WORDS,
    },
    "TPT": {
        "LR": FROM_0, "TTA_STEPS": LENGTH, "SELECTION_P": UNIT, "BATCH_SIZE": COUNT,
        "CTX_INIT": WORDS,
    },
    "TTC": {
        "TTC_EPS": UNIT, "TTC_STEPSIZE": ABOVE_0, "TTC_STEPS": LENGTH, "TAU_THRES": FROM_0,
        "BETA": FROM_0, "TEMPLATE": AROUND,
    },
    "TaskRes": {"RESIDUAL_SCALE": ABOVE_0},
    "TextRefiner": {
        "MEMORY_SIZE": COUNT, "BALANCE": ABOVE_0, "ALPHA": ABOVE_0, "DISTILL": FROM_0,
    },
    "TipAdapter": {
        "INIT_ALPHA": FROM_0, "INIT_BETA": FROM_0, "AUGMENT_EPOCH": COUNT,
        "SEARCH_SCALE": ([[0.1, 3]], [["7", "3"]]),
    },
    "TransCLIP": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "N_CONFIDENT": COUNT, "MAX_ITER": LENGTH,
        "LAMBDA_ZS": FROM_0, "LAMBDA_FS": FROM_0, "TAU": ABOVE_0,
    },
    "TwoSFS": {"N_ITERS_FRAC": UNIT, "STAGE": ([0, 1, 2], [-1, 3])},
    "VPT": {"CTX_INIT": WORDS},
    "ZERO": {"GAMMA": UNIT, "NUM_VIEWS": COUNT},
}  # fmt: skip


def ranges_of(kind):
    """Return the ranges of a method's keys, own ones and those of settings that it is based on."""
    found = {}
    for name, ranges in RANGES.items():
        if issubclass(kind.Settings, METHODS[name].Settings):
            found |= ranges
    return found | RANGES.get(kind.__name__, {})


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if ranges_of(kind)])
def test_ranges_end_where_they_should(name):
    kind = METHODS[name]
    for key, (valid, wrong) in ranges_of(kind).items():
        for value in valid:
            assert read_node(kind, {key: value})
        for value in wrong:
            with pytest.raises(UserError) as error:
                read_node(kind, {key: value})
            said = str(error.value)
            assert key.lower() in said.lower() and "\n" not in said
            if type(value) in (int, float):
                assert str(value) in said.replace(",", "") or "must be 0" in said


TOGETHER = [
    ("CLAP", {"INIT": "RANDOM", "CONSTRAINT": "none"}),
    ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2]}),
    ("PLOT", {"CSC": True, "N": 1}),
    ("PromptSRC", {"GPA_MEAN": 15, "MAX_EPOCH": 15}),
]


@pytest.mark.parametrize(("name", "node"), TOGETHER, ids=str)
def test_settings_that_are_valid_together(name, node):
    assert read_node(METHODS[name], node)


# What a CLIP, sentences or other keys do not allow, and the words that the sentence must have.
TWO = {"*": ["a {}.", "the {}."]}
REFUSED = [
    ("ALIGN", {"DEPTH": 5}, "DEPTH is 5 but the text encoder of this backbone has 4 blocks: lower"),
    ("ALIGN", {"N_CTX": 0}, "N_CTX is 0"),
    ("ALIGN", {"N_CTXX": 2}, "did you mean 'N_CTX'"),
    ("ALIGN", {"N": 4, "CTX_INIT": ["a photo", "a"]}, "2 templates but N = 4"),
    ("ALIGN", {"CTX_INIT": ["a photo", 1]}, "must be words"),
    ("ALIGN", {"M": 2.5}, "TRAINER.ALIGN.M is 2.5 but must be a whole number"),
    ("ALIGN", {"BETA": "much"}, "TRAINER.ALIGN.BETA is 'much' but must be a number"),
    ("BiomedCoOp", {"SENTENCES": TWO, "N_PROMPTS": 50}, "there are 2 sentences for each class"),
    ("BiomedCoOp", {"SENTENCES": "medical"}, "'medical' has no list of sentences for the class"),
    ("BiomedCoOp", {"SENTENCES": None, "N_PROMPTS": 99}, "N_PROMPTS is 99 but there are 81 sent"),
    ("CoOp", {"N_CTX": 75}, "too long"),
    ("CoOp", {"N_CTX": 0}, "N_CTX is 0: at least 1"),
    ("CoPrompt", {"SENTENCES": "a\0"}, "no list or .json file 'a\\x00'"),
    ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2, 3]}, "TOPK is [1, 2, 3]"),
    ("HiCroPL", {"CROSS_LAYER": 2}, "must be from 1 to PROMPT_DEPTH - 1, which is 1"),
    ("HiCroPL", {"SENTENCES": None}, "Sentences about the classes are missing: set SENTENCES"),
    ("HiCroPL", {"SENTENCES": {"forest": ["a"]}}, "no list of sentences for the class 'annual"),
    ("IVLP", {"N_CTX_TEXT": 0}, "N_CTX_TEXT is 0: at least 1"),
    ("IVLP", {"N_CTX_TEXT": 3, "CTX_INIT": "a photo"}, "2 tokens before the class name"),
    ("MMRL", {"REP_LAYERS": [12]}, "adds to block 11 of the text encoder, which has blocks 0 to 3"),
    ("MultiModalAdapter", {"ADAPTER_END": 5}, "adds to block 4 of the text encoder"),
    ("NLPrompt", {"NOISE_RATE": 0.5}, "no key 'NOISE_RATE'"),
    ("PLOT", {"CSC": True, "N": 2}, "CSC needs N = 1, but N is 2"),
    ("PLOTPP", {"N_CTX_V": 0}, "N_CTX_V is 0: at least 1"),
    ("PromptSRC", {"GPA_MEAN": 16, "MAX_EPOCH": 15}, "is centred on epoch 16"),
    ("ProGrad", {"T": True}, "LOSS.T is True but must be a number"),
    ("SkipTuning", {"START_LAYER": 4}, "START_LAYER is 4 but the text encoder has blocks 0 to 3"),
    ("SkipTuning", {"PREC": "fp16"}, "set amp, bf16 or fp32"),
    ("TCP", {"INSERT_BLOCK": 8}, "INSERT_BLOCK is 8 but the text encoder of this"),
    ("VPT", {"PROMPT_DEPTH_VISION": 5}, "PROMPT_DEPTH_VISION is 5 but the image encoder of this"),
    ("TDA", {"SCALE": -1e-9}, "SCALE is -1e-09"),
]


@pytest.mark.parametrize(("name", "node", "words"), REFUSED, ids=lambda x: str(x)[:50])
def test_what_is_refused_with_a_clip(tiny_clip, name, node, words):
    with pytest.raises(UserError) as error:
        method = build_method(name, settings(name) | node, tiny_clip, NAMES, "EuroSAT")
        method.text()
        method.losses([images()] * method.views, torch.tensor([0, 1, 2]))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["BoostAdapter", "DPE", "MTA", "TDA", "TPS", "TPT", "ZERO"])
def test_too_few_views_of_an_image(tiny_clip, name):
    node = {"WITH_CONCEPTS": False} if name == "TPS" else {}
    method = build_method(name, node, tiny_clip, NAMES, "ImageNetV2").eval()
    with pytest.raises(UserError, match="A share of 0.[13] of [12] views of an image is none"):
        method.predict([images()] * 2)


# ------------------------------------------------------------------ keys of the cfg

VALUES = {  # key -> good values, then bad ones
    "DATASET.CLASSES_AT": ([0, 1, 2], [-1, 3, "1"]),
    "DATASET.KNOWN": ([0.1, 1.0], [0.0, 1.1, float("nan")]),
    "DATASET.VALIDATION_SHOTS": ([-1, 0, 4], [-2]),
    "OPTIM.ADAM_EPS": ([0.0, 0.5], [-1e-9, 1.0, float("nan")]),
    "OPTIM.MAX_EPOCH": COUNT,
    "OPTIM.CLIP_NORM": ([0, 0.5], [-1.0, float("nan"), float("inf")]),
    "OPTIM.STEPS": ([0, 10**9], [-1]),
    "OPTIM.LR_MIN": ([0.0, 1e-4], [-1e-9, 1.0]),
    "OPTIM.COSINE_STEPS": ([0], [-1]),
    "TEST.SPLIT": (["test", "val"], ["vla", ""]),
    "TEST.FINAL_MODEL": (["last_step", "best_val"], ["best"]),
    "TEST.WISE": ([0.0, 0.5, 1.0], [-0.1, 1.1, float("nan")]),
    "TRAIN.ATTACK": (["", "pgd"], ["cw"]),
    "TRAIN.ATTACK_EPS": ([0.1, 255.0], [0.0, 255.1, float("nan")]),
    "TRAIN.ATTACK_ALPHA": ([0.1, 2.0], [0.0, float("inf")]),
    "TRAIN.ATTACK_STEPS": ([1], [0, -1]),
    "TRAIN.ATTACK_TEXT": (["constant"], ["off", ""]),
    "TRAIN.ATTACK_TEXT_STEP": ([0.0], [1.0]),  # of `onfly`
    "TEST.ATTACK": (["", "pgd", "transfer-cw"], ["fgsm", "transfer-"]),
    "TEST.ATTACK_EPS": ([0.1, 255.0], [0.0, 255.1]),
    "TEST.ATTACK_ALPHA": ([0.1, 2.0], [-1.0, 0.0, float("inf")]),
    "TEST.ATTACK_STEPS": ([1, 100], [0]),
    "TEST.ATTACK_START": (["image"], ["zero", ""]),
    "TEST.ATTACK_IMAGES": ([0, 5], [-1]),
}
CONTRADICTIONS = {
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
    keys.check_keys(cfg)
    assert {key for key, one in KEYS.items() if one.wanted} <= VALUES.keys()


@pytest.mark.parametrize("place", VALUES)
def test_the_ends_of_each_range(cfg, place):
    good, bad = VALUES[place]
    for value in good:
        put(cfg, place, value)
        keys.check_keys(cfg)
    for value in bad:
        put(cfg, place, value)
        with pytest.raises(UserError, match=f"{place} is .*but"):
            keys.check_keys(cfg)


@pytest.mark.parametrize("rule", CONTRADICTIONS)
def test_keys_that_contradict_each_other(cfg, rule):
    changes, sentence = CONTRADICTIONS[rule]
    for place, value in changes.items():
        put(cfg, place, value)
    with pytest.raises(UserError, match=re.escape(sentence)):
        keys.check_keys(cfg)


def test_pages_give_the_defaults():
    """As `KEY` (DEFAULT), or `KEY` (DEFAULT: what it means)."""
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    found = dict(re.findall(r"`([A-Z]+(?:\.[A-Z_]+)+)` \((True|False|[\de.-]+)", text))
    given = {key: literal_eval(value) for key, value in found.items() if key in KEYS}
    assert len(given) > 5 and given == {key: KEYS[key].default for key in given}
