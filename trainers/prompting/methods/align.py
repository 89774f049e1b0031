"""ALIGN (Wang et al., NeurIPS 2023; arXiv:2309.13847).

Tuning Multi-mode Token-level Prompt Alignment across Modalities.

`prompted` has the prompts on either side; this file adds transport between prompts and, inside its
cost, between tokens. Equations: docs/methods.md, section 3.

Letters: B images, K classes, M visual and N textual prompts of b tokens in J blocks; z, h features
of an image and a class under each prompt, r, s of their patches and words; S similarities, T plans,
d token-level distances.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from ..capabilities.biased import Biased
from ..checkpoint.public import Public
from ..encoders.class_text import zero_shot_template
from ..encoders.sentences import expand_templates, fixed_sentence
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..node import From0, NotNegative, Words
from ..prompts import size_of
from ..registry import register
from ..transport.solver import Sinkhorn, sinkhorn
from ..transport.token_level import TokenProblems, token_distances
from .prompted import Point, Prompted, Transported


@register
class ALIGN(Biased, Prompted):
    """M visual and N textual prompts, compared by transport between prompts and between tokens.

    Visual prompts are projections of the textual ones (as in MaPLe). An image is classified by the
    transport distance between its M prompted views and the N prompts of a class (Eq. 4). The cost
    of this transport contains the transport distance between patches and words (Eq. 6).
    docs/methods.md, section 5, says how prompts start. What the published code computes is the
    method MMP.
    """

    node = "ALIGN"
    public = Public(folder="MultiModalPromptLearner")
    single = False
    several = "decides"

    @dataclass(frozen=True)
    class Settings(Transported):
        """The keys of the node, without those of the solver."""

        M: From0 = 4
        N: From0 = 4
        N_CTX: int = 2
        CTX_INIT: Words = None  # a template, or a list of N; None is "a photo of a"
        DEPTH: int = 9
        BETA: NotNegative = 1.0
        BETA_FORM: Literal["additive", "convex"] = "additive"
        COUPLING: Literal["independent", "project", "unified"] = "project"

    settings: Settings
    largest_distance = 2.0  # a bound on what `token_level` returns
    text_size = vision_size = size_of("N_CTX", "DEPTH")

    @property
    def point(self):
        """M, N, BETA and the coupling, as in the paper's Table 1."""
        s = self.settings
        return Point(s.M, s.N, s.BETA, s.COUPLING if s.M and s.N else "none")

    @property
    def start(self) -> Words:
        """The words of the prompts."""
        words = self.settings.CTX_INIT
        return "a photo of a" if words is None else words

    def templates(self):
        """Return N templates: the first prompt starts from words, the others at random."""
        return expand_templates(self.start, self.settings.N, self.settings.N_CTX)

    def fixed_template(self):
        """Return the template of the sentences if N is 0; without any prompt, the data set's."""
        s = self.settings
        return fixed_sentence(self.start) if s.M else zero_shot_template(s.dataset)

    def words(self, sentences):
        """Return the positions of the token-level features: no SOS, full stop and EOS."""
        if not self.point.beta:
            return None
        return [[range(sentence.start, sentence.end) for sentence in row] for row in sentences]

    def logits(self, image, text):
        """Return s (1 - d_jk), the transport distance between image j and class k (Eq. 4).

        1 - <T, C> = <T, S> for S = 1 - C and a plan of mass 1, with smaller rounding errors.
        """
        M, N, beta = self.point[:3]
        if M < 2 and N < 2 and not beta:  # T = 1
            return super().logits(image, text)
        s = self.settings
        S = torch.einsum("bmd,nkd->bkmn", image.z, text.h)
        if s.BETA_FORM == "convex":  # appendix, Eq. 1
            S = beta + (1 - beta) * S
        if beta:
            S = S - beta * self.token_level(image, text)  # Eq. 6
        spread = 2 + beta * self.largest_distance
        T = Sinkhorn(*s.solver, spread=spread)(1 - S.detach()).plan  # Eq. 4
        return self.logit_scale * (T * S).sum((-2, -1))

    def token_level(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return d = <T, C>, (B, K, M, N), with C[p, l] = 1 - cos(r[p], s[l]) (Eq. 5)."""
        return token_distances(self.token_problems(image, text))

    def token_plan(self, C: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the plan of token-level costs C (..., P, L) with the weights b (..., L) of words.

        For pictures: an evaluation needs only distances.
        """
        return sinkhorn(C, None, b, *self.settings.solver).plan

    def token_problems(self, image: ImageFeatures, text: TextFeatures) -> TokenProblems:
        """Return the token-level transport problems of a batch."""
        how = *self.settings.solver, self.chunk_bytes
        return TokenProblems(image.r, text.s, text.s_weights, *how)  # type: ignore[arg-type]
