"""Other dual encoders of transformers than CLIP and SigLIP: open where they can be."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, in_short
from .assemble import CLIP, closed_clip
from .bert import OpenText, open_dual_text
from .closed import Closed, example_image, example_sentence, open_if_equal
from .family import Family
from .tokenizers import LOCAL, translate

MOST_WORDS = 77  # positions of a sentence, where a text encoder reads more


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


def read(transformers: Any, folder: Path, name: str) -> Any:
    """Return the dual encoder in a folder, with all its weights."""
    try:
        with torch.random.fork_rng(devices=[]):
            how = LOCAL | {"output_loading_info": True}
            model, info = transformers.AutoModel.from_pretrained(folder, **how)
    except Exception as error:  # of many types
        raise UserError(
            f"'{name}' cannot be loaded ({in_short(error)}): take another copy of its folder"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"'{folder}' has no weights for {missing[0]}: take another copy")
    return model.float().eval()


def as_clip(
    model: Any, image: nn.Module | None, tokenizer: Any, family: Family, size: int, name: str
) -> CLIP:
    """Return a dual encoder as a CLIP.

    `image` is its open image encoder, or None; `family` and `size` are those of the images.
    """
    words = translate(tokenizer, True, f"'{name}'")
    family = family._replace(tokenizer=words)
    closed_image, closed_text = Closed(_Side(model), size), Closed(_Side(model, words.eos))
    opened = open_dual_text(model)
    most = min(MOST_WORDS, int(getattr(tokenizer, "model_max_length", MOST_WORDS)))
    most = min(most, opened.length) if opened else most
    x, ids = example_image(size), example_sentence(words)
    bias = getattr(model, "logit_bias", None)
    with torch.no_grad():
        scale = float(
            model.logit_scale.exp() if hasattr(model, "logit_scale") else 1 / model.temperature
        )
        bias = None if bias is None else float(bias)
    z = closed_image.example(x)
    assert z is not None  # but on `meta`
    h = closed_text.example(example_sentence(words, most))
    side = open_if_equal(closed_image, image, x, z, f"image side of '{name}'")
    why = opened.unfit(words) if opened else ""
    text = open_if_equal(closed_text, opened, ids, h, f"text side of '{name}'", why)
    if isinstance(text, OpenText):
        family = text.family(family)
    return closed_clip(side, text, z.shape[1], family, most, scale, bias)
