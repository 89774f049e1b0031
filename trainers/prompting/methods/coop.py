"""CoOp (Zhou et al., IJCV 2022; arXiv:2109.01134).

Learning to Prompt for Vision-Language Models.
"""

from dataclasses import dataclass

from ..checkpoint.public import Public
from ..encoders.sentences import SLOT, only_template, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..errors import need, one_of
from ..method import Method
from ..node import Words
from ..prompts import ClassSpecific, Size, check_size
from ..registry import register
from .prompted import Point, Prompted


@register
class CoOp(Prompted):
    """One learned textual prompt in the first block, from random vectors or words.

    Its context is shared by all classes, or one per class (CSC). Methods that start from CoOp
    override what is below `settings`.
    """

    node = "COOP"
    public = Public(submodule="prompt_learner")
    point = Point(M=0, N=1)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 16
        CSC: bool = False
        CTX_INIT: Words = ""
        CLASS_TOKEN_POSITION: str = "end"

        def __post_init__(self) -> None:
            one_of("CLASS_TOKEN_POSITION", self.CLASS_TOKEN_POSITION, ("end", "middle", "front"))
            only_template(self.CTX_INIT)
            need(self.CTX_INIT or self.N_CTX >= 1, f"N_CTX is {self.N_CTX}: at least 1 is needed")

    patches = False  # True if `logits` reads r
    insert_block = 0

    @property
    def start(self) -> str:
        """The words from which the context starts; their number replaces N_CTX."""
        return only_template(self.settings.CTX_INIT)

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

    def build(self, clip_model, classnames, dataset):
        """Make the context."""
        if self.class_bound:
            b = self.text_size.b
            self.prompt_learner = ClassSpecific(clip_model, len(classnames), b)
        else:
            super().build(clip_model, classnames, dataset)
