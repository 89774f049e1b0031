"""The prompted CLIP: a point in the space of prompts, what is trained, and the classifier."""

from .parts import Output, Parts
from .prompted_clip import PromptedCLIP

__all__ = ["Output", "Parts", "PromptedCLIP"]
