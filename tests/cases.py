"""Settings that fit the tiny CLIP: those without a golden file, and those of whole runs."""

import pytest

NAMES = ["forest", "sea or lake", "annual crop land"]
SENTENCES = {name: [f"a photo of a {name}.", f"a {name} from above."] for name in NAMES}
ALIGN = {"M": 2, "N": 2, "DEPTH": 2}

# Method, keys of its node and, where it matters, the data set.
SETTINGS = {
    "CoOp": ("CoOp", {"N_CTX": 4}),
    "CoCoOp": ("CoCoOp", {"N_CTX": 4}),
    "MaPLe": ("MaPLe", {"PROMPT_DEPTH": 2}),
    "UPT": ("UPT", {"PROMPT_DEPTH": 2}),
    "ProGrad": ("ProGrad", {"N_CTX": 4}),
    "PromptSRC": ("PromptSRC", {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2}),
    "TCP": ("TCP", {"INSERT_BLOCK": 2}),
    "CoPrompt": ("CoPrompt", {"PROMPT_DEPTH": 2, "SENTENCES": SENTENCES}),
    "BiomedCoOp": ("BiomedCoOp", {"SENTENCES": SENTENCES, "N_PROMPTS": 2}),
    "ALIGN": ("ALIGN", ALIGN),
    "ALIGN, independent": ("ALIGN", ALIGN | {"COUPLING": "independent"}),
    "ALIGN, unified": ("ALIGN", ALIGN | {"COUPLING": "unified"}),
    "ALIGN, one side": ("ALIGN", ALIGN | {"N": 0}),
    "MMP": ("MMP", {"VISION_PROMPT_NUMBER": 2, "TEXT_PROMPT_NUMBER": 2, "TEXT_PROMPT_DEPTH": 2}),
    "ALIGN, small lambda": ("ALIGN", ALIGN | {"LAMBDA": 0.02}),
    "CLIPLoRA": ("CLIPLoRA", {}),
    "MMRL": ("MMRL", {"REP_LAYERS": [2, 3, 4], "REP_DIM": 32}),
    "MMAPP": ("MMAPP", {"ADAPTER_START": 2, "ADAPTER_END": 3}),
}  # fmt: skip
SEVERAL = {"DualCoOp", "RAM", "SPARC", "TaIDPT"}  # published for several labels an image alone
PRECISIONS = ("fp32", "fp16", "amp")


def slow_but(cases, *quick):
    """Return the cases of a parametrised test, all of them slow but those that are named."""
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in cases]
