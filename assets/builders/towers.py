"""CLIP's two encoders for pre-training, fast on a CPU, and the losses.

The weights are those of OpenAI's class. The computation differs: batch first, fused attention,
bfloat16 under autocast, and any subset of the patches.
"""

import torch
import torch.nn.functional as F

SMOOTHING = 0.1
SOFT_MAX = 0.1  # temperature of the soft maximum, the regularisation of ALIGN's transport


def normalise(layer, x):
    """Apply a LayerNorm in bfloat16 (its statistics are float32); CLIP's own casts twice."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def run_block(block, x, causal):
    """Apply a residual block of OpenAI's class to (B, L, width), with fused attention."""
    batch, length, width = x.shape
    attn = block.attn
    qkv = F.linear(normalise(block.ln_1, x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.view(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + attn.out_proj(heads.transpose(1, 2).reshape(batch, length, width))
    hidden = block.mlp.c_fc(normalise(block.ln_2, x))
    return x + block.mlp.c_proj(F.silu(1.702 * hidden) / 1.702)  # QuickGELU in two fast steps


def encode_image(model, images, kept=None):
    """Return normalised states (B, 1 + P, D) of images (B, 3, H, W); the first is CLS.

    Args:
        model: of OpenAI's class.
        images: normalised as for CLIP.
        kept: (B, P') indices of the patches to use, as in FLIP (Li et al., 2023); None for all.
    """
    vision = model.visual
    x = vision.conv1(images).flatten(2).transpose(1, 2)
    position = vision.positional_embedding.to(x.dtype)
    x = x + position[1:]
    if kept is not None:
        x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
    cls = (vision.class_embedding.to(x.dtype) + position[:1]).expand(len(x), 1, -1)
    x = normalise(vision.ln_pre, torch.cat([cls, x], 1))
    for block in vision.transformer.resblocks:
        x = run_block(block, x, causal=False)
    return F.normalize((normalise(vision.ln_post, x) @ vision.proj).float(), dim=-1)


def encode_text(model, tokens, ends):
    """Return normalised states of captions (B, 77) whose EOS is at `ends` (B,).

    Returns:
        All states (B, L, D), cut to the longest caption, and the states of EOS (B, D).
    """
    tokens = tokens[:, : int(ends.max()) + 1]
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    if torch.is_autocast_enabled("cpu"):
        x = x.bfloat16()
    for block in model.transformer.resblocks:
        x = run_block(block, x, causal=True)
    x = F.normalize((normalise(model.ln_final, x) @ model.text_projection).float(), dim=-1)
    return x, x[torch.arange(len(x)), ends]


def word_mask(states, ends):
    """Return a mask (B, L) bool of the tokens between SOS and the final full stop."""
    position = torch.arange(states.shape[1])
    return (position >= 1) & (position <= ends[:, None] - 2)


def late_interaction(patches, words, mask):
    """Return token-level similarities (B, T) of patches (B, P, D) and words (T, L, D), mask (T, L).

    It is the mean of two scores: of each patch with its best words, and of each word with its best
    patches. "Best" is a softmax whose weights are constants in the backward pass; with a maximum
    instead, the score is FILIP's (arXiv 2111.07783, Eq. 4-5).
    """
    cos = torch.einsum("bpd,tld->btpl", patches, words)
    with torch.no_grad():
        kernel = torch.exp((cos - 1) / SOFT_MAX) * mask[:, None]
        count = mask.sum(1).view(-1, 1, 1)
        weight = kernel / kernel.sum(3, keepdim=True) / cos.shape[2]
        weight += kernel / kernel.sum(2, keepdim=True).clamp(min=1e-12) / count
    return (weight * cos).sum((2, 3)) / 2


def contrastive(similarity, truth, scale):
    """Return CLIP's symmetric loss of similarities (B, B), with label smoothing.

    All true pairs are positives.
    """

    def one_way(logits, truth):
        target = truth / truth.sum(1, keepdim=True)
        return F.cross_entropy(logits, target, label_smoothing=SMOOTHING)

    logits = scale * similarity
    return (one_way(logits, truth) + one_way(logits.T, truth.T)) / 2
