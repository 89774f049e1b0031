"""MMP: the name of ALIGN in its authors' published code (NeurIPS 2023; arXiv:2309.13847).

Tuning Multi-mode Token-level Prompt Alignment across Modalities.

Letters as in `align`.
"""

from dataclasses import dataclass

import torch

from ..checkpoint.public import Public
from ..encoders.sentences import expand_templates
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..method import Method
from ..node import From0, Words
from ..prompts import size_of
from ..registry import register
from ..transport.released import sinkhorn_released
from ..transport.token_level import TokenProblems
from .prompted import Point, Prompted

LAMBDA = 0.1  # a constant of the published code


@register
class MMP(Prompted):
    """ALIGN in its released form, with the name and keys of the published node.

    It differs from the paper (docs/methods.md, section 3): prompts after the first have no fixed
    words, token-level features include SOS, the cost between prompts is 1 - cos plus a similarity
    of tokens, and the solver stops early. Visual prompts are projections of the textual ones at
    every depth, so the published code never reads `VISION_PROMPT_DEPTH`. `USECT` chooses another
    score there, which is not in the paper.
    """

    node = "MMP"
    public = Public(folder="MultiModalPromptLearner", ignored=("VISION_PROMPT_DEPTH", "USECT"))
    single = False

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 2
        CTX_INIT: Words = "a photo of a"  # several templates are separated by tabs
        TEXT_PROMPT_DEPTH: int = 9
        TEXT_PROMPT_NUMBER: From0 = 4
        VISION_PROMPT_NUMBER: From0 = 4
        HIERARCHICAL: bool = True

    settings: Settings

    text_size = vision_size = size_of("N_CTX", "TEXT_PROMPT_DEPTH")

    def _point(self) -> Point:
        s = self.settings
        M, N = s.VISION_PROMPT_NUMBER, s.TEXT_PROMPT_NUMBER
        return Point(M, N, float(s.HIERARCHICAL), "project" if M and N else "none")

    point = property(_point)

    def templates(self):
        """Return N templates: those of prompts that do not start from words have no fixed words."""
        s = self.settings
        return expand_templates(s.CTX_INIT, self.point.N, s.N_CTX, keep_fixed=False)

    def words(self, sentences):
        """Return the positions of the token-level features: from SOS to the end of prompt 1."""
        if not self.point.beta:
            return None
        return [[range(0, sentence.end) for sentence in sentences[0]] for _ in sentences]

    def token_problems(self, image: ImageFeatures, text: TextFeatures) -> TokenProblems:
        """Return the token-level transport problems of a batch."""
        tokens = image.r, text.s, text.s_weights
        return TokenProblems(*tokens, LAMBDA, chunk_bytes=self.chunk_bytes)  # type: ignore[arg-type]

    def token_plan(self, C: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the plan of token-level costs C; the solver stops for all M x N pairs together."""
        return sinkhorn_released(C, b=b, reg=LAMBDA, group_dims=2).plan

    def token_level(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return <T, 1 - C>, (B, K, M, N)."""
        problems = self.token_problems(image, text)
        return problems.solve(lambda C, b: (self.token_plan(C, b) * (1 - C)).sum((-2, -1)))

    def logits(self, image, text):
        """Return s <T, S>, with T the plan of the cost 1 - S + <T, 1 - C>.

        The solver stops for all images and classes together.
        """
        S = torch.einsum("bmd,nkd->bkmn", image.z, text.h)
        C = 1 - S
        if self.point.beta:
            C = C + self.token_level(image, text)
        T = sinkhorn_released(C, reg=LAMBDA).plan
        return self.logit_scale * (T * S).sum((-2, -1))
