"""The prompted CLIP: a point in the space of prompts, what is trained, and the classifier."""

from .prompted_clip import Output, Parts, PromptedCLIP

__all__ = ["Output", "Parts", "PromptedCLIP"]
