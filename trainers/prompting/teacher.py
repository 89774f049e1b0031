"""The untouched CLIP beside a prompted one: what prompts are to stay near to."""

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F

from .encoders.text import encode_sentences
from .encoders.vision import ImageEncoder
from .spec import PromptSpec, clean


class Teacher:
    """Features and logits of a frozen CLIP without prompts, on the classes of a method.

    Nothing of it is trained or copied: it computes with the modules that the prompted encoders
    share, wherever these are and in the type they have. Features carry no gradient.

    Args:
        clip_model: what `load_clip` gives.
        classnames: K names.
        templates: sentences with `{}` for the class name. Features of several are averaged
            before they are normalised.
    """

    def __init__(self, clip_model, classnames: Sequence[str], templates: Sequence[str]):
        self.clip_model = clip_model
        self.classnames = [clean(name) for name in classnames]
        self.templates = tuple(templates)
        self._images = ImageEncoder(clip_model.visual, PromptSpec(M=0, N=0, beta=0, score="cosine"),
                                    patches=False)  # fmt: skip

    @cached_property
    def h(self) -> torch.Tensor:
        """h0, the normalised text features (K, D), float32; computed when first asked for."""
        features = [
            encode_sentences(self.clip_model, [template.format(name) for name in self.classnames])
            for template in self.templates
        ]
        return F.normalize(torch.stack(features).float().mean(0), dim=-1)

    @torch.no_grad()
    def z(self, images: torch.Tensor) -> torch.Tensor:
        """z0, the normalised features (B, D), float32, of images (B, 3, H, W).

        A method without visual prompts has them in its output already.
        """
        return self._images(images).z[:, 0].float()

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Zero-shot logits (B, K) of normalised image features (B, D)."""
        return self.clip_model.logit_scale.detach().exp().float() * z.detach().float() @ self.h.T
