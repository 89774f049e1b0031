"""Full-size CLIPs with random weights, and class names."""

import math
from functools import cache, partial

import torch
from torch import nn

from trainers.prompting import OpenText, build_clip
from trainers.prompting.backbones.assemble import CLIP, Architecture, Sizes, image_encoder
from trainers.prompting.backbones.openai import OPENAI

ARGUMENTS = (
    "embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size",
    "context_length", "vocab_size", "transformer_width", "transformer_heads", "transformer_layers",
)  # fmt: skip
GEOMETRY = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
SIGLIP = {"SigLIP2-B/16": (768, 224, 12, 768, 16, 64, 256000, 768, 12, 12)}
BERT = {"BiomedCLIP": (512, 224, 12, 768, 16, 256, 49408, 768, 12, 12)}
WORDS = [
    "river", "forest", "highway", "pasture", "building", "church", "bridge", "tower", "garden",
    "lake", "desert", "street",
]  # fmt: skip


def untrained_clip(geometry: tuple):
    """Return a CLIP of a geometry: numbers in the order of ARGUMENTS."""
    if geometry in SIGLIP.values():
        return untrained_siglip(*geometry)
    if geometry in BERT.values():
        return untrained_biomedclip(*geometry)
    return build_clip(dict(zip(ARGUMENTS, geometry, strict=True)))


def untrained_siglip(
    embed_dim, resolution, vision_layers, vision_width, patch_size,
    context_length, vocab_size, width, heads, layers,
):  # fmt: skip
    """Return a SigLIP 2 with random weights; OpenAI's tokenizer stands for its own."""
    activation = partial(nn.GELU, approximate="tanh")
    vision, text = (
        Architecture(width, layers, heads, 4 * width, activation, 1e-6)
        for width, layers, heads in (
            (vision_width, vision_layers, vision_width // 64), (width, layers, heads),
        )
    )  # fmt: skip
    sizes = Sizes(embed_dim, resolution, patch_size, context_length, vocab_size)
    words = OPENAI.tokenizer._replace(sos=None, pad=0)
    family = OPENAI._replace(tokenizer=words, resize="squash", reads="last", causal=False)
    visual = image_encoder(vision, sizes, "attention")
    model = CLIP(visual, text, sizes, family, bias=True, text_bias=True).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.02)
    return model


def untrained_biomedclip(
    embed_dim, resolution, vision_layers, vision_width, patch_size,
    context_length, vocab_size, width, heads, layers,
):  # fmt: skip
    """Return a CLIP of a ViT and a BERT with random weights; OpenAI's words stand for its own."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * width,
        max_position_embeddings=context_length,
    )  # fmt: skip
    bert = transformers.BertModel(config, add_pooling_layer=False)
    hidden = (width + embed_dim) // 2
    first, last = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, embed_dim, bias=False)
    text = OpenText(bert, [first, nn.GELU(), last])
    vision = Architecture(
        vision_width, vision_layers, vision_width // 64, 4 * vision_width, nn.GELU, 1e-6
    )
    sizes = Sizes(embed_dim, resolution, patch_size, context_length, vocab_size)
    model = CLIP(image_encoder(vision, sizes), text, sizes, text.family(OPENAI), bias=False).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.02)
    return model


def reacting_clip():
    """Return a CLIP with random weights, always the same, whose features depend on its input.

    Widths are the constants of published codes (MaPLe: 512 for text, 768 for images).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip_model = untrained_clip((512, 64, 12, 768, 16, 77, 49408, 512, 8, 12))
    with torch.no_grad():
        clip_model.token_embedding.weight.mul_(20)
        clip_model.logit_scale.fill_(math.log(100))
    return clip_model


@cache
def weightless_clip(name: str):
    """Return an untrained CLIP by its name in GEOMETRY, on the meta device: it takes no memory."""
    with torch.device("meta"):
        return untrained_clip(GEOMETRY[name])


def class_names(count: int) -> list[str]:
    """Return distinct class names of one to three words, always the same for the same count."""
    names = []
    for i in range(count):
        words = [WORDS[i % 12], WORDS[i // 12 % 12], WORDS[i // 144 % 12]]
        names.append(" ".join(words[: 1 + i % 3]) if i < 12 else " ".join(words))
    return names
