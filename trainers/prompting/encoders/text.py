"""The prompted text encoder.

Causality gives two exact savings. Nothing after EOS can matter, so only the real positions are
computed; and the positions before the class name are the same for all classes of a prompt, so
their keys and values are computed once per prompt (the prefix) and shared by the rest of the
sentences (the suffixes), which are packed without padding.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..backbones.openai import clip
from ..errors import UserError
from ..memory import Footprint
from ..spec import PromptSpec, clean
from . import blocks
from .templates import zero_shot_template

CSC_SLOT = -1  # marks a slot that differs between classes


class TextFeatures(NamedTuple):
    """Text side of the scores; all features are L2-normalised.

    h: (N, K, D) prompt-level features; raw: (N, K, D) the same before normalisation;
    s: (N, K, L, D) token-level features, zero where padded, or None; s_mass: (N, K, L) weights
    that sum to 1 over the real tokens, or None; shared: how many of the L tokens, the first, are
    the same for all classes.
    """

    h: torch.Tensor
    raw: torch.Tensor
    s: torch.Tensor | None
    s_mass: torch.Tensor | None
    shared: int = 0


class Sentence(NamedTuple):
    """Token ids up to EOS (and beyond, where a score asks for it), and the slots of the context."""

    ids: list[int]
    slots: dict[int, int]  # position -> index of the learnable token
    eos: int


def tokenize(text: str, context_length: int, classname: str) -> list[int]:
    """CLIP's token ids from SOS to EOS.

    Raises:
        UserError: the sentence does not fit into the encoder's context.
    """
    tokenizer = clip.clip._tokenizer
    ids = [tokenizer.encoder["<|startoftext|>"], *tokenizer.encode(text)]
    ids.append(tokenizer.encoder["<|endoftext|>"])
    if len(ids) > context_length:
        raise UserError(
            f"The class name '{classname}' is too long: '{text}' has {len(ids)} tokens but the "
            f"text encoder reads {context_length}; shorten the name or the context"
        )
    return ids


def build_sentence(template: str, name: str, spec: PromptSpec, context_length: int) -> Sentence:
    """The sentence of one prompt and class: `{template} {name}.`, with its slots in place."""
    if not name:
        raise UserError("A class name is empty: give every class a name")
    b = spec.text_length
    ids = tokenize(f"{template} {name}.", context_length, name)
    head = clip.clip._tokenizer.encode(template)
    if len(head) < b:
        raise UserError(
            f"CTX_INIT '{template}' has {len(head)} tokens but N_CTX is {b}: lengthen the template "
            "or lower N_CTX"
        )
    if spec.class_position == "end":
        return Sentence(ids, {1 + j: j for j in range(b)}, len(ids) - 1)
    # the class name moves into or before the context (CoOp, section 3.1)
    name_ids = ids[1 + b : 1 + b + len(clip.clip._tokenizer.encode(name))]
    rest = ids[1 + b + len(name_ids) :]
    before = b // 2 if spec.class_position == "middle" else 0
    after = before + len(name_ids)
    moved = [ids[0], *ids[1 : 1 + before], *name_ids, *ids[1 + before : 1 + b], *rest]
    slots = {1 + j if j < before else 1 + j + after - before: j for j in range(b)}
    return Sentence(moved, slots, len(ids) - 1)


class TextEncoder(nn.Module):
    """CLIP's text encoder for K classes under N prompts.

    Args:
        clip_model: a stock `clip.model.CLIP`; its modules are used, not copied.
        classnames: K names; `_` reads as a space.
        spec: the method; `templates`, or `sentence` when N = 0, make the sentences.
        dataset: selects the hand-written sentence when the spec has none.

    Raises:
        UserError: a class name does not fit, or the prompt depth exceeds the encoder's.
    """

    def __init__(self, clip_model, classnames, spec: PromptSpec, dataset=""):
        super().__init__()
        self.token_embedding = clip_model.token_embedding
        self.transformer = clip_model.transformer
        self.ln_final = clip_model.ln_final
        self.positional_embedding = clip_model.positional_embedding
        self.text_projection = clip_model.text_projection
        self.spec = spec
        self.recompute = False  # the blocks' activations in the backward pass
        layers = len(self.transformer.resblocks)
        if spec.N and spec.text_depth > layers:
            raise UserError(
                f"The text prompt depth is {spec.text_depth} but the text encoder of this backbone "
                f"has {layers} blocks: lower DEPTH"
            )
        self.sentences = self._sentences(classnames, dataset, clip_model.context_length)
        self._lay_out(self.sentences)

    # ------------------------------------------------------------------ layout

    def _sentences(self, classnames, dataset, context_length) -> list[list[Sentence]]:
        """All sentences, [N or 1][K]."""
        spec = self.spec
        names = [clean(name) for name in classnames]
        if spec.N:
            return [
                [build_sentence(template, name, spec, context_length) for name in names]
                for template in spec.templates
            ]
        sentence = spec.sentence or zero_shot_template(dataset)
        rows = [tokenize(sentence.format(name), context_length, name) for name in names]
        return [[Sentence(ids, {}, len(ids) - 1) for ids in rows]]

    def _token_span(self, sentences: list[list[Sentence]], n: int, k: int) -> range:
        """Positions whose states are the token-level features of prompt n and class k."""
        if self.spec.score == "released":  # SOS is in, and the end is that of the first prompt
            return range(0, sentences[0][k].eos - 1)
        return range(1, sentences[n][k].eos - 1)  # neither SOS, nor the full stop, nor EOS

    def _lay_out(self, sentences: list[list[Sentence]]):
        spec, N, K = self.spec, len(sentences), len(sentences[0])
        spans = [[self._token_span(sentences, n, k) for k in range(K)] for n in range(N)]
        if spec.token_level:
            # the released form may look past EOS of a shorter prompt: those positions are real
            pads = max(0, *(spans[n][k][-1] - sentences[n][k].eos for n in range(N)
                            for k in range(K)))  # fmt: skip
            sentences = [[s._replace(ids=s.ids + [0] * pads) for s in row] for row in sentences]

        prefix = [shared_length(row, spec.class_specific) for row in sentences]
        lengths = torch.tensor(
            [[len(s.ids) - p for s in row] for row, p in zip(sentences, prefix, strict=True)]
        )
        assert (lengths == lengths[0]).all(), "suffixes differ between prompts"
        length, P = lengths[0], max(prefix)  # (K,), positions of the longest prefix
        start = length.cumsum(0) - length
        S = int(length.max())

        def table(rows, fill=0):
            return nn.utils.rnn.pad_sequence(
                [torch.tensor(r, dtype=torch.long) for r in rows], True, fill
            )

        def buffer(name, value):
            self.register_buffer(name, value, persistent=False)

        buffer(
            "prefix_ids", table([row[0].ids[:p] for row, p in zip(sentences, prefix, strict=True)])
        )
        buffer(
            "suffix_ids",
            torch.tensor(
                [
                    [t for s in row for t in s.ids[p:]]
                    for row, p in zip(sentences, prefix, strict=True)
                ]
            ),
        )
        offset = torch.cat([torch.arange(n) for n in length.tolist()])
        owner = torch.repeat_interleave(torch.arange(K), length)
        buffer("suffix_pos", torch.tensor(prefix)[:, None] + offset)
        # packed (T) <-> padded (K, S)
        pad = start[:, None] + torch.arange(S)
        buffer("pad_index", pad.clamp(max=int(length.sum()) - 1).flatten())
        buffer("pack_index", owner * S + offset)
        # slots of the context: in the prefix when all classes share them, else in the suffix
        first, cut = sentences[0][0], prefix[0]
        self.prefix_slots = sorted(p for p in first.slots if p < cut and not spec.class_specific)
        in_suffix = [
            (int(start[k]) + p - cut, k, j)
            for k, s in enumerate(sentences[0])
            for p, j in s.slots.items()
            if p >= cut
        ]
        buffer("suffix_slots", torch.tensor(in_suffix, dtype=torch.long).reshape(-1, 3).T)
        # who sees whom: a suffix sees its whole prefix and, causally, itself
        sees_prefix = torch.arange(P) < torch.tensor(prefix)[:, None]  # (N, P)
        causal = torch.ones(S, S, dtype=torch.bool).tril()
        mask = torch.cat([sees_prefix[:, None].expand(N, S, P), causal.expand(N, S, S)], dim=-1)
        if bool(sees_prefix.all()):
            mask = mask[:1]
        buffer("mask", mask)
        eos = torch.tensor([s.eos for s in sentences[0]]) - cut
        buffer("eos_offset", eos)  # in its suffix, and in all of them
        buffer("eos", start + eos)
        if spec.token_level:
            index = [
                [p if p < prefix[n] else P + int(start[k]) + p - prefix[n] for p in spans[n][k]]
                for n in range(N)
                for k in range(K)
            ]
            self.shared_tokens = min(sum(i < P for i in row) for row in index)
            count = torch.tensor([len(row) for row in index])
            valid = torch.arange(int(count.max())) < count[:, None]
            buffer("token_index", table(index).reshape(N, K, -1))
            buffer("token_mass", (valid / count[:, None]).reshape(N, K, -1))

    def words(self, k: int, n: int) -> list[str]:
        """The tokens behind the token-level features of class k and prompt n, to be read."""
        sentence, decoder = self.sentences[n][k], clip.clip._tokenizer.decoder
        return [
            f"context {sentence.slots[p] + 1}"
            if p in sentence.slots
            else decoder[sentence.ids[p]].replace("</w>", "")
            for p in self._token_span(self.sentences, n, k)
        ]

    def footprint(self, passes: int, itemsize: float) -> Footprint:
        """What a training step keeps for the backward pass.

        Args:
            passes: how often the text is encoded: once, or once per image.
        """
        if not self.spec.N:
            return Footprint()
        N, P = self.prefix_ids.shape
        T = len(self.pack_index)
        layers = len(self.transformer.resblocks)
        state = passes * N * self.text_projection.shape[0] * itemsize  # of one position
        block = state * ((blocks.STATES - 1) * T + blocks.STATES * P)  # suffixes attend once more
        return Footprint(stored=layers * block, inputs=layers * state * (T + P), block=block)

    # ------------------------------------------------------------------ forward

    def forward(self, contexts: list[torch.Tensor] | None = None) -> TextFeatures:
        """Encode every class under every prompt.

        Args:
            contexts: per depth i < J the learnable tokens: (N, b, W), or (K, b, W) when they are
                class-specific; None when N = 0. More contexts than templates reuse the only
                template (image-conditional prompts).

        Returns:
            `TextFeatures`.
        """
        shared, suffix = self._embed(contexts[0] if contexts else None)
        layers = self.transformer.resblocks
        for i, block in enumerate(layers):
            if contexts and 1 <= i < len(contexts):  # deep prompts replace the states of the slots
                b = contexts[i].shape[1]
                deep = contexts[i].to(shared.dtype)
                shared = torch.cat([shared[:, :1], deep, shared[:, 1 + b :]], dim=1)
            if i + 1 < len(layers) or self.spec.token_level:
                shared, suffix = blocks.run(self._block, self.recompute, block, shared, suffix)
        if self.spec.token_level:
            return self._features(shared, suffix)
        return self._normalized(blocks.run(self._read_eos, self.recompute, block, shared, suffix))

    def _embed(self, ctx):
        """Input states of the prefixes (N, P, W) and of the packed suffixes (N, T, W)."""
        dtype = self.text_projection.dtype  # with amp float32, unlike the blocks' weights
        shared = self.token_embedding(self.prefix_ids)
        suffix = self.token_embedding(self.suffix_ids)
        if ctx is not None:
            if not self.spec.class_specific and len(ctx) != len(shared):  # one template for all
                shared = shared.expand(len(ctx), -1, -1)
                suffix = suffix.expand(len(ctx), -1, -1)
            if self.prefix_slots:  # a run of slots that begins right after SOS
                b = len(self.prefix_slots)
                shared = torch.cat([shared[:, :1], ctx[:, :b].to(shared.dtype),
                                    shared[:, 1 + b :]], dim=1)  # fmt: skip
            at, k, j = self.suffix_slots
            if len(at):
                value = ctx[k, j][None] if self.spec.class_specific else ctx[:, j]
                suffix = suffix.index_copy(1, at, value.to(suffix.dtype))
        shared = shared + self.positional_embedding[: shared.shape[1]]
        suffix = suffix + self.positional_embedding[self.suffix_pos]
        return shared.to(dtype), suffix.to(dtype)

    def _block(self, block, shared, suffix):
        """One block over prefixes (N, P, W) and packed suffixes (N, T, W)."""
        q, k, v = blocks.project_qkv(block, shared)
        shared = blocks.finish(block, shared, blocks.attend(block, q, k, v, causal=True))
        # padded queries, keys and values are large, and quickly made once more
        out = blocks.run(self._attend, True, block, k, v, *blocks.project_qkv(block, suffix))
        return shared, blocks.finish(block, suffix, out)

    def _attend(self, block, k, v, qs, ks, vs):
        """What the packed suffixes attend to: (N, T, W) from keys and values of both parts."""
        N, _, W = qs.shape
        S, K = self.mask.shape[1], len(self.eos)
        mask = self.mask if len(self.mask) == 1 else self.mask.repeat_interleave(K, 0)
        k, v = self._behind(k, ks), self._behind(v, vs)
        out = blocks.attend(block, self._padded(qs), k, v, mask[:, None])
        return out.reshape(N, K * S, W).index_select(1, self.pack_index)

    def _read_eos(self, block, shared, suffix):
        """The last block at EOS alone: (N, K, W)."""
        x = suffix[:, self.eos]
        N, K, W = x.shape
        pairs = zip(blocks.project_kv(block, shared), blocks.project_kv(block, suffix), strict=True)
        k, v = (self._behind(*pair) for pair in pairs)
        mask = self.mask[:, self.eos_offset].expand(N, -1, -1).reshape(N * K, 1, 1, -1)
        q = blocks.project_q(block, x).reshape(N * K, 1, W)
        return blocks.finish(block, x, blocks.attend(block, q, k, v, mask).reshape(N, K, W))

    def _padded(self, x):
        """Packed suffixes (N, T, W) -> (N * K, S, W)."""
        return x.index_select(1, self.pad_index).reshape(-1, self.mask.shape[1], x.shape[2])

    def _behind(self, shared, suffix):
        """The prefix (N, P, W) and, behind it, each suffix of (N, T, W): (N * K, P + S, W)."""
        shared = shared.repeat_interleave(len(self.eos), 0)
        return torch.cat([shared, self._padded(suffix)], dim=1)

    def _project(self, x):
        """States to features, which autocast would round to half precision."""
        with torch.autocast(x.device.type, enabled=False):
            return self.ln_final(x) @ self.text_projection

    def _normalized(self, x) -> TextFeatures:
        """Features of the EOS states (N, K, W)."""
        raw = self._project(x)
        return TextFeatures(F.normalize(raw, dim=-1), raw, None, None)

    def _features(self, shared, suffix) -> TextFeatures:
        states = self._project(torch.cat([shared, suffix], dim=1))
        raw = states[:, shared.shape[1] + self.eos]
        states = F.normalize(states, dim=-1)
        N, K, L = self.token_index.shape
        index = self.token_index.reshape(N, K * L, 1).expand(-1, -1, states.shape[-1])
        s = states.gather(1, index).unflatten(1, (K, L))
        return TextFeatures(F.normalize(raw, dim=-1), raw, s, self.token_mass, self.shared_tokens)


def shared_length(row: list[Sentence], class_specific: bool) -> int:
    """Number of leading positions that are the same in all sentences of one prompt."""

    def content(s: Sentence, p: int):
        if p not in s.slots:
            return "word", s.ids[p]
        return "slot", CSC_SLOT if class_specific else s.slots[p]

    limit = min(s.eos for s in row)  # EOS itself always belongs to the suffix
    for p in range(limit):
        first = content(row[0], p)
        if first == ("slot", CSC_SLOT) or any(content(s, p) != first for s in row):
            return p
    return limit
