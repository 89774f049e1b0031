"""CoOp (Zhou et al., IJCV 2022; arXiv:2109.01134).

Learning to Prompt for Vision-Language Models.
"""

from dataclasses import dataclass
from typing import Literal

from ..capabilities.biased import Biased
from ..checkpoint.public import Public
from ..encoders.sentences import SLOT, OneTemplate, only_template, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..method import Method
from ..node import From0
from ..prompts import ClassSpecific, Size, check_size
from ..registry import register
from .prompted import Point, Prompted


@register
class CoOp(Biased, Prompted):
    """One learned textual prompt in the first block, from random vectors or words.

        h_k = normalise(g([v_1] .. [v_b] [class k])),   logits = s cos(z, h_k),   L = CE

    The context v of N_CTX tokens is shared by all classes, or one per class (CSC).

    Attributes:
        patches: True if `logits` reads r.
        insert_block: of the text encoder, where other tokens enter; 0 without.
    """

    node = "COOP"
    public = Public(submodule="prompt_learner")
    point = Point(M=0, N=1)
    several = "decides"
    patches = False
    insert_block = 0

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: From0 = 16  # without words from 1
        CSC: bool = False
        CTX_INIT: OneTemplate = ""
        CLASS_TOKEN_POSITION: Literal["end", "middle", "front"] = "end"

    @property
    def start(self) -> str:
        """The words from which the context starts; their number replaces N_CTX."""
        return only_template("CTX_INIT", self.settings.CTX_INIT)

    @property
    def position(self):
        """The position of the class name: `end`, `middle` or `front`."""
        return self.settings.CLASS_TOKEN_POSITION

    @property
    def class_bound(self):
        """True if each class has a context: with CSC, unless it starts from words."""
        return self.settings.CSC and not self.start

    @property
    def text_size(self) -> Size:
        """As many tokens as there are words, or else N_CTX, in front of the first block."""
        return Size(len(self.start.split()) or self.settings.N_CTX, 1)

    def templates(self):
        """Return the template of each prompt: all words before the class name are learned."""
        return [self.start or " ".join([SLOT] * self.settings.N_CTX)] * self.point.N

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders."""
        b = self.text_size.b
        check_size(clip_model, "text", self.text_size)
        sentences = write_sentences(clip_model, self.templates(), classnames, b, self.position)
        text = TextEncoder(
            clip_model, sentences, class_specific=self.class_bound, insert_block=self.insert_block
        )
        return text, ImageEncoder(clip_model.visual, patches=self.patches)

    def textual(self, clip_model):
        """Return the context v, or one for each class."""
        if not self.class_bound:
            return super().textual(clip_model)
        return ClassSpecific(clip_model, self.num_classes, self.text_size.b)
