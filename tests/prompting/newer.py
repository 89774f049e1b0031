"""Small settings of KgCoOp, ProGrad, PromptSRC, TCP, CoPrompt and ALIGN for the tiny CLIP."""

import torch

from trainers.prompting import build_method

NAMES = ["forest", "sea or lake", "annual crop land"]
OTHERS = ["highway or road", "boeing 737-800"]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
SMALL = {
    "PromptSRC": {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2},
    "TCP": {"INSERT_BLOCK": 2},
    "CoPrompt": {"PROMPT_DEPTH": 2},
    "ALIGN": {"DEPTH": 2},
}


def build(name, clip_model, names=NAMES, dataset="EuroSAT", **node):
    return build_method(name, SMALL.get(name, {}) | node, clip_model, names, dataset)


def pairs(name: str) -> list[str]:
    """Return the small settings of a method as KEY VALUE pairs of a command line."""
    node = {"CoPrompt": "CoPrompt", "PromptSRC": "PROMPTSRC", "TCP": "COOP"}.get(name, "")
    return [w for k, v in SMALL.get(name, {}).items() for w in (f"TRAINER.{node}.{k}", str(v))]
