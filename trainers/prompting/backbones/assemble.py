"""A CLIP of the modules of OpenAI's class, from the state dict of another library.

What the weights do not say is in a `Tower` for each side. Names and shapes must agree to the last
one: a part that CLIP does not have is never left out.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from ..errors import UserError
from .family import Family
from .openai_clip import model as openai_model

FIRST = 3  # names that an error lists


class Tower(NamedTuple):
    """One transformer of a CLIP.

    width, layers, heads: of its blocks; hidden: width inside of an MLP; activation: makes the one
    of the MLPs; eps: of the LayerNorms.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    activation: Callable[[], nn.Module]
    eps: float = 1e-5


class Sizes(NamedTuple):
    """What is outside of the transformers.

    embed_dim: D of the features; resolution: of the square images; patch_size: in pixels;
    context_length: tokens that the text encoder reads; vocab_size: tokens that there are.
    """

    embed_dim: int
    resolution: int
    patch_size: int
    context_length: int
    vocab_size: int


class CLIP(nn.Module):
    """The parts of a CLIP that `backbones` lists, without a forward pass of their own."""

    def __init__(self, visual: nn.Module, text: Tower, sizes: Sizes, family: Family, bias: bool):
        super().__init__()
        self.visual = visual
        self.transformer = openai_model.Transformer(text.width, text.layers, text.heads)
        self.token_embedding = nn.Embedding(sizes.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context_length, text.width))
        self.ln_final = openai_model.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, sizes.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        if bias:
            self.logit_bias = nn.Parameter(torch.empty(()))
        self.context_length = sizes.context_length
        self.family = family
        finish(self.transformer, text)
        self.ln_final.eps = text.eps


def vision_transformer(vision: Tower, sizes: Sizes) -> nn.Module:
    """OpenAI's image encoder in the shape of a tower."""
    visual = openai_model.VisionTransformer(
        sizes.resolution,
        sizes.patch_size,
        vision.width,
        vision.layers,
        vision.heads,
        sizes.embed_dim,
    )
    finish(visual, vision)
    return visual


def finish(module: nn.Module, tower: Tower) -> None:
    """Give the blocks and LayerNorms in a module what OpenAI's class has fixed."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = tower.eps
        elif isinstance(part, openai_model.ResidualAttentionBlock):
            layers = {
                "c_fc": nn.Linear(tower.width, tower.hidden),
                "gelu": tower.activation(),
                "c_proj": nn.Linear(tower.hidden, tower.width),
            }
            part.mlp = nn.Sequential(OrderedDict(layers))


def assemble(
    state: Mapping[str, torch.Tensor],
    make_visual: Callable[[], nn.Module],
    text: Tower,
    sizes: Sizes,
    family: Family,
    source: str,
    arch: str,
) -> CLIP:
    """The CLIP with these weights, float32, in eval mode.

    Args:
        state: under the names of OpenAI's class; `logit_bias` may be among them.
        make_visual: makes the image encoder.
        text, sizes, family: what the weights do not say.
        source, arch: where the weights are from and whose shape they should have, for the message.

    Raises:
        UserError: names or shapes do not agree.
    """
    with torch.device("meta"):  # nothing is drawn by chance, and no memory taken twice
        built = CLIP(make_visual(), text, sizes, family, bias="logit_bias" in state)
    weights = {name: value.float() for name, value in state.items()}
    for name in {"logit_scale", "logit_bias"} & weights.keys():
        weights[name] = weights[name].reshape(())  # some files have one number in a row
    own = built.state_dict()
    odd = [f"no {name}" for name in own if name not in weights]
    odd += [f"{name}, which CLIP lacks" for name in weights if name not in own]
    odd += [
        f"{name} of shape {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if odd:
        more = f" and {len(odd) - FIRST} more" if len(odd) > FIRST else ""
        raise UserError(
            f"{source} holds no weights of {arch} that prompts fit into (it has "
            f"{'; '.join(odd[:FIRST])}{more}): check that the weights belong to this architecture"
        )
    built.load_state_dict(weights, assign=True)
    return built.float().eval()
