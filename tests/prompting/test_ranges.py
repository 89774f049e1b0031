"""The bounds of each key's range: the last values that methods take, and the first they refuse."""

import math

import pytest

from trainers.prompting import UserError
from trainers.prompting.building.config import read_node
from trainers.prompting.method import METHODS

FROM_0, ABOVE_0 = ([0.0, 1e30], [-1e-9, math.inf]), ([1e-9, 1e30], [0.0, math.inf])
UNIT = [0.0, 1.0], [-1e-9, 1.0000001]
COUNT, LENGTH = ([1, 1_000_000], [0, -1]), ([0, 1_000_000], [-1])
WIDTH, TOKENS = ([1, 10_000], [0, 10_001]), ([1, 1_000], [0, 1_001])
SHARE, STEPS = ([1.0], [1.0000001]), ([0, 1], [-1])
VIEWS = [10, 10_000], [9, 10_001]  # of which a tenth is kept

# Of methods, keys with the values that are valid and those that are not.
RANGES = {
    "ALIGN": {
        "M": LENGTH, "N": LENGTH, "BETA": FROM_0, "LAMBDA": ([1e-30, 1e30], [9e-31, math.inf]),
        "SINKHORN_TOL": ([1e-9], [0.0]), "SINKHORN_MAX_ITER": COUNT,
        "COUPLING": (["independent", "project", "unified"], ["none", "both"]),
    },
    "BoostAdapter": {"DELTA": STEPS, "SELECTION_P": SHARE, "BATCH_SIZE": VIEWS},
    "CLAP": {
        "REPETITIONS": COUNT, "INIT": (["ZS"], ["RANDOM"]),
        "CONSTRAINT": (["none", "l2", "cosine", "l2_balanced"], ["l3", "l2_none"]),
    },
    "CLIPAdapter": {"RATIO": UNIT},
    "CLIPLoRA": {"ALPHA": ABOVE_0, "DROPOUT_RATE": ([0.0, 0.999], [-1e-9, 1.0])},
    "CLIPSVD": {
        "RANK": ([1e-9, 1.0], [0.0, 1.0000001]), "TEMPLATE": (["a {}", ""], ["a", "{} {}"]),
    },
    "CTPT": {"LAMBDA_TERM": FROM_0},
    "CoOp": {"N_CTX": COUNT},
    "CoPrompt": {"W": FROM_0},
    "CrossModal": {
        "LR": ABOVE_0, "WEIGHT_DECAY": FROM_0, "WARMUP_ITER": LENGTH, "BATCH_SIZE": COUNT,
        "ITERS": COUNT, "EVAL_FREQ": COUNT, "LOGIT": ([20.0, -20.0], [20.01, -20.01]),
        "WISEFT": UNIT, "IMAGE_LAYER_IDX": ([0], [1]), "TEXT_LAYER_IDX": ([0], [1]),
    },
    "DPE": {
        "SHOT_CAPACITY": COUNT, "TTA_STEPS": STEPS, "ALPHA": FROM_0, "BETA": FROM_0,
        "LR_TEXT": FROM_0, "LR_IMAGE": FROM_0, "ALIGN": FROM_0, "SELECTION_P": SHARE,
        "BATCH_SIZE": VIEWS,
    },
    "GDA": {
        "ALPHA": FROM_0, "COPIES": LENGTH, "AUGMENT_EPOCH": COUNT, "NEIGHBORS": ([2], [1]),
    },
    "GalLoP": {
        "N_GLOBAL_PROMPTS": TOKENS, "GLOBAL_DROPOUT_P": UNIT, "TOPK": ([[1], [9]], [[0], []]),
        "TEMPLATE": (["a {}"], ["a", "{}"]),
    },
    "HiCroPL": {"LAMBD": FROM_0, "CROSS_LAYER": ([1, 8], [0, 9])},
    "IVLP": {"N_CTX_VISION": STEPS, "PROMPT_DEPTH_VISION": STEPS},
    "KgCoOp": {"W": FROM_0},
    "LPPlusPlus": {"TRAIN_EPOCH": COUNT},
    "LinearProbe": {"C": ABOVE_0, "NUM_STEP": LENGTH},
    "LoCoOp": {"TOPK": COUNT, "LAMBDA_VALUE": FROM_0},
    "MMP": {"TEXT_PROMPT_NUMBER": LENGTH, "VISION_PROMPT_NUMBER": LENGTH},
    "MMRL": {
        "REP_LAYERS": ([[1], [2, 5]], [[], [0, 2], [5, 2], [2, 2]]), "REP_DIM": WIDTH,
        "N_REP_TOKENS": TOKENS, "REG_WEIGHT": FROM_0, "ALPHA": UNIT,
    },
    "MMRLpp": {"BETA": UNIT, "PROJ_LORA_DIM": WIDTH, "RES_LORA_DIM": WIDTH},
    "MTA": {
        "LAMBDA_Y": ABOVE_0, "LAMBDA_Q": FROM_0, "MAX_ITER": COUNT,
        "BANDWIDTH_P": ([0.1, 1.0], [0.0, 1.0000001]),
    },
    "MultiModalAdapter": {
        "ADAPTER_START": ([0, 12], [-1, 13]), "ADAPTER_DIM": WIDTH, "ADAPTER_SCALE": ABOVE_0,
    },
    "NLPrompt": {"REG_E": ABOVE_0, "CURRICLUM_EPOCH": LENGTH, "BEGIN_RATE": UNIT},
    "PLOT": {"N": COUNT},
    "PLOTPP": {"N": ([1, 4], [0, 5]), "M": COUNT, "PRETRAIN_DIR": ([""], ["folder"])},
    "ProGrad": {"LAMBDA": FROM_0, "T": ABOVE_0, "NAME": (["", "prograd"], ["ce"])},
    "ProLIP": {"AUG_VIEWS": COUNT, "LAMBDA": (["1/N", "1/N^2", "0", "2.5"], ["-1e-9", "inf"])},
    "PromptKD": {"TEMPERATURE": ABOVE_0, "KD_WEIGHT": FROM_0},
    "PromptSRC": {
        "TEXT_LOSS_WEIGHT": LENGTH, "IMAGE_LOSS_WEIGHT": LENGTH, "GPA_STD": ([1], [0]),
    },
    "RTPT": {"NEIGHBORS": ([1, 63], [0, 64]), "WEIGHT_TAU": ABOVE_0},
    "SkipTuning": {
        "TOP_RATIO": ([1e-9], [0.0]), "MAX_TOP": COUNT, "LAMBDA": ([1e-9, 1e6], [0.0, 1.0001e6]),
        "DROP_RATIO": ([0.0], [0.1]),
    },
    "StatA": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "ALPHA": FROM_0, "LAMBDA_Y": FROM_0,
        "LAMBDA_LAPLACIAN": FROM_0, "MAX_ITER": LENGTH, "TAU": ABOVE_0,
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
        "TEMPLATES": ([["{}", "a {}"], []], [["{}", "a"]]),
    },
    "TPT": {"LR": FROM_0, "TTA_STEPS": STEPS, "SELECTION_P": SHARE, "BATCH_SIZE": VIEWS},
    "TTC": {
        "TTC_EPS": ([1e-9, 1.0], [0.0, 1.0000001]), "TTC_STEPSIZE": ABOVE_0, "TTC_STEPS": STEPS,
        "TAU_THRES": FROM_0, "BETA": FROM_0, "TEMPLATE": (["a {}", ""], ["a", "{} {}"]),
    },
    "TaskRes": {"RESIDUAL_SCALE": ABOVE_0},
    "TextRefiner": {
        "MEMORY_SIZE": WIDTH, "BALANCE": ABOVE_0, "ALPHA": ABOVE_0, "DISTILL": FROM_0,
    },
    "TipAdapter": {
        "INIT_ALPHA": FROM_0, "INIT_BETA": FROM_0, "AUGMENT_EPOCH": COUNT,
        "SEARCH_SCALE": ([[0.1, 3]], [[0.09, 3], [3, math.inf], [3], [3, 3, 3]]),
        "SEARCH_STEP": ([[1, 1], [1000, 1000], [1, 10**6]], [[0.9, 9], [1001, 1000], [1000, 1001]]),
    },
    "TransCLIP": {
        "Z_ITER": COUNT, "N_NEIGHBORS": COUNT, "N_CONFIDENT": COUNT, "MAX_ITER": LENGTH,
        "LAMBDA_ZS": FROM_0, "LAMBDA_FS": FROM_0, "TAU": ABOVE_0,
        "GAMMA": ([[0.0], [1.0, 0.5]], [[], [1.0, -1e-9], [math.inf]]),
    },
    "TwoSFS": {"N_ITERS_FRAC": ([1e-9, 0.999], [0.0, 1.0]), "STAGE": ([0, 1, 2], [-1, 3])},
    "ZERO": {"GAMMA": ([0.1, 0.999], [1.0, 0.01])},
}  # fmt: skip
CASES = [(name, key) for name, keys in RANGES.items() for key in keys]


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_range_ends_where_it_should(name, key):
    valid, wrong = RANGES[name][key]
    for value in valid:
        assert read_node(METHODS[name], {key: value})
    for value in wrong:
        with pytest.raises(UserError) as error:
            read_node(METHODS[name], {key: value})
        assert key.lower() in str(error.value).lower()


@pytest.mark.parametrize(
    ("name", "node", "is_valid"),
    [
        ("ALIGN", {"BETA_FORM": "convex", "BETA": 1.0}, True),
        ("ALIGN", {"BETA_FORM": "convex", "BETA": 1.001}, False),
        ("ALIGN", {"COUPLING": "none", "M": 0}, True),
        ("ALIGN", {"COUPLING": "none", "N": 0}, True),
        ("CLAP", {"INIT": "RANDOM", "CONSTRAINT": "none"}, True),
        ("CLIPSVD", {"TRAIN_IMAGE_ENCODER": False, "TRAIN_TEXT_ENCODER": False}, False),
        ("CoOp", {"N_CTX": 0, "CTX_INIT": "a photo"}, True),
        ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2]}, True),
        ("GalLoP", {"N_LOCAL_PROMPTS": 2, "TOPK": [1, 2, 3]}, False),
        ("GalLoP", {"USE_GLOBAL_LOSS": False}, True),
        ("GalLoP", {"USE_LOCAL_LOSS": False}, True),
        ("GalLoP", {"USE_LOCAL_LOSS": False, "USE_GLOBAL_LOSS": False}, False),
        ("PLOT", {"CSC": True, "N": 1}, True),
        ("PLOT", {"CSC": True, "N": 2}, False),
        ("PromptSRC", {"GPA_MEAN": 15, "MAX_EPOCH": 15}, True),
        ("PromptSRC", {"GPA_MEAN": 16, "MAX_EPOCH": 15}, False),
    ],
    ids=str,
)
def test_settings_that_depend_on_others(name, node, is_valid):
    if is_valid:
        assert read_node(METHODS[name], node)
    else:
        with pytest.raises(UserError):
            read_node(METHODS[name], node)
