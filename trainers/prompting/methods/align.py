"""ALIGN (Wang et al., NeurIPS 2023; arXiv:2309.13847).

Tuning Multi-mode Token-level Prompt Alignment across Modalities.
"""

from dataclasses import dataclass, field

from ..encoders.templates import KGCOOP, PROMPTSRC, template_of
from ..errors import UserError
from ..method import Method, register
from ..regularizers import weights_of
from ..spec import PromptSpec, Words, expand_templates, fixed_sentence
from ..teacher import Teacher


@register
class ALIGN(Method):
    """M visual and N textual prompts, compared by transport between prompts and between tokens.

    Visual prompts are projections of the textual ones (as in MaPLe). An image is classified by the
    transport distance between its M prompted views and the N prompts of a class (Eq. 7). The cost
    of this transport contains the transport distance between patches and words (Eq. 6). `FORM
    released` computes what the published code computes. Other methods are special cases, with
    other M, N and BETA. REGULARIZERS adds terms of newer methods that keep the prompted features
    close to those of the untouched CLIP.
    """

    node = "ALIGN"
    checkpoint = "MultiModalPromptLearner"
    training_only = ("REGULARIZERS", "REGULARIZER_WEIGHTS")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        M: int = 4
        N: int = 4
        N_CTX: int = 2
        CTX_INIT: Words = None  # a template, or a list of N; None is "a photo of a"
        DEPTH: int = 9
        BETA: float = 1.0
        BETA_FORM: str = "additive"
        LAMBDA: float = 0.1
        SINKHORN_TOL: float = 1e-4
        SINKHORN_MAX_ITER: int = 100
        COUPLING: str = "project"
        FORM: str = "paper"
        REGULARIZERS: list[str] = field(default_factory=list)  # kg, scl_text, scl_image, scl_logits
        REGULARIZER_WEIGHTS: list[float] = field(default_factory=list)  # empty: as published

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        if settings.FORM not in ("paper", "released"):
            raise UserError(f"FORM is '{settings.FORM}' but must be paper or released")
        if settings.FORM == "released":
            check_released(settings)
        words = "a photo of a" if settings.CTX_INIT is None else settings.CTX_INIT
        return PromptSpec(
            M=settings.M,
            N=settings.N,
            beta=settings.BETA,
            beta_form=settings.BETA_FORM,
            coupling=settings.COUPLING,
            score="ot" if settings.FORM == "paper" else "released",
            templates=expand_templates(
                words, settings.N, settings.N_CTX, settings.FORM != "released"
            ),
            sentence=fixed_sentence(words) if settings.M else None,
            text_length=settings.N_CTX,
            vision_length=settings.N_CTX,
            text_depth=settings.DEPTH,
            vision_depth=settings.DEPTH,
            reg=settings.LAMBDA,
            tol=settings.SINKHORN_TOL,
            max_iter=settings.SINKHORN_MAX_ITER,
        )

    def setup(self, clip_model, classnames, dataset):
        """Make the teachers of the chosen regularisers."""
        weights = weights_of(self.settings.REGULARIZERS, self.settings.REGULARIZER_WEIGHTS)
        self.regularizers = []
        if "kg" in weights:
            teacher = Teacher(clip_model, classnames, [template_of(KGCOOP, dataset)])
            self.regularizers.append(({"kg": weights.pop("kg")}, teacher))
        if weights:
            self.regularizers.append((weights, Teacher(clip_model, classnames, PROMPTSRC)))


def check_released(settings: ALIGN.Settings) -> None:
    """Raise UserError if a key has a value that the published code does not compute."""
    for key in ("BETA_FORM", "SINKHORN_TOL", "SINKHORN_MAX_ITER"):
        if getattr(settings, key) != ALIGN.defaults[key]:
            raise UserError(f"{key} has no effect with FORM released: leave it out")
    if settings.BETA not in (0, 1):
        raise UserError(
            f"BETA is {settings.BETA} but must be 0 or 1 with FORM released, which only switches "
            "the token level"
        )
