"""Small models of methods on the tiny CLIP, with images, supports and gradients for them."""

import tempfile
from functools import cache
from pathlib import Path

import golden_files
import torch
import torch.nn.functional as F
from paths import GOLDEN

from trainers.prompting import OnSupport, build_clip, build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS

NAMES = ["annual crop land", "forest", "sea_or_lake", "boeing 737-800", "highway or road"]
# Settings other than the defaults, by a separate name.
MORE = {
    "ALIGN without visual prompts": ("ALIGN", {"M": 0}),
    "CoOp with a context for each class": ("CoOp", {"CSC": True}),
    "CoOp, names in the middle": ("CoOp", {"CLASS_TOKEN_POSITION": "middle"}),
}


ARCH = {
    "embed_dim": 32, "image_resolution": 32, "vision_layers": 2, "vision_width": 64,
    "vision_patch_size": 16, "context_length": 77, "vocab_size": 49408, "transformer_width": 64,
    "transformer_heads": 1, "transformer_layers": 2,
}  # fmt: skip
RESNET = {"vision_layers": (1, 1, 1, 1), "vision_width": 16, "vision_patch_size": None}


def clip_of(**sizes):
    """Return a random CLIP, small but for these sizes."""
    return build_clip(ARCH | sizes)


def saved(method, names, **more) -> Saved:
    """Return what a run of a method on these classes saves."""
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    state |= {"classnames": names, "class_buffers": method.class_buffers}
    return Saved.of(state | {"trainer": type(method).__name__} | more)


FOLDER = tempfile.TemporaryDirectory()


@cache
def teacher() -> dict:
    """Return keys with a teacher for students."""
    golden = golden_files.read(GOLDEN / "promptkd.safetensors")
    return golden_files.teacher(golden, Path(FOLDER.name))


def settings(name: str) -> dict:
    """Return settings of a method that fit a CLIP with four blocks, for whichever keys it has."""
    node = {}
    for key in METHODS[name].defaults:
        if key in ("DEPTH_VISION", "DEPTH_TEXT"):
            node[key] = [2, 3]
        elif "DEPTH" in key or key in ("INSERT_BLOCK", "ADAPTER_START", "START_LAYER"):
            node[key] = 2
        elif key == "TEMPERATURE" and name == "RAM":
            node[key] = 0.05  # at 0.002, float16 has a smaller loss scale
        elif key == "LOSS_W":
            node[key] = 0.03  # of a sum, which is published
        elif key == "ADAPTER_END":
            node[key] = 3
        elif key == "ITERS":
            node[key] = 9
        elif key == "NEIGHBORS" and name == "RTPT":
            node[key] = 3
        elif key == "FEW_SHOT":
            node[key] = True
        elif key == "REP_LAYERS":
            node[key] = [2, 3]
        elif key == "SENTENCES":
            whole = ["a photo of a {}.", "a {} from above."]  # AWT's follow a template
            node[key] = {"*": ["seen.", "above."] if name.startswith("AWT") else whole}
        elif key == "TEACHER":
            node |= teacher()
        elif key in ("M", "N", "N_PROMPTS") or key.endswith("PROMPT_NUMBER"):
            node[key] = 2
        elif key in ("CROSS_LAYER", "GPA_MEAN") or (key == "TOPK" and name == "LoCoOp"):
            node[key] = 1
    return node


def model_of(clip_model, method, node, names=NAMES):
    return build_method(method, node, clip_model, names, "EuroSAT")


def align(clip_model, M, N, names=NAMES, **node):
    defaults = {"M": M, "N": N, "DEPTH": 3, "SINKHORN_TOL": 1e-6, "SINKHORN_MAX_ITER": 500}
    return model_of(clip_model, "ALIGN", {**defaults, **node}, names)


def images(count=3):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def support_of(method, names=NAMES, size=32):
    """Return two training images per class in two passes, or None if the method takes none."""
    if not issubclass(METHODS[method], OnSupport):
        return None
    labels = torch.arange(2 * len(names)) % len(names)
    seeded = torch.Generator().manual_seed(2)
    return {
        "images": torch.randn(2, len(labels), 3, size, size, generator=seeded),
        "labels": labels,
    }


def outcome(model, state=None):
    """Return the logits of a step, and the gradients by public name."""
    if state is not None:
        model.load_public_state_dict(state)
    logits = model.train()(images())
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    return logits.detach(), {n: p.grad for n, p in model.public_parameters().items()}
