"""ALIGN: Tuning Multi-mode Token-level Prompt Alignment across Modalities (NeurIPS 2023)."""

import torch.nn.functional as F

from ..encoders.templates import KGCOOP, PROMPTSRC, template_of
from ..errors import UserError
from ..method import Method, register
from ..regularizers import regularize, weights_of
from ..spec import PromptSpec, expand_templates, fixed_sentence
from ..teacher import Teacher


@register
class ALIGN(Method):
    """M visual and N textual prompts, compared by transport between prompts and between tokens.

    Visual prompts are projections of the textual ones (as in MaPLe); an image is classified by
    the transport distance between its M views and the N descriptions of a class (Eq. 7), whose
    cost holds the transport distance between patches and words (Eq. 6). `FORM released` computes
    what the published code computes. Other methods are degenerate settings of M, N and BETA.
    REGULARIZERS adds terms of newer methods that keep prompts near to the untouched CLIP.
    """

    node = "ALIGN"
    checkpoint = "MultiModalPromptLearner"
    training_only = ("REGULARIZERS", "REGULARIZER_WEIGHTS")
    defaults = {
        "M": 4,
        "N": 4,
        "N_CTX": 2,
        "CTX_INIT": None,  # a template, or a list of N; None means "a photo of a"
        "DEPTH": 9,
        "BETA": 1.0,
        "BETA_FORM": "additive",
        "LAMBDA": 0.1,
        "SINKHORN_TOL": 1e-4,
        "SINKHORN_MAX_ITER": 100,
        "COUPLING": "project",
        "FORM": "paper",
        "REGULARIZERS": [],  # kg, scl_text, scl_image, scl_logits
        "REGULARIZER_WEIGHTS": [],  # one each; none: as published
        "PLAN": "sinkhorn",
        "PREC": "fp16",
    }

    @staticmethod
    def point(node) -> PromptSpec:
        if node.FORM not in ("paper", "released"):
            raise UserError(f"FORM is '{node.FORM}' but must be paper or released")
        words = "a photo of a" if node.CTX_INIT is None else node.CTX_INIT
        return PromptSpec(
            M=node.M,
            N=node.N,
            beta=node.BETA,
            beta_form=node.BETA_FORM,
            coupling=node.COUPLING,
            score="ot" if node.FORM == "paper" else "released",
            templates=expand_templates(words, node.N, node.N_CTX, node.FORM != "released"),
            sentence=fixed_sentence(words) if node.M else None,
            text_length=node.N_CTX,
            vision_length=node.N_CTX,
            text_depth=node.DEPTH,
            vision_depth=node.DEPTH,
            plan=node.PLAN,
            reg=node.LAMBDA,
            tol=node.SINKHORN_TOL,
            max_iter=node.SINKHORN_MAX_ITER,
        )

    def setup(self, clip_model, classnames, dataset):
        weights = weights_of(self.settings.REGULARIZERS, self.settings.REGULARIZER_WEIGHTS)
        kg = {name: weights.pop(name) for name in ("kg",) if name in weights}
        self.regularizers = [
            (kg, Teacher(clip_model, classnames, [template_of(KGCOOP, dataset)])),
            (weights, Teacher(clip_model, classnames, PROMPTSRC)),
        ]

    def loss(self, output, batch):
        terms = {"ce": F.cross_entropy(output.logits, batch.labels)}
        for weights, teacher in self.regularizers:
            terms |= regularize(weights, teacher, output, batch.images)
        return terms if len(terms) > 1 else terms["ce"]
