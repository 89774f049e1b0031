"""The prompted CLIP: the classifier, its prompt learner, and the parts that a method adds."""

from .parts import Output, Parts
from .prompted_clip import PromptedCLIP

__all__ = ["Output", "Parts", "PromptedCLIP"]
