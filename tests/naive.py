"""A reference written like this family's public code, which calls the modules of OpenAI's CLIP.

It computes the numbers of a method from the same weights and prompts, without its optimisations:
every sentence has all 77 positions; the text is encoded again for each batch; Python loops over
images and classes solve one transport at a time and read the error from the device in each
iteration; autograd keeps every activation.
"""

from copy import copy

import torch
import torch.nn.functional as F
from torch import nn

from trainers.prompting.backbones.openai_clip import clip
from trainers.prompting.encoders.sentences import around_name
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures
from trainers.prompting.methods.prompted import Prompted
from trainers.prompting.node import clean


def naive(clip_model, classnames, method: Prompted) -> Prompted:
    """Return a method that computes the same, with encoders and transport that are not optimised.

    Args:
        clip_model: the stock CLIP that the method was made of.
        classnames: those of the method.
        method: shares its contexts. Its textual prompts stand before the class name. With a token
            level, or several prompts, it must be ALIGN with an additive beta.
    """
    M, N, beta, _ = method.point
    transports = beta > 0 or max(M, N) > 1
    text = Text(clip_model, classnames, method, every=transports)
    twin = copy(method)
    encoders = {"text_encoder": text, "image_encoder": Image(clip_model.visual, every=transports)}
    twin._modules = {**method._modules, **encoders}
    if transports:
        ends = text.eos[0].tolist()

        def logits(image, text):
            return method.logit_scale * transport(method, image, text, ends)

        twin.logits = logits  # type: ignore[method-assign]
    return twin


class Image(nn.Module):
    """Replaces `ImageEncoder`; with `every` it returns the features of all positions."""

    def __init__(self, visual, every: bool):
        super().__init__()
        self.visual, self.every = visual, every

    def check(self, images):
        """Accept all images."""

    def forward(self, images, contexts, added):
        """Return z (B, M, D), and r (B, M, P + b, D)."""
        views = zip(*contexts, strict=True) if contexts else [None]
        states = torch.stack([self.encode(images, prompts) for prompts in views], 1).float()
        return ImageFeatures(states[:, :, 0], states[:, :, 1:])

    def encode(self, images, prompts):
        """Return the features (B, positions, D) under one visual prompt, (b, V) for each depth."""
        visual = self.visual
        dtype = visual.conv1.weight.dtype
        x = visual.conv1(images.to(dtype)).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype)
        if prompts:
            x = torch.cat([x, prompts[0].to(x.dtype).expand(len(x), -1, -1)], 1)
        x = visual.ln_pre(x).transpose(0, 1)
        for i, block in enumerate(visual.transformer.resblocks):
            if prompts and 1 <= i < len(prompts):
                deep = prompts[i].to(x.dtype)
                x = torch.cat([x[: -len(deep)], deep[:, None].expand(-1, x.shape[1], -1)])
            x = block(x)
        x = x if self.every else x[:1]
        return F.normalize(visual.ln_post(x.transpose(0, 1)) @ visual.proj, dim=-1)


class Text(nn.Module):
    """Replaces `TextEncoder`; with `every` it returns the features of all 77 positions as s."""

    ids: torch.Tensor
    eos: torch.Tensor

    def __init__(self, clip_model, classnames, method: Prompted, every: bool):
        super().__init__()
        self.clip, self.every = clip_model, every
        self.insert_block = method.text_encoder.insert_block
        names = [clean(name) for name in classnames]
        sides = [around_name(words) for words in method.templates()]
        sentences = [[before + name + after for name in names] for before, after in sides]
        self.register_buffer("ids", torch.stack([clip.tokenize(row) for row in sentences]))
        self.register_buffer("eos", self.ids.argmax(-1))  # (N, K): EOS has the highest id

    def forward(self, contexts, inserted, added):
        """Return h and raw (N, K, D), and s (N, K, 77, D)."""
        texts = zip(self.ids, self.eos, zip(*contexts, strict=True), strict=True)
        states = torch.stack([self.encode(*text, inserted) for text in texts])
        s = F.normalize(states, dim=-1).float()
        if not self.every:
            return TextFeatures(s[:, :, 0], states[:, :, 0].float())
        n, k = torch.meshgrid(*map(torch.arange, self.eos.shape), indexing="ij")
        return TextFeatures(s[n, k, self.eos], states[n, k, self.eos].float(), s)

    def encode(self, ids, eos, prompts, inserted):
        """Return the projected states of all sentences under one textual prompt.

        Args:
            ids: (K, 77), token ids of the sentences.
            eos: (K,), positions of EOS.
            prompts: (b, W) for each depth.
            inserted: (K, b, W), replaces the prompt at block `insert_block`; or None.

        Returns:
            (K, positions, D).
        """
        dtype = self.clip.transformer.resblocks[0].attn.in_proj_weight.dtype
        b = len(prompts[0])
        words = self.clip.token_embedding(ids)
        x = torch.cat([words[:, :1], prompts[0].expand(len(ids), -1, -1), words[:, 1 + b :]], 1)
        x = (x + self.clip.positional_embedding).to(dtype).transpose(0, 1)
        for i, block in enumerate(self.clip.transformer.resblocks):
            if 1 <= i < len(prompts):
                deep = prompts[i].to(x.dtype)[:, None].expand(-1, len(ids), -1)
                x = torch.cat([x[:1], deep, x[1 + b :]])
            if inserted is not None and i == self.insert_block:
                x = torch.cat([x[:1], inserted.transpose(0, 1).to(x.dtype), x[1 + b :]])
            x = block(x)
        x = self.clip.ln_final(x.transpose(0, 1))
        x = x if self.every else x[torch.arange(len(x)), eos][:, None]
        return x @ self.clip.text_projection


def transport(method, image, text, ends):
    """Return 1 - d_jk (Eq. 4-6), (B, K), computed for one image and one class at a time.

    Args:
        method: ALIGN, for beta and the settings of the solver.
        image: z (B, M, D) and r (B, M, P + b, D).
        text: h (N, K, D) and s (N, K, 77, D).
        ends: the position of EOS in the sentence of each class.
    """
    rows, beta = [], method.point.beta
    for z, r in zip(image.z, image.r, strict=True):
        row = []
        for k, end in enumerate(ends):
            C = 1 - z @ text.h[:, k].T
            if beta:
                words = text.s[:, k, 1 : end - 1]
                cost = 1 - torch.einsum("mpd,nld->mnpl", r, words)
                T = plan(method.settings, cost.detach())
                C = C + beta * (T * cost).sum((-2, -1))
            row.append(1 - (plan(method.settings, C.detach()) * C).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@torch.no_grad()
def plan(s, C):
    """Return the plans (..., P, L) of one image and class, by Sinkhorn's iteration."""
    P, L = C.shape[-2:]
    K = torch.exp(-C / s.LAMBDA)
    v = torch.ones_like(C[..., 0, :])
    for i in range(s.SINKHORN_MAX_ITER):
        u = 1 / P / (K @ v[..., None]).squeeze(-1)
        columns = (K.mT @ u[..., None]).squeeze(-1)
        error = (v * columns - 1 / L).abs().sum(-1).max()
        if error.item() <= s.SINKHORN_TOL or i + 1 == s.SINKHORN_MAX_ITER:
            break
        v = 1 / L / columns
    return u[..., None] * K * v[..., None, :]
