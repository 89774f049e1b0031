"""Export of a trained model: a program from images to logits, or a classifier of text features."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from .. import scores
from ..encoders.added import NOTHING, merge, without_updates
from ..encoders.text import TextFeatures
from ..errors import UserError
from ..model.parts import Parts
from ..model.prompted_clip import PromptedCLIP

TOLERANCE = 1e-4  # largest difference of logits
TRACED = 3  # images that a program is traced with; it takes any number


class Program(nn.Module):
    """A `PromptedCLIP` for inference: what does not depend on the images is stored as constants.

    The model must be in eval mode; the functions below also need float32.
    """

    h: torch.Tensor
    raw: torch.Tensor
    s: torch.Tensor | None
    logit_scale: torch.Tensor
    logit_bias: torch.Tensor | None

    def __init__(self, model: PromptedCLIP):
        super().__init__()
        self.spec = model.spec
        self.image_encoder = model.image_encoder
        added = model.parts.blocks("image")
        if any(here.weights for here in added.values()):
            self.image_encoder = deepcopy(self.image_encoder)
            merge(added, self.image_encoder.visual.transformer.resblocks)
        kind = type(model.parts)
        acts = kind.image is not Parts.image or kind.logits is not Parts.logits
        acts = acts or any(here != NOTHING for here in without_updates(added).values())
        self.parts = model.parts if acts else Parts()
        self.visual_depth = 0
        constants: dict[str, torch.Tensor | None] = {}
        if self.spec.image_conditional:  # text features depend on the image
            self.parts = model.parts
            self.prompt_learner, self.text_encoder = model.prompt_learner, model.text_encoder
        else:
            with torch.no_grad():
                vision = model.contexts().vision or []
                text = model.text_features()
            self.visual_depth, self.s_weights = len(vision), text.s_weights
            constants = {f"vision_{i}": context for i, context in enumerate(vision)}
            constants |= {"h": text.h, "raw": text.raw, "s": text.s}
        constants |= {"logit_scale": model.logit_scale, "logit_bias": model.logit_bias}
        for name, value in constants.items():
            self.register_buffer(name, value if value is None else value.detach().clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), float32, of normalised images (B, 3, H, W)."""
        vision = [getattr(self, f"vision_{i}") for i in range(self.visual_depth)]
        added = without_updates(self.parts.blocks("image"))
        image = self.parts.image(self.image_encoder(images, vision or None, added))
        if self.spec.image_conditional:
            contexts = self.parts.contexts(self.prompt_learner(image.z[:, 0].float()))
            added = self.parts.blocks("text")
            text = self.parts.text(self.text_encoder(contexts.text, contexts.inserted, added))
        else:
            text = TextFeatures(self.h, self.raw, self.s, self.s_weights)
        how = self.logit_scale, 0, self.parts.logits, self.logit_bias
        return scores.score(self.spec, image, text, *how)


def program(model: PromptedCLIP, size: int) -> torch.export.ExportedProgram:
    """Return a `torch.export` program, from images (B, 3, size, size) to logits (B, K)."""
    images = torch.randn(TRACED, 3, size, size, device=model.logit_scale.device)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(
            Program(model).eval(), (images,), dynamic_shapes=({0: batch},), strict=False
        )


@torch.no_grad()
def text_classifier(model: PromptedCLIP) -> Mapping[str, torch.Tensor]:
    """Return the text features as weights of a linear classifier on the CLIP's image features.

    Returns:
        `weight` (K, D), normalised; `logit_scale` (); `logit_bias` () where the CLIP has one. The
        logits of an image with normalised features z are logit_scale * weight z + logit_bias.

    Raises:
        UserError: the method's score is not an inner product with one feature per class, or the
            classifier gives other logits than the model.
    """
    if not is_linear(model):
        raise UserError(
            "The text features of this method are not a classifier: it has prompts in the image "
            "encoder, several features per class, or text features that depend on the image"
        )
    found = {"weight": model.text_features().h[0], "logit_scale": model.logit_scale}
    if model.logit_bias is not None:
        found["logit_bias"] = model.logit_bias
    found = {name: value.detach().float().contiguous() for name, value in found.items()}
    images = random_images(model)
    z = model.image_encoder(images).z[:, 0].float()
    logits = found["logit_scale"] * z @ found["weight"].T + found.get("logit_bias", 0)
    apart = float((logits - model(images)).abs().max())
    if not apart <= TOLERANCE:
        raise UserError(
            "The text features of this method are not a classifier: logits computed from them are "
            f"off by {apart:.1e}, because its Parts change more than the text. Nothing is written: "
            "export a .pt2 or .onnx instead"
        )
    return found


def random_images(model: PromptedCLIP) -> torch.Tensor:
    """Return two images (2, 3, H, H), always the same, to compare logits on."""
    size = model.image_encoder.visual.input_resolution
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(model.logit_scale.device)


def is_linear(model: PromptedCLIP) -> bool:
    """Return True if a method, apart from its Parts, compares images with one feature per class."""
    spec = model.spec
    return spec.M == 0 and spec.score == "cosine" and not spec.image_conditional
