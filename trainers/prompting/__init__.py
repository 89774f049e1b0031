"""One prompted CLIP for every method, in plain PyTorch; knows neither Dassl nor its cfg."""

from .backbone import build_clip, load_clip
from .errors import UserError
from .model import PromptedCLIP
from .sinkhorn import sinkhorn
from .spec import PromptSpec

__all__ = ["PromptSpec", "PromptedCLIP", "UserError", "build_clip", "load_clip", "sinkhorn"]
