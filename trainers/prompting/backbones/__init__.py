"""The CLIPs that can be prompted, one file a family.

A family's file has `load(name)`, which returns a model with the modules of OpenAI's class under
their names, whatever it was stored as: `visual` (`conv1`, `class_embedding`,
`positional_embedding`, `ln_pre`, `transformer`, `ln_post`, `proj`, `input_resolution`),
`token_embedding`, `positional_embedding`, `transformer`, `ln_final`, `text_projection`,
`logit_scale`, `context_length`. A `transformer` has `resblocks` of `ln_1`, `attn`, `ln_2` and
`mlp` (`c_fc`, `gelu`, `c_proj`); `gelu` may be any activation. What the modules do not say is in a
`Family`, set as the model's `family`; a model without one is taken for OpenAI's. A family refuses
what does not fit, with its reason.
"""

from . import openai
from .family import Family
from .openai import build_clip

__all__ = ["Family", "build_clip", "family_of", "load_clip"]


def load_clip(name: str):
    """Load a CLIP in float32 on the CPU, in eval mode.

    Args:
        name: a name of the OpenAI release (`ViT-B/16`, `RN50`, ...), `emoji` (the embedded
            model), or a file: a checkpoint of the OpenAI release (TorchScript archive, or its
            state dict) or a safetensors state dict with the constructor's arguments as JSON under
            `arch` in its metadata.

    Raises:
        UserError: the name is unknown, the file is not known to fit, or the download failed.
    """
    return openai.load(name)


def family_of(clip_model) -> Family:
    """The family of a loaded CLIP, or of one that was built by hand from OpenAI's class."""
    return getattr(clip_model, "family", openai.OPENAI)
