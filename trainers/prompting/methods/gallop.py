"""GalLoP (Lafon et al., ECCV 2024; arXiv:2407.01400).

GalLoP: Learning Global and Local Prompts for Vision-Language Models.

Letters: M global and N local prompts; features z of an image, r of its P patches, h of K classes
under all M + N prompts; G = z . h and R = r . h are cosines.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from ..method import Method, register
from ..model.learner import Contexts, word_embeddings
from ..model.parts import Parts
from ..scores import register_score
from ..spec import PromptSpec
from ..transport.precision import no_autocast


def global_cosines(z: torch.Tensor, h: torch.Tensor, M: int) -> torch.Tensor:
    """Return G (B, K, M) from z (B, 1, D) and h (M + N, K, D)."""
    return torch.einsum("bd,mkd->bkm", z[:, 0].float(), h[:M].float())


def local_cosines(r: torch.Tensor, h: torch.Tensor, M: int) -> torch.Tensor:
    """Return R (B, P, K, N) from r (B, 1, P, D) and h (M + N, K, D)."""
    return torch.einsum("bpd,nkd->bpkn", r[:, 0].float(), h[M:].float())


def of_top_patches(R: torch.Tensor, topk: list[int]) -> torch.Tensor:
    """Return T (B, K, N): the mean of the TOPK_n largest cosines over the patches, for prompt n."""
    top = R.topk(min(max(topk), R.shape[1]), dim=1).values
    return torch.stack([top[:, :count, :, n].mean(1) for n, count in enumerate(topk)], dim=-1)


@register_score("gallop")
def gallop(spec, image, text, chunk_bytes):
    """Return (mean_m G + mean_n T) / 2, (B, K), or mean_m G without USE_LOCAL_FEATURES."""
    M = spec.settings.N_GLOBAL_PROMPTS
    G = global_cosines(image.z, text.h, M)
    if not spec.settings.USE_LOCAL_FEATURES:
        return G.mean(-1)
    T = of_top_patches(local_cosines(image.r, text.h, M), spec.settings.topk)
    return (G.mean(-1) + T.mean(-1)) / 2


class GlobalLocal(Parts):
    """The global and local prompts, and a linear map of the patches that starts as the identity.

    Args:
        words: (b, W), embeddings from which every prompt starts.
        M, N: numbers of global and local prompts.
        visual: the `visual` module of the CLIP.
    """

    def __init__(self, words: torch.Tensor, M: int, N: int, visual: Any):
        super().__init__()
        self.global_prompt, self.local_prompts = (
            nn.Parameter(words.expand(count, *words.shape).clone()) for count in (M, N)
        )
        proj = getattr(visual, "proj", None)  # a ResNet's patches are already projected
        width = visual.output_dim if proj is None else len(proj)
        linear = nn.Linear(width, width, bias=False)
        nn.init.eye_(linear.weight)
        self.local_proj = nn.ModuleDict({"linear": linear})
        self._visual = [visual]  # in a list, so that it is not registered as a sub-module

    def contexts(self, contexts):
        """Return the contexts of all prompts, global ones first."""
        return Contexts([torch.cat([self.global_prompt, self.local_prompts])], contexts.vision)

    def image(self, features):
        """Set r to the patches of the value path, mapped, projected and normalised."""
        proj = getattr(self._visual[0], "proj", None)
        with no_autocast(features.values.device.type):
            r = self.local_proj["linear"](features.values.float())
            r = F.normalize(r if proj is None else r @ proj.float(), dim=-1)
        return features._replace(r=r, values=None)

    def cosines(self, image, text):
        """Return the cosines of images with global prompts, and of patches with local prompts."""
        M = len(self.global_prompt)
        G, R = global_cosines(image.z, text.h, M), local_cosines(image.r, text.h, M)
        return G.mean(-1), R.mean(-1)


@register
class GalLoP(Method):
    """Global prompts compared with the image, local ones with the patches that fit best.

    The similarity is the mean of both. L = CE(s G) + mean_n CE(s T_n), s the logit scale. For each
    image max(M - int(p M), 1) global prompts are drawn with replacement, p = GLOBAL_DROPOUT_P; with
    p = 0 each is used once (docs/adaptation.md).
    """

    node = "GALLOP"
    checkpoint = "gallop"
    public_files = ("*.ckpt",)
    training_only = ("GLOBAL_DROPOUT_P", "USE_GLOBAL_LOSS", "USE_LOCAL_LOSS")
    ignored = (
        "OOD_METHOD", "OOD_TEMP_SCALE", "PROMPTS_BATCH_SIZE", "CHECKPOINTING_SEGMENTS", "USE_FP16",
    )  # fmt: skip

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The arguments of the public code, in upper case, with the values of its scripts."""

        TEMPLATE: str = "A photo of a {}"  # the words before the class name are learned
        N_GLOBAL_PROMPTS: int = 4
        N_LOCAL_PROMPTS: int = 4
        TOPK: list[int] = field(default_factory=lambda: [5, 10, 15, 20])
        GLOBAL_DROPOUT_P: float = 0.75
        USE_LOCAL_FEATURES: bool = True  # in the score
        USE_GLOBAL_LOSS: bool = True
        USE_LOCAL_LOSS: bool = True
        LEARN_GLOBAL_PROMPT: bool = True
        LEARN_LOCAL_PROMPTS: bool = True
        LEARN_LOCAL_PROJ: bool = True

        @property
        def topk(self) -> list[int]:
            """The number of patches for each local prompt."""
            return list(self.TOPK) * (self.N_LOCAL_PROMPTS if len(self.TOPK) == 1 else 1)

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        for key in ("N_GLOBAL_PROMPTS", "N_LOCAL_PROMPTS"):
            if getattr(settings, key) < 1:
                raise UserError(f"{key} is {getattr(settings, key)}: at least 1 is needed")
        if len(settings.topk) != settings.N_LOCAL_PROMPTS or min(settings.topk) < 1:
            raise UserError(
                f"TOPK is {list(settings.TOPK)} but must be one number of patches, or one for each "
                f"of the {settings.N_LOCAL_PROMPTS} local prompts, all 1 or more"
            )
        if not 0 <= settings.GLOBAL_DROPOUT_P <= 1:
            raise UserError(f"GLOBAL_DROPOUT_P is {settings.GLOBAL_DROPOUT_P}, not in [0, 1]")
        if not (settings.USE_GLOBAL_LOSS or settings.USE_LOCAL_LOSS):
            raise UserError("USE_GLOBAL_LOSS and USE_LOCAL_LOSS are False: set one to True")
        words = settings.TEMPLATE.partition("{}")[0].split()
        count = settings.N_GLOBAL_PROMPTS + settings.N_LOCAL_PROMPTS
        return PromptSpec(
            M=0,
            N=count,
            beta=0,
            score="gallop",
            templates=(settings.TEMPLATE,) * count,
            text_length=len(words),
            text_depth=1,
            own_contexts=True,
            values=True,
        )

    def read_public(self, files):
        """Return the `state_dict` of a .ckpt, after a check of its numbers of patches (topk)."""
        content = files["*.ckpt"]
        if not isinstance(content, dict) or "state_dict" not in content:
            raise UserError("The checkpoint has no 'state_dict' as GalLoP's public code writes it")
        topk = getattr(content.get("args"), "topk", self.settings.TOPK)
        if topk != list(self.settings.TOPK):
            raise UserError(
                f"The checkpoint was made with topk {topk}, but TRAINER.GALLOP.TOPK is "
                f"{list(self.settings.TOPK)}: evaluate it with the same"
            )
        return {"state_dict": content["state_dict"]}

    def write_public(self):
        """Return the content of a .ckpt, with the part that the public code reads."""
        return {"*.ckpt": {"state_dict": self.model.public_state_dict()}}

    def setup(self, clip_model, classnames, dataset):
        """Make the prompts and the map of the patches."""
        settings = self.settings
        words = word_embeddings(clip_model, settings.TEMPLATE.partition("{}")[0])
        counts = settings.N_GLOBAL_PROMPTS, settings.N_LOCAL_PROMPTS
        parts = GlobalLocal(words[: self.model.spec.text_length], *counts, clip_model.visual)
        parts.global_prompt.requires_grad_(settings.LEARN_GLOBAL_PROMPT)
        parts.local_prompts.requires_grad_(settings.LEARN_LOCAL_PROMPTS)
        parts.local_proj.requires_grad_(settings.LEARN_LOCAL_PROJ)
        self.model.parts = parts

    def loss(self, output, batch):
        """Return CE of the global prompts that were drawn, and the mean CE of the local ones."""
        settings, s, labels = self.settings, self.model.logit_scale, batch.labels
        M, p, (image, text) = settings.N_GLOBAL_PROMPTS, settings.GLOBAL_DROPOUT_P, output[1:]
        terms = {}
        if settings.USE_GLOBAL_LOSS:
            G = global_cosines(image.z, text.h, M)
            if p:
                drawn = torch.randint(M, (len(G), 1, max(M - int(p * M), 1)), device=G.device)
                G = G.gather(2, drawn.expand(-1, G.shape[1], -1))
            terms["global"] = F.cross_entropy(s * G.mean(-1), labels)
        if settings.USE_LOCAL_LOSS:
            T = of_top_patches(local_cosines(image.r, text.h, M), settings.topk)
            of_each = labels[:, None].expand(-1, T.shape[2])
            terms["local"] = F.cross_entropy(s * T, of_each)
        return terms
