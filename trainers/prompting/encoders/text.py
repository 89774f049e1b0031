"""The prompted text encoder (docs/methods.md, section 1).

Causal attention allows two exact savings. Positions after EOS do not matter, so they are not
computed. The positions before the class name are the same for all classes of a prompt, so their
keys and values are computed once per prompt (the prefix); the rest of the sentences (the suffixes)
share them and are packed without padding (`layout`). On an accelerator, where a short step waits
for its launches, few sentences are computed whole: more arithmetic in fewer operations.

The file is long because a block is computed in three ways: at every position, at EOS only, and once
for all steps if nothing before it is trained.

Letters: N prompts, K classes, b learned tokens of a prompt, J depths, W the width of the encoder,
D of the features; P, T, S and L as in `Layout`. k is a class, n a prompt, j a token.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import family_of
from ..errors import ClosedSide, need
from ..full_precision import no_autocast
from ..transport.token_level import TokenWeights
from . import blocks
from .added import NONE, NOTHING, Added, Additions, let_in, summand
from .layout import Layout
from .sentences import Sentence, shared_length
from .sides import is_closed, need_open

WHOLE = 1536  # positions of all sentences, up to which an accelerator computes them whole
CHUNK = 256  # sentences at a time, of a closed encoder or of a block that is recomputed


class TextFeatures(NamedTuple):
    """The text features that scores read; h and s are L2-normalised.

    h: (N, K, D) prompt-level features; raw: (N, K, D) the same before normalisation; both float32;
    s: (N, K, L, D) token-level features, a class's own first and then padding, or None;
    s_weights: the weights of s, 0 for padding, with the number of leading tokens that are the same
    for all classes, or None; inner: (N, K, W) the outputs of blocks at EOS, by number.
    """

    h: torch.Tensor
    raw: torch.Tensor
    s: torch.Tensor | None = None
    s_weights: TokenWeights | None = None
    inner: Mapping[int, torch.Tensor] = {}


class TextEncoder(nn.Module):
    """CLIP's text encoder for the sentences of K classes under N prompts.

    Args:
        clip_model: a CLIP (see `backbones`); its modules are used, not copied.
        sentences: `[n][k]`, as `write_sentences` returns them.
        words: `[n][k]`, the positions of the token-level features in each sentence; None for none.
        class_specific: True if the learned tokens differ between classes.
        insert_block: the block, from 1, at whose entry tokens of each class replace the learned
            ones (TCP); 0 for none.
        inner: the blocks, from 0 and without the last one, whose outputs at EOS are returned.

    Raises:
        UserError: the encoder does not have block `insert_block`, or the side is closed but more
            than fixed sentences is asked for.

    Examples:
        >>> from trainers.prompting import load_clip, write_sentences
        >>> clip_model, words = load_clip("emoji"), ["a photo of a", "a drawing of a"]
        >>> encoder = TextEncoder(clip_model, write_sentences(clip_model, words, ["cat"], 4))
        >>> encoder([torch.zeros(2, 4, 128)]).h.shape  # 4 learned tokens of 2 prompts
        torch.Size([2, 1, 128])
    """

    __call__: Callable[..., TextFeatures]

    def __init__(
        self,
        clip_model: Any,
        sentences: list[list[Sentence]],
        words: list[list[range]] | None = None,
        class_specific: bool = False,
        insert_block: int = 0,
        inner: Collection[int] = (),
    ):
        super().__init__()
        family = family_of(clip_model)
        self.causal, self.tokenizer = family.causal, family.tokenizer
        self.sentences, self.spans, self.start = sentences, words, sentences[0][0].start
        self.class_specific, self.insert_block, self.inner = class_specific, insert_block, inner
        self.recompute = 0  # in the backward pass: 1 the attention, 2 whole blocks
        # kinds of device on which few sentences share prefixes, too
        self.packs_on: tuple[str, ...] = ("cpu",)
        self._kept: tuple[tuple[object, ...], Sequence[torch.Tensor]] | None = None
        self.class_text: Any = None  # the fixed sentences that it was made from
        self.closed: Any = clip_model.text if is_closed(clip_model, "text") else None
        if self.closed is not None:
            if words or inner or sentences[0][0].slots:
                need_open(clip_model, "text", "reads or learns words, or states of blocks")
            ids = [[sentence.ids for sentence in row] for row in sentences]
            self.ids: torch.Tensor
            self.register_buffer("ids", torch.tensor(ids), persistent=False)
            return
        self.token_embedding = clip_model.token_embedding
        self.transformer = clip_model.transformer
        self.ln_final = clip_model.ln_final
        self.positional_embedding = clip_model.positional_embedding
        self.text_projection = clip_model.text_projection
        self.text_bias = getattr(clip_model, "text_bias", None)  # (D,), of SigLIP
        self.ln_embed = getattr(clip_model, "ln_embed", nn.Identity())  # of BERT
        self.mean = family.reads == "mean"
        self.layout = self._lay_out(class_specific)
        few = not words and self.causal  # features of tokens share those of prefixes, too
        self.whole_layout = self._lay_out(class_specific, whole=True) if few else None
        if insert_block:
            layers = len(self.transformer.resblocks)
            need(
                0 < insert_block < layers,
                f"INSERT_BLOCK is {insert_block} but the text encoder of this backbone has blocks "
                f"0 to {layers - 1}: choose one of them after the first",
            )
            self.own_layout = self._lay_out(class_specific=True)
            own, ends = self.own_layout, [len(sentence.ids) for sentence in sentences[0]]
            regroup = [  # nothing sees what follows EOS in a shorter sentence
                self.layout.place(0, k, min(p, end - 1))
                for k, end in enumerate(ends)
                for p in range(own.P, own.S if own.whole else end)
            ]
            self.regroup: torch.Tensor
            self.register_buffer("regroup", torch.tensor(regroup), persistent=False)

    def _lay_out(self, class_specific: bool, whole: bool = False) -> Layout:
        rows, shared = self.sentences, self.causal and not whole
        cut = [shared_length(row, class_specific) if shared else 0 for row in rows]
        with torch.device("cpu"):  # its values are read here, even if the weights are on "meta"
            return Layout(rows, cut, self.spans, self.causal)

    def words(self, k: int, n: int) -> list[str]:
        """Return the tokens of the token-level features of class k and prompt n, as text."""
        assert self.spans is not None
        sentence = self.sentences[n][k]
        return [
            f"context {sentence.slots[p] + 1}"
            if p in sentence.slots
            else self.tokenizer.decode(sentence.ids[p : p + 1]).strip()
            for p in self.spans[n][k]
        ]

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        contexts: list[torch.Tensor] | None = None,
        inserted: torch.Tensor | None = None,
        added: Additions = NONE,
    ) -> TextFeatures:
        """Encode every class under every prompt.

        Args:
            contexts: the learned tokens for each depth i < J: (N, b, W), or (N, K, b, W) if they
                are class-specific; None without learned tokens. If there are more contexts than
                templates (one for each image), all take the only template. A later depth may have
                fewer tokens, which replace the last ones.
            inserted: (K, b, W), states for each class that replace those of the learned tokens at
                the entry of block `insert_block`, without a positional embedding (TCP). Up to that
                block, positions that classes share are computed once.
            added: a method's additions to the blocks.

        Returns:
            `TextFeatures`.
        """
        if self.closed is not None:
            if contexts or added or inserted is not None:
                raise ClosedSide("text", "puts something into the text encoder")
            return self._closed_features()
        layers = self.transformer.resblocks
        layout, first = self.layout, 0
        if self.text_projection.device.type not in self.packs_on:
            layout = self._few_or_packed(contexts, added)
        fixed = torch.is_grad_enabled() and not (contexts or self.inner) and inserted is None
        kept = self._constant(layout, min(added, default=0)) if fixed else None
        if kept is not None:
            first = min(added)
            shared, suffix = kept
        else:
            before = added.get(0, NOTHING).before
            shared, suffix = self._embed(layout, contexts[0] if contexts else None, before)
        n, inner = 0, {}  # n: tokens that have entered after SOS
        for i in range(first, len(layers)):
            block, addition = layers[i], added.get(i, NOTHING)
            if contexts and 1 <= i < len(contexts) and not layout.prefix_slots:
                suffix = self._fill_slots(layout, suffix, contexts[i], contexts[0].shape[1])
            elif contexts and 1 <= i < len(contexts):  # deep prompts replace states of the slots
                end = self.start + n + contexts[0].shape[1]
                start = end - contexts[i].shape[1]
                deep = contexts[i].to(shared.dtype)
                shared = torch.cat([shared[:, :start], deep, shared[:, end:]], dim=1)
            if addition.enter is not None:
                if layout.whole:
                    layout, suffix, n = self._let_in(addition, layout, suffix, n)
                else:
                    shared, n = let_in(addition, shared, n, self.start)
            if inserted is not None and i == self.insert_block:
                need(
                    not n,
                    "Tokens that enter blocks (`Added.enter`) cannot be combined with `inserted` "
                    f"ones: let none enter up to block {i}",
                )
                shared, suffix = self._insert(layout, inserted, shared, suffix)
                layout = layout if layout.whole else self.own_layout
            states = block, layout, shared, suffix
            learned = shared.requires_grad or suffix.requires_grad or addition is not NOTHING
            recompute = self.recompute > 1 and learned
            if i + 1 < len(layers) or layout.token_index is not None:
                if recompute and layout.whole and addition is NOTHING:
                    suffix = self._in_chunks(*states)
                else:
                    shared, suffix = blocks.run(self._block, recompute, *states, added=addition)
                if i in self.inner:
                    inner[i] = self._pool(layout, suffix)
        if layout.token_index is not None:
            shared = torch.cat([shared[:, : self.start], shared[:, self.start + n :]], 1)
            features = self._features(layout, shared, suffix, addition)
            return features._replace(inner=inner)
        x = blocks.run(self._read_last, recompute, *states, added=addition)
        raw = self._project(x, addition)
        return TextFeatures(F.normalize(raw, dim=-1).float(), raw.float(), inner=inner)

    def _few_or_packed(self, contexts: list[Tensor] | None, added: Additions) -> Layout:
        """Return the layout that launches least: of whole sentences if they are few.

        It depends on sizes only, so that a run that resumes computes the same.
        """
        N = contexts[0].shape[0] if contexts else len(self.sentences)
        layout = self.whole_layout
        if layout is None or N * layout.K * layout.S > WHOLE:
            return self.layout
        entered = any(addition.enter is not None for addition in added.values())
        return self.layout if entered else layout  # tokens enter a prefix

    def _embed(
        self, layout: Layout, ctx: Tensor | None, before: nn.Module | None
    ) -> tuple[Tensor, Tensor]:
        """Return the input states of prefixes (N, P, W) and packed suffixes (N, T, W)."""
        dtype = self.text_projection.dtype  # with amp float32, unlike the weights of the blocks
        shared = self.token_embedding(layout.prefix_ids)
        suffix = self.token_embedding(layout.suffix_ids)
        if ctx is not None:
            N = ctx.shape[0]  # not `len`, which an exported program would keep as a constant
            if not self.class_specific and shared.shape[0] != N:  # one template for all
                shared, suffix = (x.expand(N, -1, -1) for x in (shared, suffix))
            if layout.prefix_slots:
                start, end = self.start, self.start + layout.prefix_slots
                slots = ctx[:, : layout.prefix_slots].to(shared.dtype)
                shared = torch.cat([shared[:, :start], slots, shared[:, end:]], dim=1)
            place, k, j = layout.suffix_slots
            if len(place):
                value = ctx[:, k, j] if self.class_specific else ctx[:, j]
                suffix = suffix.index_copy(1, place, value.to(suffix.dtype))
        if before is not None:
            shared, suffix = (x + summand(before, x) for x in (shared, suffix))
        shared = shared + self.positional_embedding[: shared.shape[1]]
        suffix = suffix + self.positional_embedding[layout.suffix_positions]
        return shared.to(dtype), self.ln_embed(suffix.to(dtype))

    def _let_in(
        self, addition: Added, layout: Layout, suffix: Tensor, n: int
    ) -> tuple[Layout, Tensor, int]:
        """Insert tokens into whole sentences, in which n have entered; see `let_in`."""
        rows, m = let_in(addition, pad_suffixes(layout, suffix), n, self.start)
        return layout.longer(m - n, self.start), rows.view(len(suffix), -1, rows.shape[-1]), m

    @staticmethod
    def _fill_slots(layout: Layout, suffix: Tensor, ctx: Tensor, b: int) -> Tensor:
        """Return packed suffixes whose last learned tokens, of b, are those of a later depth."""
        gone = b - ctx.shape[-2]
        place, _, j = (row.reshape(-1, b)[:, gone:].flatten() for row in layout.suffix_slots)
        value = ctx[:, j - gone]
        return suffix.index_copy(1, place, value.to(suffix.dtype))

    @torch.no_grad()
    def _closed_features(self) -> TextFeatures:
        """Return the features of the sentences from a closed encoder."""
        chunks = [[self.closed(some) for some in row.split(CHUNK)] for row in self.ids]
        raw = torch.stack([torch.cat(row) for row in chunks])
        return TextFeatures(F.normalize(raw, dim=-1).float(), raw.float())

    @torch.no_grad()
    def _constant(self, layout: Layout, first: int) -> Sequence[torch.Tensor] | None:
        """Return the states at the entry of a block before which nothing is trained, or None.

        They are kept from step to step, and recomputed if the weights, their type or their device
        change.
        """
        weights = [*self.parameters()] if first else []
        if not weights or any(p.requires_grad for p in weights):  # of a copy that is trained
            return None
        key = layout, first, *((p.data_ptr(), p._version, p.device) for p in weights)
        if self._kept is None or self._kept[0] != key:
            states = self._embed(layout, None, None)
            for i in range(first):
                states = self._block(self.transformer.resblocks[i], layout, *states)
            self._kept = key, states
        return self._kept[1]

    def _insert(
        self, layout: Layout, inserted: Tensor, shared: Tensor, suffix: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Insert the tokens of each class, and change to `own_layout` if they shared a prefix."""
        if layout.whole:
            place, k, j = layout.suffix_slots
            return shared, suffix.index_copy(1, place, inserted[k, j][None].to(suffix.dtype))
        place, k, j = self.own_layout.suffix_slots
        own = torch.cat([shared, suffix], dim=1).index_select(1, self.regroup)
        own = own.index_copy(1, place, inserted[k, j][None].to(own.dtype))
        return shared[:, : self.own_layout.P], own

    def _block(
        self, block: Any, layout: Layout, shared: Tensor, suffix: Tensor, added: Added = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Return the output of a block for prefixes (N, P, W) and packed suffixes (N, T, W)."""
        if layout.whole:
            y = blocks.enter(block, added, suffix)
            own = blocks.project(block, y, added, "qkv")
            q, k, v = (t.reshape(-1, layout.S, t.shape[2]) for t in own)
            mask = None
            if layout.sees is not None:
                rows = layout.sees.flatten(0, 1)[:, None, None]
                mask = rows.repeat(len(q) // len(rows), 1, 1, 1)
            out = blocks.attend(block, q, k, v, mask, self.causal).reshape(suffix.shape)
            return shared, blocks.finish(block, suffix, out, y, added)
        y = blocks.norm(block, "ln_1", added)(shared)
        query, key, value = blocks.project(block, y, added, "qkv")
        out = blocks.attend(block, query, key, value, causal=True)
        shared = blocks.finish(block, shared, out, y, added)
        y = blocks.norm(block, "ln_1", added)(suffix)
        own = blocks.project(block, y, added, "qkv")
        out = blocks.run(self._attend, self.recompute > 0, block, layout, key, value, *own)
        return shared, blocks.finish(block, suffix, out, y, added)

    def _in_chunks(self, block: Any, layout: Layout, shared: Tensor, suffix: Tensor) -> Tensor:
        """Return a recomputed block's output for sentences that share nothing, some at a time."""
        size, done = max(1, CHUNK // suffix.shape[0]), []
        for i, part in enumerate(suffix.split(size * layout.S, dim=1)):
            own = layout
            if layout.sees is not None:
                own = layout.replace(sees=layout.sees[:, i * size : (i + 1) * size])
            done.append(blocks.run(self._block, True, block, own, shared, part)[1])
        return torch.cat(done, dim=1)

    @staticmethod
    def _attend(
        block: Any,
        layout: Layout,
        key: Tensor,
        value: Tensor,
        own_query: Tensor,
        own_key: Tensor,
        own_value: Tensor,
    ) -> Tensor:
        """Return the attention of packed suffixes (N, T, W) to keys and values of both parts."""
        mask = extend_mask(layout, key, layout.mask)
        key, value = pad_suffixes(layout, own_key, key), pad_suffixes(layout, own_value, value)
        out = blocks.attend(block, pad_suffixes(layout, own_query), key, value, mask)
        return out.reshape(own_query.shape[0], -1, out.shape[-1]).index_select(1, layout.pack_index)

    def _read_last(
        self, block: Any, layout: Layout, shared: Tensor, suffix: Tensor, added: Added = NOTHING
    ) -> Tensor:
        """Return what is read of the last block's output, (N, K, W)."""
        if self.mean:
            return self._pool(layout, self._block(block, layout, shared, suffix, added)[1])
        y = blocks.enter(block, added, suffix)
        x, y_eos = at_eos(layout, suffix), at_eos(layout, y)
        N, K, W = x.shape
        of_prefix = blocks.project(block, blocks.enter(block, added, shared), added, "kv")
        pairs = zip(of_prefix, blocks.project(block, y, added, "kv"), strict=True)
        key, value = (pad_suffixes(layout, own, shared) for shared, own in pairs)
        mask = (
            extend_mask(layout, shared, layout.eos_mask).expand(N, -1, -1).reshape(N * K, 1, 1, -1)
        )
        query = blocks.project(block, y_eos, added, "q")[0].reshape(N * K, 1, W)
        out = blocks.attend(block, query, key, value, mask).reshape(N, K, W)
        return blocks.finish(block, x, out, y_eos, added)

    def _project(self, x: Tensor, added: Added) -> Tensor:
        """Project states to features, without autocast, which would round to half precision."""
        with no_autocast(x.device.type):
            norm: Callable[..., Tensor] = added.norms.get("post") or self.ln_final
            raw = norm(x) @ self.text_projection
            return raw if self.text_bias is None else raw + self.text_bias

    def _pool(self, layout: Layout, suffix: Tensor) -> Tensor:
        """Return the states (N, K, W) that features are read from: at EOS, or their mean."""
        if not self.mean:
            return at_eos(layout, suffix)
        x, mask = suffix.unflatten(1, (-1, layout.S)), layout.sees
        if mask is None:
            return x.mean(2)
        return (x * mask[..., None]).sum(2) / mask.sum(2, keepdim=True)

    def _features(
        self, layout: Layout, shared: Tensor, suffix: Tensor, added: Added
    ) -> TextFeatures:
        """Return the features, with token-level ones, of states (N, P, W) and (N, T, W)."""
        states = self._project(torch.cat([shared, suffix], dim=1), added)
        if self.mean:
            raw = self._project(self._pool(layout, suffix), added)
        else:
            raw = at_eos(layout, states[:, layout.P :])
        states = F.normalize(states, dim=-1)
        assert layout.token_index is not None, "only then are there token-level features"
        N, K, L = layout.token_index.shape
        index = layout.token_index.reshape(N, K * L, 1).expand(-1, -1, states.shape[-1])
        s = states.gather(1, index).unflatten(1, (K, L))
        h = F.normalize(raw, dim=-1)
        return TextFeatures(h.float(), raw.float(), s, layout.token_weights)


def pad_suffixes(
    layout: Layout, suffix: torch.Tensor, shared: torch.Tensor | None = None
) -> torch.Tensor:
    """Pad packed suffixes: (N, T, W) -> (N * K, S, W); with prefixes (N, P, W) in front, P + S."""
    suffix = suffix if layout.whole else suffix.index_select(1, layout.pad_index)
    rows = suffix.reshape(-1, layout.S, suffix.shape[2])
    if shared is None or layout.whole:
        return rows
    return torch.cat([shared.repeat_interleave(layout.K, 0), rows], dim=1)


def at_eos(layout: Layout, suffix: torch.Tensor) -> torch.Tensor:
    """Return packed suffixes at EOS: (N, T, W) -> (N, K, W)."""
    return suffix.gather(1, layout.eos[..., None].expand(suffix.shape[0], -1, suffix.shape[2]))


def extend_mask(layout: Layout, shared: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a mask of the layout for a prefix (N, P + n, W) into which n tokens have entered."""
    return F.pad(mask, (n, 0), value=True) if (n := shared.shape[1] - layout.P) else mask
