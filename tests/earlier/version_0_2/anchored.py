"""AnchoredBias: a plug-in in the words of version 0.2, with trained parts and a score."""

import torch
import torch.nn.functional as F

from trainers.prompting import Method, PromptSpec, Teacher, register
from trainers.prompting.model import Parts
from trainers.prompting.scores import register_score


@register_score("mean_cosine")
def mean_cosine(spec, image, text, chunk_bytes):
    """Mean cosine of all pairs of prompts."""
    return torch.einsum("bmd,nkd->bk", image.z, text.h) / (image.z.shape[1] * len(text.h))


class Shift(Parts):
    """One trained vector that is added to every image feature."""

    prefix = "prompt_learner."

    def __init__(self, dim):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(dim))

    def image(self, features):
        return features._replace(z=F.normalize(features.z + self.shift, dim=-1))


@register
class AnchoredBias(Method):
    """L = CE + WEIGHT * (1 - mean_k cos(h_k, h0_k)), h0 from the untouched CLIP."""

    node = "ANCHORED"
    defaults = {"N_CTX": 4, "WEIGHT": 2.0, "PREC": "fp32"}

    @staticmethod
    def point(node):
        words = " ".join(["X"] * node.N_CTX)
        return PromptSpec(
            M=0, N=1, beta=0, score="mean_cosine", templates=(words,),
            text_length=node.N_CTX, text_depth=1,
        )  # fmt: skip

    def setup(self, clip_model, classnames, dataset):
        self.teacher = Teacher(clip_model, classnames, ["a drawing of a {}."])
        self.model.parts = Shift(clip_model.text_projection.shape[1])

    def loss(self, output, batch):
        apart = 1 - (output.text.h[0] * self.teacher.h).sum(-1).mean()
        ce = F.cross_entropy(output.logits, batch.labels)
        return {"ce": ce, "apart": self.settings.WEIGHT * apart}
