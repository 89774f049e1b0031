"""A reference written like this family's public code, which calls the modules of OpenAI's CLIP.

It computes the numbers of `PromptedCLIP` from the same weights and prompts, without its
optimisations: every sentence has all 77 positions; the text is encoded again for each batch;
Python loops over images and classes solve one transport at a time and read the error from the
device in each iteration; autograd keeps every activation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from trainers.prompting.model.parts import Output
from trainers.prompting.spec import clean

from trainers.prompting import PromptedCLIP
from trainers.prompting.backbones.openai_clip import clip
from trainers.prompting.encoders.sentences import around_name
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures


class Naive(nn.Module):
    """Computes as `PromptedCLIP`, for textual prompts of equal length before the class name.

    Args:
        clip_model: the stock CLIP that `model` was made of.
        classnames: those of `model`.
        model: its prompt learner, parts and spec are used; the score of the spec must be `cosine`
            or the additive `ot`.
    """

    prompt_learner: Any
    ids: torch.Tensor
    eos: torch.Tensor

    def __init__(self, clip_model, classnames, model: PromptedCLIP):
        super().__init__()
        self.clip, self.spec = clip_model, model.spec
        self.prompt_learner, self.parts = model.prompt_learner, model.parts
        self.scale = model.logit_scale
        names = [clean(name) for name in classnames]
        sides = [around_name(words) for words in self.spec.templates]
        sentences = [[before + name + after for name in names] for before, after in sides]
        self.register_buffer("ids", torch.stack([clip.tokenize(row) for row in sentences]))
        self.register_buffer("eos", self.ids.argmax(-1))  # (N, K): EOS has the highest id

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K) of images (B, 3, H, W)."""
        return self.output(images).logits

    def output(self, images: torch.Tensor) -> Output:
        """Return the logits (B, K), and for the score `cosine` the features they come from."""
        contexts: Any = self.parts.contexts(self.prompt_learner())
        views = [None] if contexts.vision is None else list(zip(*contexts.vision, strict=True))
        texts = zip(self.ids, self.eos, zip(*contexts.text, strict=True), strict=True)
        r = torch.stack([self.encode_image(images, prompts) for prompts in views])
        s = torch.stack([self.encode_text(*text, contexts.inserted) for text in texts])
        with torch.autocast(images.device.type, enabled=False):
            if self.spec.score == "ot":
                logits = self.scale * self.transport(r.float(), s.float())
                return Output(logits, None, None)  # type: ignore[arg-type]
            image = self.parts.image(ImageFeatures(r[:, :, 0].float().transpose(0, 1), None))
            h = s[:, :, 0].float()
            text = self.parts.text(TextFeatures(h, h, None, None))
            return Output(self.scale * image.z[:, 0] @ text.h[0].T, image, text)

    def encode_image(self, images, prompts):
        """Return the states of images under one visual prompt, (b, width) for each depth.

        Returns:
            (B, 1 + P + b, D), or for `cosine` that of CLS, (B, 1, D).
        """
        visual = self.clip.visual
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
        x = x[:1] if self.spec.score == "cosine" else x
        return F.normalize(visual.ln_post(x.transpose(0, 1)) @ visual.proj, dim=-1)

    def encode_text(self, ids, eos, prompts, inserted):
        """Return the states of all sentences under one textual prompt, (b, W) for each depth.

        Args:
            ids: (K, 77), token ids of the sentences.
            eos: (K,), positions of EOS.
            prompts: (b, W) for each depth.
            inserted: (K, b, W), replaces the prompt at block `insert_block`; or None.

        Returns:
            (K, 77, D), or for `cosine` that of EOS, (K, 1, D).
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
            if inserted is not None and i == self.spec.insert_block:
                x = torch.cat([x[:1], inserted.transpose(0, 1).to(x.dtype), x[1 + b :]])
            x = block(x)
        x = self.clip.ln_final(x.transpose(0, 1))
        x = x[torch.arange(len(x)), eos][:, None] if self.spec.score == "cosine" else x
        return F.normalize(x @ self.clip.text_projection, dim=-1)

    def transport(self, r, s):
        """Return 1 - d_jk (Eq. 4-8), (B, K), computed for one image and one class at a time."""
        rows = []
        for j in range(r.shape[1]):
            row = []
            for k in range(s.shape[1]):
                end = int(self.eos[0, k])
                h, words = s[:, k, end], s[:, k, 1 : end - 1]
                C = 1 - r[:, j, 0] @ h.T
                if self.spec.token_level:
                    cost = 1 - torch.einsum("mpd,nld->mnpl", r[:, j, 1:], words)
                    T = self.plan(cost.detach())
                    C = C + self.spec.beta * (T * cost).sum((-2, -1))
                row.append(1 - (self.plan(C.detach()) * C).sum())
            rows.append(torch.stack(row))
        return torch.stack(rows)

    @torch.no_grad()
    def plan(self, C):
        """Return the plans (..., P, L) of one image and class, by Sinkhorn's iteration."""
        spec, (P, L) = self.spec, C.shape[-2:]
        K = torch.exp(-C / spec.reg)
        v = torch.ones_like(C[..., 0, :])
        for i in range(spec.max_iter):
            u = 1 / P / (K @ v[..., None]).squeeze(-1)
            columns = (K.mT @ u[..., None]).squeeze(-1)
            error = (v * columns - 1 / L).abs().sum(-1).max()
            if error.item() <= spec.tol or i + 1 == spec.max_iter:
                break
            v = 1 / L / columns
        return u[..., None] * K * v[..., None, :]
