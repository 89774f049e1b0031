"""Loads other dual encoders of transformers than CLIP and SigLIP: open where they can be."""

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, in_short
from .assemble import CLIP, closed_clip
from .bert import OpenText, open_dual_text
from .closed import Closed, example_image, example_sentence, open_if_equal
from .family import Family, Tokenizer
from .tokenizers import translate

MOST_WORDS = 77  # positions of a sentence, where a text encoder reads more
_NO_MARKS = str.maketrans("", "", string.punctuation)


class _Side(nn.Module):
    """One encoder of a model of transformers: from images, or ids up to `eos`, to features."""

    def __init__(self, model: Any, eos: int | None = None):
        super().__init__()
        self.model, self.eos = model, eos

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.eos is None:
            out = self.model.get_image_features(pixel_values=x)
        else:
            ends = (x == self.eos).long()
            mask = (ends.cumsum(1) == ends).long()  # up to the first end, as padding may be ends
            out = self.model.get_text_features(input_ids=x, attention_mask=mask)
        features: torch.Tensor = getattr(out, "pooler_output", out)
        return features


def load(
    transformers: Any,
    folder: Path,
    name: str,
    tokenizer: Any,
    images: Mapping,
    open_image: Callable[[Any, int], nn.Module | None],
) -> CLIP:
    """Load a dual encoder of transformers from a folder.

    `images` has `mean`, `std`, `interpolation`, `resize` and `size` of their preparation.
    `open_image` returns the open image encoder of a model with features of some width, or None.

    Raises:
        UserError: it is no dual encoder, or weights are missing or do not fit.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            model, info = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # of many types
        raise UserError(
            f"'{name}' cannot be loaded ({in_short(error)}): take another copy of its folder"
        ) from error
    parts = "get_image_features", "get_text_features"
    scaled = hasattr(model, "logit_scale") or hasattr(model, "temperature")
    if not (all(hasattr(model, part) for part in parts) and scaled):
        raise UserError(
            f"'{name}' is a {type(model).__name__}, which compares no images with sentences: "
            "choose a dual encoder, such as openai/clip-vit-base-patch16"
        )
    if info["missing_keys"]:
        raise UserError(
            f"'{folder}' has no weights for {sorted(info['missing_keys'])[0]} of "
            f"{type(model).__name__}: take another copy"
        )
    model = model.float().eval()
    words = translate(tokenizer, MOST_WORDS, True, f"'{name}'")
    scale = model.logit_scale.exp() if hasattr(model, "logit_scale") else 1 / model.temperature
    bias = getattr(model, "logit_bias", None)
    size, family = images["size"], Family(words, *(images[key] for key in Family._fields[1:5]))
    closed_image, closed_text = Closed(_Side(model), size), Closed(_Side(model, words.eos))
    opened = open_dual_text(model)
    most = min(MOST_WORDS, int(getattr(tokenizer, "model_max_length", MOST_WORDS)))
    most = min(most, opened.length) if opened else most
    x, ids = example_image(size), example_sentence(words)
    with torch.no_grad():
        scale = float(scale)
        z, h = closed_image(x), closed_text(example_sentence(words, most))
    width = z.shape[1]
    image = open_if_equal(closed_image, open_image(model, width), x, z, f"image side of '{name}'")
    why = opened.unfit(words) if opened else ""
    text = open_if_equal(closed_text, opened, ids, h, f"text side of '{name}'", why)
    if isinstance(text, OpenText):
        family = text.family(family)
    return closed_clip(
        image, text, width, family, most, scale, None if bias is None else float(bias)
    )


def siglip_tokenizer(tokenizer: Any, length: int, name: str) -> Tokenizer:
    """Return SigLIP's tokenizer, which removes marks and capitals; raises as `translated`."""
    return translate(_Canonical(tokenizer), length, True, f"'{name}'")


class _Canonical:
    """A tokenizer of transformers for text as in SigLIP's training."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def clean_fn(self, text: str) -> str:
        """Return a text in lower case and without marks."""
        return " ".join(text.translate(_NO_MARKS).lower().split())

    def __call__(self, texts: list[str], length: int) -> torch.Tensor:
        texts = [self.clean_fn(text) for text in texts]
        encoded = self.tokenizer(texts, padding="max_length", max_length=length)
        return torch.tensor(encoded.input_ids)
