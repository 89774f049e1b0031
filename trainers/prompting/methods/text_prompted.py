"""One textual prompt in front of the first block: the part of CoOp that others build on."""

from ..encoders.sentences import SLOT, only_template, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..prompts import ClassSpecific, Size, check_size
from .prompted import Prompted


class TextPrompted(Prompted):
    """A method with CoOp's context and sentences.

    Attributes:
        patches: True if `logits` reads r.
        insert_block: of the text encoder, where other tokens enter; 0 without.
    """

    patches = False
    insert_block = 0

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

    def build(self, clip_model, classnames, dataset):
        """Make the context."""
        if self.class_bound:
            b = self.text_size.b
            self.prompt_learner = ClassSpecific(clip_model, len(classnames), b)
        else:
            super().build(clip_model, classnames, dataset)
