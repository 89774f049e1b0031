"""One prompted CLIP for every method, in plain PyTorch; knows neither Dassl nor its cfg."""

from .backbones.openai import build_clip, load_clip
from .errors import UserError
from .model import PromptedCLIP
from .spec import PromptSpec
from .transport.solver import sinkhorn

__all__ = ["PromptSpec", "PromptedCLIP", "UserError", "build_clip", "load_clip", "sinkhorn"]
