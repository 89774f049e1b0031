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
SHARE, STEPS = ([1.0], [1.0000001, NAN]), ([0, 1], [-1])
VIEWS = [10, 10_000], [9]  # of which a tenth is kept
WORDS = ["a photo of a", ""], [5, "a\tb", ["a", "b"]]

# Of methods, keys with the values that are valid and those that are not. Methods whose settings are
# based on those of another have its ranges, too.
RANGES = {
    "ALIGN": {
        "M": LENGTH, "N": LENGTH, "BETA": FROM_0, "LAMBDA": ([1e-30, 1e30], [9e-31, INF]),
        "SINKHORN_TOL": ([1e-9], [0.0]), "SINKHORN_MAX_ITER": COUNT,
        "COUPLING": (["independent", "project", "unified"], ["none", "both"]),
        "BETA_FORM": (["convex"], ["mean"]),
    },
    "AWT": {"NUM_VIEWS": COUNT, "NUM_DESCRIPTOR": COUNT, "T": ABOVE_0, "CTX_INIT": WORDS},
    "AWTFewShot": {
        "DOWN_RATE": COUNT, "DESC_PER_BATCH": COUNT, "W_IMAGE": FROM_0, "W_TEXT": FROM_0,
    },
    "BiomedCoOp": {"N_PROMPTS": ([2], [1]), "TAU": ([1.0], [0.999, NAN]), "KDSP_LAMBDA": FROM_0},
    "BoostAdapter": {
        "DELTA": STEPS, "SELECTION_P": SHARE, "BATCH_SIZE": VIEWS, "POSITIVE_SHOT_CAPACITY": COUNT,
        "FORM": (["plain", "surest"], ["views"]),
    },
    "CLAP": {
        "REPETITIONS": COUNT, "INIT": (["ZS"], ["RANDOM", "TR"]), "ENHANCED_BASE": ([], ["x"]),
        "CONSTRAINT": (["none", "l2", "cosine", "l2_balanced"], ["l3", "l2_none"]),
    },
    "CLIPAdapter": {"RATIO": UNIT},
    "CLIPLoRA": {
        "ALPHA": ABOVE_0, "DROPOUT_RATE": ([0.0, 0.999], [-1e-9, 1.0]),
        "PARAMS": ([["q"]], [["x"]]), "POSITION": (["top3", "up"], ["top"]),
        "ENCODER": (["text", "vision"], ["image"]),
    },
    "CLIPSVD": {
        "RANK": ([1e-9, 1.0], [0.0, 1.0000001, NAN]), "INCLUDE_TRAIN_LAYERS": (["top"], ["up"]),
        "TEMPLATE": (["a {}", ""], ["a", "{} {}"]),
    },
    "CTPT": {"LAMBDA_TERM": FROM_0},
    "CoCoOp": {"CTX_INIT": WORDS},
    "CoOp": {
        "N_CTX": COUNT, "CTX_INIT": WORDS, "PREC": (["amp"], [16]), "CSC": ([False], ["yes"]),
        "CLASS_TOKEN_POSITION": (["end", "middle", "front"], ["up"]),
    },
    "CoPrompt": {"W": FROM_0, "DISTILL": (["mse"], ["l1"])},
    "CrossModal": {
        "LR": ABOVE_0, "WEIGHT_DECAY": FROM_0, "WARMUP_ITER": LENGTH, "BATCH_SIZE": COUNT,
        "ITERS": COUNT, "EVAL_FREQ": COUNT, "LOGIT": ([20.0, -20.0], [20.01, -20.01]),
        "WISEFT": UNIT, "IMAGE_LAYER_IDX": ([0], [1]), "TEXT_LAYER_IDX": ([0], [1]),
    },
    "DPE": {
        "SHOT_CAPACITY": COUNT, "TTA_STEPS": STEPS, "ALPHA": FROM_0, "BETA": FROM_0,
        "LR_TEXT": FROM_0, "LR_IMAGE": FROM_0, "ALIGN": FROM_0, "SELECTION_P": SHARE,
        "BATCH_SIZE": VIEWS, "FORM": (["plain", "views", "surest"], ["best"]),
    },
    "DualCoOp": {
        "N_CTX": COUNT, "GAMMA_NEG": FROM_0, "GAMMA_POS": FROM_0, "CLIP": FROM_0, "LOSS_W": FROM_0,
        "FORM": (["original", "dassl"], ["paper"]),
    },
    "GDA": {
        "ALPHA": FROM_0, "COPIES": LENGTH, "AUGMENT_EPOCH": COUNT, "NEIGHBORS": ([2], [1]),
        "FORM": (["shrunk", "base2new"], ["paper"]),
    },
    "GalLoP": {
        "N_GLOBAL_PROMPTS": COUNT, "N_LOCAL_PROMPTS": ([4], [0]), "GLOBAL_DROPOUT_P": UNIT,
        "TOPK": ([[1], [9]], [[0], [], 5, ["a"], [5, 10]]), "TEMPLATE": (["a {}"], ["a", "{}"]),
    },
    "HiCroPL": {
        "LAMBD": FROM_0, "CROSS_LAYER": ([1, 8], [0, 9]),
        "FORM": (["released", "paper"], ["other"]),
    },
    "IVLP": {"N_CTX_VISION": STEPS, "PROMPT_DEPTH_VISION": STEPS},
    "KgCoOp": {"W": FROM_0},
    "LPPlusPlus": {"TRAIN_EPOCH": COUNT, "FORM": (["released", "cleared"], ["paper"])},
    "LinearProbe": {"C": ABOVE_0, "NUM_STEP": LENGTH},
    "LoCoOp": {"TOPK": COUNT, "LAMBDA_VALUE": FROM_0},
    "MMP": {"TEXT_PROMPT_NUMBER": LENGTH, "VISION_PROMPT_NUMBER": LENGTH},
    "MMRL": {
        "REP_LAYERS": ([[1], [2, 5]], [[], [0, 2], [5, 2], [2, 2], [1.5], ["a"]]),
        "REP_DIM": COUNT, "N_REP_TOKENS": COUNT, "REG_WEIGHT": FROM_0, "ALPHA": UNIT,
        "TASK": (["B2N", "CD", "FS"], ["XD"]),
    },
    "MMRLpp": {"BETA": UNIT, "PROJ_LORA_DIM": COUNT, "RES_LORA_DIM": COUNT},
    "MTA": {
        "LAMBDA_Y": ABOVE_0, "LAMBDA_Q": FROM_0, "MAX_ITER": COUNT, "CTX_INIT": WORDS,
        "BANDWIDTH_P": ([0.1, 1.0], [0.0, 1.0000001]), "BATCH_SIZE": ([10_000], []),
    },
    "MaPLe": {"CTX_INIT": (["a photo of a"], [True])},
    "MultiModalAdapter": {
        "ADAPTER_START": ([0, 12], [-1, 13]), "ADAPTER_DIM": COUNT, "ADAPTER_SCALE": ABOVE_0,
        "TEXT_CTX_INIT": WORDS,
    },
    "MMAPP": {
        "ADAPTER_START": ([0, 12], [-1, 13]), "ADAPTER_DIM": COUNT, "ADAPTER_TRAIN_SCALE": ABOVE_0,
        "ADAPTER_TEST_SCALE": ABOVE_0, "ADAPTER_TRAIN_SCALE_REG": FROM_0,
        "ADAPTER_DROP": ([0.0, 0.99], [-1e-9, 1.0, NAN]), "INPUT_PROMPTS": (["hc"], ["cupls"]),
    },
    "NLPrompt": {
        "REG_E": ABOVE_0, "CURRICLUM_EPOCH": LENGTH, "BEGIN_RATE": UNIT, "PMODE": (["out"], ["p"]),
        "CURRICLUM_MODE": (["linear", "exp"], ["customize"]), "FORM": (["log"], ["plain"]),
    },
    "OTPT": {"TERM": (["released", "frobenius"], ["paper"])},
    "PLOT": {"N": COUNT},
    "PLOTPP": {
        "N": ([1, 4], [0, 5]), "M": COUNT, "PRETRAIN_DIR": ([""], ["folder"]),
        "MODEL_UPD": (["stages", "vision", "joint"], ["text"]),
    },
    "ProGrad": {"LAMBDA": FROM_0, "T": ABOVE_0, "NAME": (["", "prograd"], ["ce"])},
    "ProLIP": {
        "AUG_VIEWS": COUNT, "SIDE": (["visual", "text"], ["both"]),
        "LAMBDA": (["1/N", "1/N^2", "0", "2.5"], ["-1e-9", "inf", "1/M"]), "CTX_INIT": WORDS,
    },
    "PromptKD": {"TEMPERATURE": ABOVE_0, "KD_WEIGHT": FROM_0},
    "PromptSRC": {
        "TEXT_LOSS_WEIGHT": LENGTH, "IMAGE_LOSS_WEIGHT": LENGTH, "GPA_STD": ([1], [0]),
    },
    "RAM": {
        "DEPTH_VISION": ([[1]], [["a"]]), "VISION_ADAPT": COUNT, "TEXT_CTX": COUNT,
        "KERNEL_SIZE": ([1, 3], [0, 2]), "TEMPERATURE": ABOVE_0, "OT_REG": ABOVE_0,
        "OT_REGSC": FROM_0, "EMA": ([0.0, 0.999], [-1e-9, 1.0, NAN]),
    },
    "RTPT": {
        "NEIGHBORS": ([1, 63], [0, 64]), "WEIGHT_TAU": ABOVE_0,
        "BATCH_SIZE": ([21, 10_000], [20]),
    },
    "SOTGLP": {"INIT_METHOD": (["random", "gram"], ["xavier"])},
    "TaIDPT": {"N_CTX": COUNT, "GL_MERGE_RATE": UNIT, "SPATIAL_SCALE_IMAGE": FROM_0},
    "SkipTuning": {
        "TOP_RATIO": ([1e-9], [0.0, NAN]), "MAX_TOP": COUNT, "DROP_RATIO": ([0.0], [0.1]),
        "LAMBDA": ([1e-9, 1e6], [0.0, 1.0001e6]),
    },
    "StatA": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "ALPHA": FROM_0, "LAMBDA_Y": FROM_0,
        "LAMBDA_LAPLACIAN": FROM_0, "MAX_ITER": LENGTH, "TAU": ABOVE_0,
        "FORM": (["aligned", "released"], ["best"]),
    },
    "TCP": {"INSERT_BLOCK": COUNT, "CSC": ([False], [True])},
    "TDA": {
        "POSITIVE_SHOT_CAPACITY": COUNT, "NEGATIVE_SHOT_CAPACITY": COUNT, "POSITIVE_ALPHA": FROM_0,
        "POSITIVE_BETA": FROM_0, "NEGATIVE_ALPHA": FROM_0, "NEGATIVE_BETA": FROM_0,
        "NEGATIVE_ENTROPY_THRESHOLD_LOWER": ([0.49], [0.5]),
        "NEGATIVE_MASK_THRESHOLD_UPPER": ([0.04], [0.03]),
        "VIEWS": ([0, 1, 10, 10_000], [-1, 2, 9]),
    },
    "TPS": {
        "LR": FROM_0, "TTA_STEPS": STEPS, "SELECTION_P": SHARE, "BATCH_SIZE": VIEWS,
        "TEMPLATES": ([["{}", "a {}"], []], [["{}", "a"]]), "CTX_INIT": WORDS,
    },
    "TPT": {
        "LR": FROM_0, "TTA_STEPS": STEPS, "SELECTION_P": SHARE, "BATCH_SIZE": VIEWS,
        "CTX_INIT": WORDS,
    },
    "TTC": {
        "TTC_EPS": ([1e-9, 1.0], [0.0, 1.0000001]), "TTC_STEPSIZE": ABOVE_0, "TTC_STEPS": STEPS,
        "TAU_THRES": FROM_0, "BETA": FROM_0, "TEMPLATE": (["a {}", ""], ["a", "{} {}"]),
    },
    "TaskRes": {"RESIDUAL_SCALE": ABOVE_0},
    "TextRefiner": {
        "MEMORY_SIZE": COUNT, "BALANCE": ABOVE_0, "ALPHA": ABOVE_0, "DISTILL": FROM_0,
    },
    "TipAdapter": {
        "INIT_ALPHA": FROM_0, "INIT_BETA": FROM_0, "AUGMENT_EPOCH": COUNT,
        "SEARCH_SCALE": ([[0.1, 3]], [[0.09, 3], [3, INF], [3], [3, 3, 3], ["7", "3"]]),
        "SEARCH_STEP": ([[1, 1], [1000, 1000]], [[0.9, 9]]),
    },
    "TransCLIP": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "N_CONFIDENT": COUNT, "MAX_ITER": LENGTH,
        "LAMBDA_ZS": FROM_0, "LAMBDA_FS": FROM_0, "TAU": ABOVE_0,
        "GAMMA": ([[0.0], [1.0, 0.5]], [[], [1.0, -1e-9], [INF]]),
        "FORM": (["aligned", "released"], ["paper"]),
    },
    "TwoSFS": {
        "N_ITERS_FRAC": ([1e-9, 0.999], [0.0, 1.0, -1.0, NAN]),
        "STAGE": ([0, 1, 2], [-1, 3]),
    },
    "VPT": {"CTX_INIT": WORDS},
    "ZERO": {"GAMMA": ([0.1, 0.999], [1.0, 0.01]), "FORM": (["paper", "released"], ["half"])},
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
    ("ALIGN", {"BETA_FORM": "convex", "BETA": 1.0}),
    ("ALIGN", {"COUPLING": "none", "M": 0}),
    ("ALIGN", {"COUPLING": "none", "N": 0}),
    ("CLAP", {"INIT": "RANDOM", "CONSTRAINT": "none"}),
    ("CoOp", {"N_CTX": 0, "CTX_INIT": "a photo"}),
    ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2]}),
    ("GalLoP", {"USE_GLOBAL_LOSS": False}),
    ("GalLoP", {"USE_LOCAL_LOSS": False}),
    ("PLOT", {"CSC": True, "N": 1}),
    ("PromptSRC", {"GPA_MEAN": 15, "MAX_EPOCH": 15}),
]


@pytest.mark.parametrize(("name", "node"), TOGETHER, ids=str)
def test_settings_that_are_valid_together(name, node):
    assert read_node(METHODS[name], node)


# What a CLIP, sentences or other keys do not allow, and the words that the sentence must have.
TWO = {"*": ["a {}.", "the {}."]}
REFUSED = [
    ("ALIGN", {"COUPLING": "none"}, "M = 2 and N = 2"),
    ("ALIGN", {"BETA_FORM": "convex", "BETA": 1.001}, "BETA is 1.001"),
    ("ALIGN", {"DEPTH": 5}, "DEPTH is 5 but the text encoder of this backbone has 4 blocks: lower"),
    ("ALIGN", {"N_CTX": 0}, "N_CTX is 0"),
    ("ALIGN", {"N_CTXX": 2}, "did you mean 'N_CTX'"),
    ("ALIGN", {"N": 4, "CTX_INIT": ["a photo", "a"]}, "2 templates but N = 4"),
    ("ALIGN", {"CTX_INIT": "photo", "N_CTX": 3}, "N_CTX is 3: lengthen the template or lower N_C"),
    ("ALIGN", {"CTX_INIT": ["a photo", 1]}, "must be words"),
    ("ALIGN", {"M": 2.5}, "TRAINER.ALIGN.M is 2.5 but must be a whole number"),
    ("ALIGN", {"BETA": "much"}, "TRAINER.ALIGN.BETA is 'much' but must be a number"),
    ("BiomedCoOp", {"SENTENCES": TWO, "N_PROMPTS": 50}, "there are 2 sentences for 'annual"),
    ("BiomedCoOp", {"SENTENCES": "medical"}, "'medical' has no list of sentences for the class"),
    ("BiomedCoOp", {"SENTENCES": None, "N_PROMPTS": 99}, "N_PROMPTS is 99 but there are 81 sent"),
    ("CLIPLoRA", {"R": 0}, "R is 0 but must be from 1 to 128"),
    ("CLIPLoRA", {"R": 129}, "R is 129 but must be from 1 to 128"),
    ("CLIPSVD", {"INCLUDE_TRAIN_LAYERS": "top"}, "the text encoder has blocks 0 to 3: choose all"),
    ("CLIPSVD", {f"TRAIN_{side}_ENCODER": False for side in ("TEXT", "IMAGE")}, "learn nothing"),
    ("CLIPSVD", {f"TRAIN_{x}": False for x in ("Q", "K", "V", "O_PROJ", "MLP")}, "learn nothing"),
    ("CoOp", {"N_CTX": 75}, "too long"),
    ("CoPrompt", {"SENTENCES": "a\0"}, "no list or .json file 'a\\x00'"),
    ("CoPrompt", {"SENTENCES": "no.json"}, "'no.json' cannot be read"),
    ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2, 3]}, "TOPK is [1, 2, 3]"),
    ("GalLoP", {"USE_LOCAL_LOSS": False, "USE_GLOBAL_LOSS": False}, "set one to True"),
    ("HiCroPL", {"N_CTX": 0}, "N_CTX is 0: at least 1"),
    ("HiCroPL", {"CROSS_LAYER": 2}, "must be from 1 to PROMPT_DEPTH - 1, which is 1"),
    ("HiCroPL", {"PROMPT_DEPTH": 5}, "PROMPT_DEPTH is 5 but the text encoder of this"),
    ("HiCroPL", {"SENTENCES": None}, "Sentences about the classes are missing: set SENTENCES"),
    ("HiCroPL", {"SENTENCES": {"forest": ["a"]}}, "no list of sentences for the class 'annual"),
    ("IVLP", {"N_CTX_TEXT": 0}, "N_CTX_TEXT is 0: at least 1"),
    ("IVLP", {"N_CTX_TEXT": 3, "CTX_INIT": "a photo"}, "2 tokens before the class name"),
    ("IVLP", {"N_CTX_TEXT": 3, "CTX_INIT": "a photo"}, "lower N_CTX_TEXT"),
    ("MMRL", {"REP_LAYERS": [12]}, "REP_LAYERS has 12 but the text encoder has 4 blocks"),
    ("MTA", {"BATCH_SIZE": 4}, "The nearest 0.3 of the other 3 views of an image are no"),
    ("MultiModalAdapter", {"ADAPTER_END": 12}, "ADAPTER_END is 12 but the text encoder has 4"),
    ("MultiModalAdapter", {"ADAPTER_START": 3, "ADAPTER_END": 2}, "0 <= ADAPTER_START <= ADAPTER"),
    ("NLPrompt", {"NOISE_RATE": 0.5}, "no key 'NOISE_RATE'"),
    ("PLOT", {"CSC": True, "N": 2}, "CSC needs N = 1, but N is 2"),
    ("PLOTPP", {"N_CTX_V": 0}, "N_CTX_V is 0: at least 1"),
    ("PromptKD", {"TEACHER": "x" * 999}, "xxx' holds no run to load, as there is no such folder"),
    ("PromptSRC", {"GPA_MEAN": 16, "MAX_EPOCH": 15}, "is centred on epoch 16"),
    ("ProGrad", {"T": True}, "LOSS.T is True but must be a number"),
    ("SOTGLP", {"TOPK": [20]}, "TOPK is [20] but an image has 16 patches: lower it"),
    ("SkipTuning", {"START_LAYER": 4}, "START_LAYER is 4 but the text encoder has blocks 0 to 3"),
    ("SkipTuning", {"START_LAYER": -1}, "START_LAYER is -1"),
    ("SkipTuning", {"PREC": "fp16"}, "set amp, bf16 or fp32"),
    ("TCP", {"INSERT_BLOCK": 8}, "INSERT_BLOCK is 8 but the text encoder of this"),
    ("TPS", {"SENTENCES": None}, "Sentences about the classes are missing: set SENTENCES"),
    ("TPS", {"SENTENCES": {"sea": ["a sea"]}}, "SENTENCES has no list of sentences for the class"),
    ("DPE", {"SENTENCES": {"sea": ["a sea"]}}, "SENTENCES has no list of sentences for the class"),
    ("TaskRes", {"ENHANCED_BASE": "x" * 999}, "xxx', which is not a file"),
    ("VPT", {"PROMPT_DEPTH_VISION": 5}, "PROMPT_DEPTH_VISION is 5 but the image encoder of this"),
    *(
        (name, {"SCALE": -1e-9}, "SCALE is -1e-09")
        for name, kind in METHODS.items()
        if "SCALE" in kind.defaults
    ),
]


@pytest.mark.parametrize(("name", "node", "words"), REFUSED, ids=lambda x: str(x)[:50])
def test_what_is_refused_with_a_clip(tiny_clip, name, node, words):
    with pytest.raises(UserError) as error:
        method = build_method(name, settings(name) | node, tiny_clip, NAMES, "EuroSAT")
        method.text()
        method.losses([images()] * method.views, torch.tensor([0, 1, 2]))
    assert words in str(error.value) and "\n" not in str(error.value)


SUREST = "The surest 0.1 of {} views of an image is no view"
FEW = [
    ("BoostAdapter", 2, SUREST.format(2)),
    ("DPE", 2, SUREST.format(2)),
    ("MTA", 1, "of an image are no view"),
    ("RTPT", 12, "but there are 12 views"),
    ("TPS", 2, SUREST.format(2)),
    ("TPT", 1, "The surest 0.1 of 1 view of an image is no view"),
    ("ZERO", 1, "of an image is no view"),
]


@pytest.mark.parametrize(("name", "views", "words"), FEW)
def test_too_few_views_of_an_image(tiny_clip, name, views, words):
    node = {"WITH_CONCEPTS": False} if name == "TPS" else {}
    method = build_method(name, node, tiny_clip, NAMES, "ImageNetV2").eval()
    with pytest.raises(UserError, match=words):
        method.predict([images()] * views)


def test_rows_of_features_where_pixels_are_changed(tiny_clip):
    with pytest.raises(UserError, match="TTC changes pixels, so it takes images"):
        build_method("TTC", {}, tiny_clip, NAMES).eval().predict(torch.zeros(2, 64))


# ------------------------------------------------------------------ keys of the cfg

VALUES = {  # key -> good values, then bad ones
    "DATASET.CLASSES_AT": ([0, 1, 2], [-1, 3, "1"]),
    "DATASET.KNOWN": ([0.1, 1.0], [0.0, 1.1, float("nan")]),
    "DATASET.VALIDATION_SHOTS": ([-1, 0, 4], [-2]),
    "OPTIM.ADAM_EPS": ([0.0, 0.5], [-1e-9, 1.0, float("nan")]),
    "OPTIM.CLIP_NORM": ([0, 0.5], [-1.0, float("nan"), float("inf")]),
    "OPTIM.STEPS": ([0, 10**9], [-1]),
    "OPTIM.LR_MIN": ([0.0, 1e-4], [-1e-9, 1.0]),
    "OPTIM.COSINE_STEPS": ([0], [-1]),
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
