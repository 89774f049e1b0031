"""Settings of methods that are refused, each in one sentence, and those that just are not."""

import pytest
import torch

from trainers.prompting import UserError, build_method
from trainers.prompting.building.config import read_node
from trainers.prompting.method import METHODS

BAD = [
    ("TipAdapter", "INIT_ALPHA", -1.0, "INIT_ALPHA is -1.0 but must be 0 or more"),
    ("TipAdapterF", "INIT_BETA", float("nan"), "INIT_BETA is nan but must be 0 or more"),
    ("TipAdapter", "AUGMENT_EPOCH", 0, "AUGMENT_EPOCH is 0: at least 1 is needed"),
    ("TipAdapter", "SEARCH_STEP", [200, 0], "SEARCH_STEP is .* but must be two numbers"),
    ("TipAdapter", "SEARCH_SCALE", [7], "SEARCH_SCALE is .* but must be two numbers"),
    ("TipAdapter", "SEARCH_SCALE", ["7", "3"], "but must be a list of numbers, such as"),
    ("CLIPAdapter", "RATIO", 1.5, "RATIO is 1.5 but must be from 0 to 1"),
    ("CLAP", "CONSTRAINT", "l3", "CONSTRAINT is 'l3' but must be one of none, l2, cosine"),
    ("CLAP", "CONSTRAINT", "l2_more", "The part of CONSTRAINT after _ is 'more' but must be one"),
    ("CLAP", "INIT", "TR", "INIT is 'TR' but must be one of ZS, RANDOM"),
    ("CLAP", "INIT", "RANDOM", "INIT is RANDOM but CONSTRAINT is l2, which keeps prototypes"),
    ("CLAP", "ENHANCED_BASE", "x", "ENHANCED_BASE is 'x' but must be one of none"),
    ("LinearProbe", "C", 0.0, "C is 0.0 but must be positive"),
    ("LinearProbe", "NUM_STEP", -1, "NUM_STEP is -1 but must be 0 or more"),
    ("LPPlusPlus", "FORM", "paper", "FORM is 'paper' but must be one of released, cleared"),
    ("LPPlusPlus", "TRAIN_EPOCH", 0, "TRAIN_EPOCH is 0: at least 1 is needed"),
    ("CLAP", "REPETITIONS", 0, "REPETITIONS is 0: at least 1 is needed"),
    ("CrossModal", "IMAGE_LAYER_IDX", 1, "IMAGE_LAYER_IDX must be 0: no layer of CLIP can be"),
    ("GDA", "FORM", "paper", "FORM is 'paper' but must be one of shrunk, base2new"),
    ("GDA", "NEIGHBORS", 1, "NEIGHBORS is 1: at least 2 are needed"),
    ("ProLIP", "LAMBDA", "1/M", r"LAMBDA is '1/M' but must be one of 1/N, 1/N\^2, a number"),
    ("ProLIP", "LAMBDA", "-1", "LAMBDA is -1.0 but must be 0 or more"),
    ("ProLIP", "AUG_VIEWS", 0, "AUG_VIEWS is 0: at least 1 is needed"),
    ("ProLIP", "SIDE", "both", "SIDE is 'both' but must be one of visual, text"),
    ("GalLoP", "TOPK", 5, "TOPK is 5 but must be a list of whole numbers, such as"),
    ("MMRL", "REP_LAYERS", [1.5], "but must be a list of whole numbers"),
    ("MMRL", "REP_LAYERS", ["a"], "REP_LAYERS is .* but must be a list of whole numbers"),
    ("GalLoP", "TOPK", ["a"], "TOPK is .* but must be a list of whole numbers"),
    ("MMRL", "N_REP_TOKENS", 100_000, "N_REP_TOKENS is 100000 but must be from 1 to 1,000"),
    ("MMRLpp", "BETA", 1.5, r"BETA is 1.5 but must be in \[0, 1\]"),
    ("MMRLpp", "RES_LORA_DIM", 0, "RES_LORA_DIM is 0 but must be from 1 to 10,000"),
    ("KgCoOp", "W", -1.0, "W is -1.0 but must be 0 or more"),
    ("CoPrompt", "W", float("nan"), "TRAINER.W is nan but must be 0 or more"),
    ("MMRL", "REG_WEIGHT", -1.0, "REG_WEIGHT is -1.0 but must be 0 or more"),
    ("PromptSRC", "TEXT_LOSS_WEIGHT", -1, "TEXT_LOSS_WEIGHT is -1 but must be 0 or more"),
    ("PromptSRC", "N_CTX_VISION", -1, "N_CTX_VISION is -1 but must be 0 or more"),
    ("IVLP", "PROMPT_DEPTH_VISION", -1, "PROMPT_DEPTH_VISION is -1 but must be 0 or more"),
    ("ProGrad", "T", 0.0, "LOSS.T is 0.0 but must be positive"),
    ("ProGrad", "LAMBDA", -1.0, "LOSS.LAMBDA is -1.0 but must be 0 or more"),
    ("PromptKD", "KD_WEIGHT", -1.0, "KD_WEIGHT is -1.0 but must be 0 or more"),
    ("CLIPLoRA", "ALPHA", 0.0, "ALPHA is 0.0 but must be positive"),
    ("MultiModalAdapter", "ADAPTER_DIM", 999_999, "ADAPTER_DIM is 999999 but must be from 1 to"),
    ("MultiModalAdapter", "ADAPTER_SCALE", float("inf"), "ADAPTER_SCALE is inf but must be"),
    ("MultiModalAdapter", "ADAPTER_START", 13, "ADAPTER_START is 13 and ADAPTER_END 12: give 0"),
    ("MultiModalAdapter", "ADAPTER_START", -1, "ADAPTER_START is -1 and ADAPTER_END 12: give 0"),
    ("LoCoOp", "TOPK", 0, "topk is 0: at least 1 is needed"),
    ("LoCoOp", "LAMBDA_VALUE", -1.0, "lambda_value is -1.0 but must be 0 or more"),
    ("CoOp", "N_CTX", 0, "N_CTX is 0: at least 1 is needed"),
    ("CoOp", "CTX_INIT", "a\tb", "CTX_INIT has 2 templates"),
    ("CTPT", "LAMBDA_TERM", -1.0, "LAMBDA_TERM is -1.0 but must be 0 or more"),
    ("TCP", "INSERT_BLOCK", 0, "INSERT_BLOCK is 0: at least 1 is needed"),
    ("GalLoP", "N_GLOBAL_PROMPTS", 999_999, "is 999999 but must be from 1 to 1,000"),
    ("TDA", "VIEWS", 999_999, "An image has 999,999 views: lower VIEWS, to 10,000 at most"),
    ("TPT", "BATCH_SIZE", 999_999, "An image has 999,999 views: lower BATCH_SIZE or SELECTION_P"),
    ("TipAdapter", "INIT_ALPHA", 1e300, r"INIT_ALPHA is 1e\+300 but must be a number, 3.4e\+38"),
    ("TipAdapter", "SEARCH_STEP", [1e9, 1e9], "1,000,000,000,000,000,000 pairs of beta and alpha"),
    ("ALIGN", "REGULARIZERS", "kg", "REGULARIZERS is 'kg' but must be a list of words"),
]


@pytest.mark.parametrize(("name", "key", "value", "sentence"), BAD)
def test_bad_settings_are_one_sentence(name, key, value, sentence):
    with pytest.raises(UserError, match=sentence):
        read_node(METHODS[name], {key: value})


def inherited():
    """Yield the cases of methods whose settings are based on those of a method in BAD."""
    for name, key, value, sentence in BAD:
        of = METHODS[name].Settings
        for other, kind in METHODS.items():
            if kind.Settings is not of and issubclass(kind.Settings, of):
                yield pytest.param(other, key, value, sentence, id=f"{other}, {key} {value}")


@pytest.mark.parametrize(("name", "key", "value", "sentence"), [*inherited()])
def test_settings_refuse_what_those_that_they_are_based_on_refuse(name, key, value, sentence):
    with pytest.raises(UserError, match=sentence):
        read_node(METHODS[name], {key: value})


def test_settings_at_a_bound_are_valid():
    read_node(METHODS["MultiModalAdapter"], {"ADAPTER_START": 12})
    read_node(METHODS["MultiModalAdapter"], {"ADAPTER_START": 0})
    read_node(METHODS["TipAdapter"], {"SEARCH_STEP": [1000, 1000]})
    with pytest.raises(UserError, match="which tries 1,001,000 pairs"):
        read_node(METHODS["TipAdapter"], {"SEARCH_STEP": [1001, 1000]})


@pytest.mark.parametrize(
    ("name", "node", "sentence"),
    [
        ("CoPrompt", {"SENTENCES": 5, "PROMPT_DEPTH": 2}, "SENTENCES is 5 but must be the path"),
        ("CoPrompt", {"SENTENCES": "a\0", "PROMPT_DEPTH": 2}, "no list or .json file .a.x00"),
        ("TaskRes", {"ENHANCED_BASE": "x" * 999}, "ENHANCED_BASE is 'x*', which is not a file"),
        ("PromptKD", {"TEACHER": "x" * 999, "PROMPT_DEPTH_VISION": 2}, "TEACHER is 'x*', where"),
        ("VPT", {"N_CTX_VISION": 5_000, "PROMPT_DEPTH_VISION": 2}, "5000: 1,000 at most are"),
    ],
)
def test_files_and_sizes_of_any_kind_are_one_sentence(tiny_clip, name, node, sentence):
    with pytest.raises(UserError, match=sentence):
        images = torch.zeros(2, 3, 32, 32)
        build_method(name, node, tiny_clip, ["cat", "dog"]).losses([images] * 2, torch.arange(2))
