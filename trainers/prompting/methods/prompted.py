"""Prompts on either side of CLIP, compared by the cosine: what CoOp, VPT, IVLP, MaPLe and UPT are.

They are points of the paper's Table 1. `align` adds optimal transport and the token level.
Equations: docs/methods.md, section 3.

Letters: B images, K classes, M visual and N textual prompts of b tokens in J blocks; z, h features
of an image and a class under each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..encoders.sentences import Sentence, expand_templates, fixed_sentence, write_sentences
from ..encoders.text import TextEncoder
from ..encoders.vision import ImageEncoder
from ..method import Method
from ..node import From1, Positive
from ..prompts import Contexts, Independent, Projected, Size, Textual, Unified, Visual, check_size

COUPLED = {"project": Projected, "unified": Unified}


class Point(NamedTuple):
    """A method as in the paper's Table 1.

    M, N: numbers of visual and textual prompts; beta: weight of the token level, None if the method
    has another equation; coupling: where visual contexts come from: `independent` parameters,
    a linear map of the textual ones (`project`), or `unified` contexts that both encoders share;
    `none` if only one has prompts.
    """

    M: int
    N: int
    beta: float | None = 0.0
    coupling: str = "none"


@dataclass(frozen=True)
class Transported(Method.Settings):
    """The keys of the solver of transport problems."""

    LAMBDA: Positive = 0.1
    SINKHORN_TOL: Positive = 1e-4
    SINKHORN_MAX_ITER: From1 = 100

    @property
    def solver(self) -> tuple[float, float, int]:
        """The first arguments of `Sinkhorn`."""
        return self.LAMBDA, self.SINKHORN_TOL, self.SINKHORN_MAX_ITER


class Prompted(Method):
    """M visual and N textual prompts; the score of one prompt a side is the cosine.

    ALIGN reads M, N, beta and the coupling from its settings; CoOp, VPT, IVLP, MaPLe and UPT fix
    them.

    Attributes:
        point: M, N, beta and the coupling.
        text_size, vision_size: of the contexts of each encoder.
        single: True if the context of the only prompt has the shape (b, W), as in public code.
        position: of the class name, as in `write_sentences`.
    """

    point: Point
    text_size: Size
    vision_size: Size
    prompt_learner: Any
    single = True
    position = "end"

    def templates(self) -> Sequence[str]:
        """Return the template of each textual prompt."""
        return expand_templates(self.settings.CTX_INIT, self.point.N, self.text_size.b)

    def fixed_template(self) -> str:
        """Return the template of all sentences if there are no textual prompts."""
        return fixed_sentence(self.settings.CTX_INIT)

    def sentences(self, clip_model: Any, classnames: Sequence[str]) -> list[list[Sentence]]:
        """Return the sentences [n][k]."""
        if not self.point.N:
            return write_sentences(clip_model, [self.fixed_template()], classnames)
        return write_sentences(clip_model, self.templates(), classnames, self.text_size.b)

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, which return patches and words if there is a token level."""
        M, N = self.point[:2]
        if N:
            check_size(clip_model, "text", self.text_size)
        if M:
            check_size(clip_model, "image", self.vision_size)
        sentences = self.sentences(clip_model, classnames)
        words = self.words(sentences)
        return (
            TextEncoder(clip_model, sentences, words),
            ImageEncoder(clip_model.visual, patches=words is not None),
        )

    def words(self, sentences: list[list[Sentence]]) -> list[list[range]] | None:
        """Return the positions of the token-level features; None without a token level."""
        return None

    def build(self, clip_model, classnames, dataset):
        """Make the contexts."""
        (M, N, _, coupling), single = self.point, self.single
        if coupling in COUPLED:
            b, J, _ = self.text_size
            make = COUPLED[coupling]
            self.prompt_learner = make(clip_model, self.templates(), b, J, M, single)
            return
        sides: list[Any] = []
        if N:
            sides.append(self.textual(clip_model))
        if M:
            b, J, _ = self.vision_size
            sides.append(Visual(clip_model, M, b, J, single))
        if sides:
            self.prompt_learner = Independent(*sides) if len(sides) == 2 else sides[0]

    def textual(self, clip_model: Any) -> Any:
        """Return the textual contexts, if no other ones are made of them."""
        b, J, _ = self.text_size
        position = self.position
        return Textual(clip_model, self.templates(), b, J, self.single, position=position)

    def contexts(self):
        """Return the contexts of both encoders."""
        return self.prompt_learner() if max(self.point[:2]) else Contexts()
