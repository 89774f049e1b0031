"""GalLoP (Lafon et al., ECCV 2024; arXiv:2407.01400).

GalLoP: Learning Global and Local Prompts for Vision-Language Models.

Letters: M global and N local prompts; features z of an image, r of its P patches, h of K classes
under all M + N prompts; G = z . h and R = r . h are cosines.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.public import Public, PublicFiles
from ..checkpoint.saved import Saved
from ..encoders.sentences import AroundName, around_name, write_sentences
from ..encoders.text import TextEncoder, TextFeatures
from ..encoders.vision import ImageEncoder, ImageFeatures, project_values
from ..errors import UserError, need
from ..full_precision import no_autocast
from ..method import Method
from ..node import Fraction, From1
from ..prompts import Contexts, word_embeddings
from ..registry import register


@register
class GalLoP(PublicFiles, Method):
    """Global prompts compared with the image, local ones with the patches that fit best.

    M global and N local contexts of 4 tokens, all starting from `A photo of a`; the class name
    follows, without a full stop. Patches come from the value path of the last block, where each
    position attends only to itself: u = x + out_proj(v), out = u + MLP(LN2 u); then r_p =
    normalise(visual.proj^T L ln_post(out_p)), where L (W, W) is a learned map that starts as the
    identity. For a ResNet, patches are the values of its attention pool, and L is D x D. With G = z
    . g_m, R_p = r_p . l_n and T_n the mean of the TOPK_n largest R over the patches:

        logits = s (mean_m G + mean_n T) / 2
        L      = CE(s mean_m G) + mean_n CE(s T_n)

    For each image max(M - int(p M), 1) global prompts are drawn with replacement, p =
    GLOBAL_DROPOUT_P, and only these count in the first term. With p = 0 each counts once (the
    public code draws even then). For detection (`TEST.OOD`), MCM uses mean_m G, and its local term
    mean_n R over all patches.

    **Published.** SGD, rate 0.002, weight decay 0.01, no warm-up, batch 32 (ImageNet and SUN397:
    128; EuroSAT: 10), 200 epochs (ImageNet: 50), amp. There are no settings for base-to-new and
    transfer: the configs use those of few-shot.

    **Checkpoint.** `global_prompt`, `local_prompts`, `local_proj.linear.weight`. Of the public
    code: `gallop_<dataset>_vit_b16_seed<seed>.ckpt`.

    **Differences.** In the public code, "16 shots" are 16 K images drawn by class frequency; here
    16 of each class. It keeps `_` in class names.
    """

    node = "GALLOP"
    public = Public(
        folder="gallop",
        ignored=(
            "OOD_METHOD", "OOD_TEMP_SCALE", "PROMPTS_BATCH_SIZE", "CHECKPOINTING_SEGMENTS",
            "USE_FP16",
        ),
    )  # fmt: skip
    public_files = ("*.ckpt",)
    training_only = ("GLOBAL_DROPOUT_P", "USE_GLOBAL_LOSS", "USE_LOCAL_LOSS")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The arguments of the public code, in upper case, with the values of its scripts."""

        TEMPLATE: AroundName = "A photo of a {}"  # the words before the class name are learned
        N_GLOBAL_PROMPTS: From1 = 4
        N_LOCAL_PROMPTS: From1 = 4
        TOPK: list[int] = field(default_factory=lambda: [5, 10, 15, 20])
        GLOBAL_DROPOUT_P: Fraction = 0.75
        USE_LOCAL_FEATURES: bool = True  # in the score
        USE_GLOBAL_LOSS: bool = True
        USE_LOCAL_LOSS: bool = True
        LEARN_GLOBAL_PROMPT: bool = True
        LEARN_LOCAL_PROMPTS: bool = True
        LEARN_LOCAL_PROJ: bool = True

        def __post_init__(self) -> None:
            counts = len(self.TOPK) in (1, self.N_LOCAL_PROMPTS)
            need(
                counts and min(self.TOPK) >= 1,
                f"TOPK is {list(self.TOPK)} but must be one number of patches, or one for each of "
                f"the {self.N_LOCAL_PROMPTS} local prompts, all 1 or more",
            )

        @property
        def topk(self) -> list[int]:
            """The number of patches for each local prompt."""
            return list(self.TOPK) * (self.N_LOCAL_PROMPTS if len(self.TOPK) == 1 else 1)

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; all words before the class name are learned."""
        s = self.settings
        self.words = word_embeddings(clip_model, around_name(s.TEMPLATE)[0])
        templates = [s.TEMPLATE] * (s.N_GLOBAL_PROMPTS + s.N_LOCAL_PROMPTS)
        sentences = write_sentences(clip_model, templates, classnames, len(self.words))
        return (TextEncoder(clip_model, sentences), ImageEncoder(clip_model.visual, values=True))

    def build(self, clip_model, classnames, dataset):
        """Make the prompts, and a linear map of the patches that starts as the identity."""
        s, words = self.settings, self.words
        self.global_prompt, self.local_prompts = (
            nn.Parameter(words.expand(count, *words.shape).clone(), learned)
            for count, learned in (
                (s.N_GLOBAL_PROMPTS, s.LEARN_GLOBAL_PROMPT),
                (s.N_LOCAL_PROMPTS, s.LEARN_LOCAL_PROMPTS),
            )
        )
        post = getattr(clip_model.visual, "ln_post", None)  # a ResNet's patches are projected
        width = self.width if post is None else len(post.weight)
        linear = nn.Linear(width, width, bias=False).requires_grad_(s.LEARN_LOCAL_PROJ)
        nn.init.eye_(linear.weight)
        self.local_proj = nn.ModuleDict({"linear": linear})

    def contexts(self):
        """Return the contexts of all prompts, global ones first."""
        return Contexts([torch.cat([self.global_prompt, self.local_prompts])])

    def image_features(self, images, contexts):
        """Return z, and as r the patches of the value path, mapped and projected."""
        features = super().image_features(images, contexts)
        visual, values = self.image_encoder.visual, features.values
        r = project_values(visual, values, self.local_proj["linear"])  # type: ignore[arg-type]
        return features._replace(r=r, values=None)

    def global_cosines(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return G (B, K, M)."""
        h = text.h[: len(self.global_prompt)].float()
        return torch.einsum("bd,mkd->bkm", image.z[:, 0].float(), h)

    def local_cosines(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return R (B, P, K, N)."""
        assert image.r is not None, "the encoder returns patches"
        h = text.h[len(self.global_prompt) :].float()
        return torch.einsum("bpd,nkd->bpkn", image.r[:, 0].float(), h)

    def of_top_patches(self, R: torch.Tensor) -> torch.Tensor:
        """Return T (B, K, N): the mean of the TOPK_n largest of R over patches, for prompt n."""
        topk = self.settings.topk
        top = R.topk(min(max(topk), R.shape[1]), dim=1).values
        return torch.stack([top[:, :count, :, n].mean(1) for n, count in enumerate(topk)], dim=-1)

    def local_scores(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return T (B, K, N)."""
        return self.of_top_patches(self.local_cosines(image, text))

    def logits(self, image, text):
        """Return s (mean_m G + mean_n T) / 2, (B, K), or s mean_m G without USE_LOCAL_FEATURES."""
        G = self.global_cosines(image, text).mean(-1)
        if not self.settings.USE_LOCAL_FEATURES:
            return self.logit_scale * G
        return self.logit_scale * (G + self.local_scores(image, text).mean(-1)) / 2

    def cosines(self, image, text):
        """Return the cosines of images with global prompts, and of patches with local prompts."""
        G, R = self.global_cosines(image, text), self.local_cosines(image, text)
        return G.mean(-1), R.mean(-1)

    def read_public(self, files):
        """Return the `state_dict` of a .ckpt, after a check of its numbers of patches (topk).

        It lacks what was not learned.
        """
        content = files["*.ckpt"]
        topk = getattr(content.get("args"), "topk", self.settings.TOPK)
        if topk != list(self.settings.TOPK):
            raise UserError(
                f"The checkpoint was made with topk {topk}, but {self.place('TOPK')} is "
                f"{list(self.settings.TOPK)}: evaluate it with the same"
            )
        own = self.public_parameters().items()
        fixed = {key: p.detach() for key, p in own if not p.requires_grad}
        return Saved(state_dict=fixed | content["state_dict"])

    def write_public(self):
        """Return the content of a .ckpt, with the part that the public code reads."""
        return {"*.ckpt": {"state_dict": self.public_state_dict()}}

    def loss(self, output, batch):
        """Return CE of the global prompts that were drawn, and the mean CE of the local ones."""
        with no_autocast(output.logits.device.type):
            settings, s, labels = self.settings, self.logit_scale, batch.labels
            p, (image, text) = settings.GLOBAL_DROPOUT_P, output[1:]
            terms = {}
            if settings.USE_GLOBAL_LOSS:
                G = self.global_cosines(image, text)
                if p:
                    M = G.shape[-1]
                    drawn = torch.randint(M, (len(G), 1, max(M - int(p * M), 1)), device=G.device)
                    G = G.gather(2, drawn.expand(-1, G.shape[1], -1))
                terms["global"] = F.cross_entropy(s * G.mean(-1), labels)
            if settings.USE_LOCAL_LOSS:
                T = self.local_scores(image, text)
                of_each = labels[:, None].expand(-1, T.shape[2])
                terms["local"] = F.cross_entropy(s * T, of_each)
            return terms
