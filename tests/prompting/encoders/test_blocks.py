"""The steps of CLIP's blocks: the hand-written derivative, and activations other than OpenAI's."""

import pytest
import torch
from torch import nn

from trainers.prompting import build_clip, build_method
from trainers.prompting.backbones.openai import clip
from trainers.prompting.encoders import blocks


def plain_mlp(x, up, up_bias, down, down_bias):
    hidden = nn.functional.linear(x, up, up_bias)
    return nn.functional.linear(hidden * torch.sigmoid(1.702 * hidden), down, down_bias)


def test_the_frozen_mlp_equals_clips():
    shapes = (2, 3, 4), (16, 4), (16,), (4, 16), (4,)
    x, *weights = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    x.requires_grad_(True)
    torch.testing.assert_close(blocks.FrozenMLP.apply(x, *weights), plain_mlp(x, *weights))
    assert torch.autograd.gradcheck(lambda x: blocks.FrozenMLP.apply(x, *weights), x)
    with torch.no_grad():
        torch.testing.assert_close(blocks.FrozenMLP.apply(x, *weights), plain_mlp(x, *weights))


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_another_activation_is_used(activation):
    model = build_clip(
        {
            "embed_dim": 32, "image_resolution": 32, "vision_layers": 2, "vision_width": 64,
            "vision_patch_size": 16, "context_length": 77, "vocab_size": 49408,
            "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 2,
        }
    )  # fmt: skip
    for tower in (model.transformer, model.visual.transformer):
        for block in tower.resblocks:
            block.mlp.gelu = activation()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images, clip.tokenize(["a photo of a cat.", "a photo of a dog."]))[0]
    prompted = build_method("ZeroshotCLIP", {}, model, ["cat", "dog"])
    assert torch.allclose(prompted(images), expected, rtol=1e-4, atol=1e-4)
