"""PLOT++, PLOT for transformers in its authors' code (Chen et al., ICLR 2023; arXiv:2210.01253).

PLOT: Prompt Learning with Optimal Transport for Vision-Language Models.

Letters as in `align`; x and h are features of an image and a class before normalisation.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..backbones import family_of
from ..capabilities.staged import Stage, Staged
from ..checkpoint.public import Public
from ..encoders.sentences import SLOT, write_sentences
from ..encoders.templates import PLOTPP as WORDS
from ..encoders.templates import PLOTPP_DEFAULT
from ..errors import need
from ..method import Method
from ..node import From1
from ..prompts import Contexts, Size, normal, visual_width
from ..registry import register
from ..transport.released import sinkhorn_released
from .prompted import Point, Prompted

LAMBDA = 0.1  # a constant of the published code
HALVES = [Stage(("prompt_learner.ctx_vision",), 0.5), Stage(share=0.5)]
STAGES = {"stages": HALVES, "vision": HALVES[:1], "joint": HALVES[1:]}


class Shallow(nn.Module):
    """Contexts in front of the first block: ctx (N, n, W), ctx_vision (M, b, V)."""

    def __init__(self, ctx: torch.Tensor, ctx_vision: nn.Parameter):
        super().__init__()
        self.ctx, self.ctx_vision = nn.Parameter(ctx), ctx_vision

    def forward(self) -> Contexts:
        """Return the contexts of both encoders."""
        return Contexts([self.ctx], [self.ctx_vision])


@register
class PLOTPP(Staged, Prompted):
    """ALIGN's prompt level without its token level, with separate prompts in the first blocks.

    With S[m, n] = cos(x_j^m, h_k^n) and T the plan of the cost 1 - S (docs/methods.md, section 3):

        logits = s <T, S>,   with TRADE_OFF + s cos(mean_m x_j^m, mean_n h_k^n)

    Of two stages with half the steps each, the first trains the
    visual prompts, with that term, and the second all prompts, without it; MODEL_UPD `vision` or
    `joint` is a run of one of them, as in the public code.

    Each prompt starts from its own words for the data set. n is the number of words of the first,
    and learned tokens replace positions 1 to n in all. So prompts with more words keep one before
    the class name (EuroSAT), and one with fewer loses the first token of each class name: under
    ImageNet's third prompt, classes of one token look the same. This is the default, because
    checkpoints of the public code need it; with ALIGNED the class name follows the n learned tokens
    everywhere. The solver stops for all images and classes together, as in PLOT.
    """

    node = "PLOTPP"
    public = Public(ignored=("N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node, and ALIGNED; the public code has no MODEL_UPD `stages`."""

        N: Literal[1, 2, 3, 4] = 4
        M: From1 = 4
        N_CTX_V: int = 2
        TRADE_OFF: bool = False
        MODEL_UPD: Literal["stages", "vision", "joint"] = "stages"
        PRETRAIN_DIR: str = ""
        ALIGNED: bool = False

        def __post_init__(self) -> None:
            need(
                not self.PRETRAIN_DIR,
                f"PRETRAIN_DIR is '{self.PRETRAIN_DIR}': give it as MODEL.INIT_WEIGHTS",
            )

        @property
        def words(self) -> tuple[str, ...]:
            """The words of each textual prompt."""
            dataset = "ImageNet" if self.dataset.startswith("ImageNet") else self.dataset
            return WORDS.get(dataset, PLOTPP_DEFAULT)[: self.N]

    settings: Settings
    pooled: torch.Tensor

    @property
    def point(self) -> Point:
        """The point of the family: M and N prompts, beta N/A."""
        return Point(self.settings.M, self.settings.N, None, "independent")

    @property
    def text_size(self) -> Size:
        """As many tokens as the prompts have words, in front of the first block."""
        return Size(len(self.settings.words[0].split()), 1)

    @property
    def vision_size(self) -> Size:
        """N_CTX_V tokens in front of the first block."""
        return Size(self.settings.N_CTX_V, 1, ("N_CTX_V", "N_CTX_V"))

    def sentences(self, clip_model, classnames):
        """Return the sentences [n][k], with learned tokens at the positions 1 to n."""
        s, n = self.settings, self.text_size.b
        templates = (" ".join([SLOT] * n),) * s.N if s.ALIGNED else s.words
        rows = write_sentences(clip_model, templates, classnames)
        slots = {rows[0][0].start + j: j for j in range(n)}
        return [[sentence._replace(slots=slots) for sentence in row] for row in rows]

    def build(self, clip_model, classnames, dataset):
        """Make the contexts: words, which EOS follows where there are fewer, and random ones."""
        s, n, tokenizer = self.settings, self.text_size.b, family_of(clip_model).tokenizer
        ids = torch.tensor([[*tokenizer.encode(words), tokenizer.eos][:n] for words in s.words])
        words = clip_model.token_embedding.weight.detach()[ids].float()
        self.prompt_learner = Shallow(words, normal(s.M, s.N_CTX_V, visual_width(clip_model)))
        self.prompt_learner.ctx.requires_grad_(s.MODEL_UPD != "vision")
        self.register_buffer("pooled", torch.tensor(float(s.TRADE_OFF)))

    def stages(self):
        """Return the stages that are trained."""
        return STAGES[self.settings.MODEL_UPD]

    def begin_stage(self, stage):
        """Add the pooled term in the first of two stages."""
        first = stage == 0 and len(self.stages()) == 2
        self.pooled.fill_(self.settings.TRADE_OFF or first)

    def logits(self, image, text):
        """Return s <T, S>, and in some stages s cos(mean_m x, mean_n h)."""
        S = torch.einsum("bmd,nkd->bkmn", image.z, text.h)
        T = sinkhorn_released(1 - S, reg=LAMBDA).plan
        x = F.normalize(image.raw.float().mean(1), dim=-1)
        h = F.normalize(text.raw.mean(0), dim=-1)
        return self.logit_scale * ((T * S).sum((-2, -1)) + self.pooled * (x @ h.T))
