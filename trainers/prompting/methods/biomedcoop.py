"""BiomedCoOp (Koleilat et al., CVPR 2025; arXiv:2411.15232).

Learning to Prompt for Biomedical Vision-Language Models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.class_text import ClassText
from ..encoders.sentences import OneTemplate
from ..encoders.templates import CLIP, ZERO_SHOT, template_of
from ..errors import need
from ..marks import FILE
from ..node import From1, NotNegative, Positive
from ..registry import register
from ..teacher import Teacher, read_sentences
from .coop import CoOp

WORDS = 4  # N_CTX with which the context starts from CTX_INIT, as in the public code


@register
class BiomedCoOp(CoOp):
    """CoOp's context, kept close to a language model's sentences, of which outliers are pruned.

    h^i_k is the feature of the i-th of n sentences about class k under the untouched CLIP, m_k the
    direction of their mean, and s the scale of the logits. Each step keeps the sentences whose
    score is usual on the batch:

        a_i  = 1/B sum_j max_k s z_j . h^i_k,   kept: |a_i - mean a| <= TAU std a
        t_k  = n(mean over kept i of h^i_k)
        q_j  = softmax_k(s z_j . t_k),   p_j = softmax of the logits
        loss = CE + SCCM_LAMBDA 1/(K D) sum_kd (h_kd - m_kd)^2
                  + KDSP_LAMBDA 1/(B K) sum_jk q_jk log(q_jk / p_jk)

    q has no gradient. `SENTENCES` is a JSON file as of [CoPrompt](#coprompt); each class needs
    N_PROMPTS, and the first ones are read. `medical` is that of the published data sets' classes.
    Without a file, templates stand for sentences, which a note says: the data set's, then CLIP's
    80. Only training reads them.

    **Published.** N_CTX 4, CTX_INIT `a photo of a`, N_PROMPTS 50; batch 4, rate 0.0025, 100 epochs
    (base-to-new 50), on BiomedCLIP. SCCM_LAMBDA, KDSP_LAMBDA and TAU differ between data sets: the
    config files have them. With another N_CTX, the context starts at random.

    **Differences.** The public code trains with dropout inside BERT, since the whole model is in
    its training mode; encoders here never drop. It standardises scores by their median first, which
    changes nothing, but gives nan where most scores are equal; here these are kept.

    **Checkpoint.** `prompt_learner.ctx`. The rest of public files, the whole CLIP, is ignored.
    """

    node = "BIOMEDCOOP"
    public = Public(submodule="", dead=("ZS_image_encoder.", "image_encoder.", "text_encoder."))
    training_only = ("SCCM_LAMBDA", "KDSP_LAMBDA", "TAU", "N_PROMPTS", "SENTENCES")

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        """The keys of the node."""

        N_CTX: From1 = 4
        CTX_INIT: OneTemplate = "a photo of a"
        SCCM_LAMBDA: NotNegative = 1.0
        KDSP_LAMBDA: NotNegative = 1.0
        TAU: Positive = 1.5
        N_PROMPTS: int = 50
        SENTENCES: str | Mapping | None = None  # a JSON file

        def __post_init__(self) -> None:
            need(self.N_PROMPTS > 1, f"N_PROMPTS is {self.N_PROMPTS}: at least 2 are needed")

    settings: Settings

    @property
    def takes(self):
        """The marks: `medical` is of a language model, a file may be of anyone."""
        given = self.settings.SENTENCES
        return ("llm",) if given == "medical" else (FILE,) if given else ()

    @property
    def start(self):
        """The words from which the context starts, if N_CTX is their usual number."""
        return super().start if self.settings.N_CTX == WORDS else ""

    def build(self, clip_model, classnames, dataset):
        """Make the context, and the teacher, whose sentences are read in the first step."""
        super().build(clip_model, classnames, dataset)
        self.teacher = Teacher(clip_model, classnames, lambda: self.own_sentences(classnames))

    def own_sentences(self, classnames: list[str]) -> ClassText:
        """Return the first N_PROMPTS sentences about each class."""
        n, source = self.settings.N_PROMPTS, self.settings.SENTENCES
        if not source:
            first = template_of(ZERO_SHOT, self.settings.dataset)
            source = {"*": [*dict.fromkeys((first, *CLIP))]}
            print(f"Note: without SENTENCES, BiomedCoOp takes {n} templates, such as '{first}'")
        rows = read_sentences(source, classnames)
        need(
            len(rows) >= n,
            f"N_PROMPTS is {n} but there are {len(rows)} sentences for each class: lower it, or "
            "add SENTENCES",
        )
        return ClassText(rows[:n], classnames)

    def find_kept(self, a: torch.Tensor) -> torch.Tensor:
        """Return which sentences are kept, (n,), by their scores a (n,)."""
        return (a - a.mean()).abs() <= self.settings.TAU * a.std()

    def score_sentences(self, z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return the scores (n,) of sentences by features z (B, D) and h (n, K, D)."""
        return (self.logit_scale * torch.einsum("bd,nkd->nbk", z, h)).amax(-1).mean(-1)

    def loss(self, output, batch):
        """Return the cross-entropy and the distances from all and from the kept sentences."""
        s, z, h = self.settings, output.image.z[:, 0], output.text.h[0]
        each = self.teacher.h_each
        with torch.no_grad():
            weights = self.find_kept(self.score_sentences(z, each)).to(each.dtype)
            t = F.normalize(torch.einsum("n,nkd->kd", weights, each), dim=-1)
            q = (self.logit_scale * z @ t.T).log_softmax(1)
        p = output.logits.log_softmax(1)
        return {
            "ce": F.cross_entropy(output.logits, batch.labels),
            "sccm": s.SCCM_LAMBDA * F.mse_loss(h, F.normalize(each.mean(0), dim=-1)),
            "kdsp": s.KDSP_LAMBDA * F.kl_div(p, q, reduction="sum", log_target=True) / p.numel(),
        }
