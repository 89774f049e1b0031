"""The layout of a text encoder's sentences: shared prefixes, and packed suffixes of the classes."""

from copy import copy
from itertools import accumulate, chain

import torch
from torch import nn
from torch.nn import functional as F

from ..transport.token_level import TokenWeights
from .sentences import Sentence


class Layout(nn.Module):
    """The indices of N x K sentences, each split into a prefix and a suffix.

    The first positions of a prompt's sentences are the same for all classes. They are its *prefix*,
    which is computed once per prompt: (N, P), padded at the end to the longest. The rest of a
    sentence is its *suffix*. The suffixes of a prompt are *packed*, one class after another without
    padding, (N, T); only for attention they are *padded* to the longest, (N * K, S). L is the
    largest number of token-level features of a sentence. Without any prefix the suffixes are whole
    sentences, and all packed with the same length, S.

    Args:
        sentences: [N][K].
        cut: length of each of the N prefixes.
        spans: [N][K] positions of the token-level features, or None.
        causal: False if all positions of a sentence see each other; the prefixes are then empty.
    """

    # These are buffers, which follow the module to its device.
    prefix_ids: torch.Tensor  # (N, P) token ids
    suffix_ids: torch.Tensor  # (N, T) token ids
    suffix_positions: torch.Tensor  # (N, T) the position in its sentence of each packed position
    pad_index: torch.Tensor  # (K * S,) packed -> padded; arbitrary after the end of a suffix
    pack_index: torch.Tensor  # (T,) padded -> packed
    # (N * K, 1, S, P + S), or (1, ...) if all prefixes have the same length: True where a position
    # of a padded suffix sees a position of its prefix or of itself
    mask: torch.Tensor
    # (N, K, S), or (1, K, S) if it is the same for all prompts: False at the padding of a suffix,
    # which no position sees; None without padding, or if causal
    sees: torch.Tensor | None
    # (N, K), or (1, K) if all prompts end alike: the packed position of EOS
    eos: torch.Tensor
    eos_mask: torch.Tensor  # (N, K, P + S), or (1, ...): the row of the mask at EOS
    suffix_slots: torch.Tensor  # (3, .) slots in the suffixes: packed position, class, slot
    # Only with `spans`. token_index (N, K, L): positions of the token-level features in the prefix
    # followed by the packed suffixes. token_weights: their weights; all classes share the prefix.
    token_index: torch.Tensor | None
    token_weights: TokenWeights | None

    K: int
    S: int  # the length of a padded suffix
    whole: bool  # no sentence has a prefix
    prefix_slots: int  # number of slots in a prefix; the first one follows SOS

    def __init__(
        self,
        sentences: list[list[Sentence]],
        cut: list[int],
        spans: list[list[range]] | None = None,
        causal: bool = True,
    ):
        super().__init__()
        seen = torch.tensor([[len(s.ids) for s in row] for row in sentences])
        if spans:
            sentences = lengthen(sentences, spans)
        prefixes = [row[0].ids[:c] for row, c in zip(sentences, cut, strict=True)]
        suffixes = [[s.ids[c:] for s in row] for row, c in zip(sentences, cut, strict=True)]
        lengths = [max(map(len, of_class)) for of_class in zip(*suffixes, strict=True)]
        self.whole = not any(cut)
        if self.whole:
            lengths = [max(lengths)] * len(lengths)
        # nothing sees what follows EOS in a shorter one
        suffixes = [
            [ids + [0] * (length - len(ids)) for ids, length in zip(row, lengths, strict=True)]
            for row in suffixes
        ]
        self.cut, self.P = cut, max(cut)
        self.starts = [0, *accumulate(lengths[:-1])]
        K, S = len(lengths), max(lengths)
        self.K, self.S = K, S
        start, length = torch.tensor(self.starts), torch.tensor(lengths)

        self._keep("prefix_ids", pad_rows(prefixes))
        self._keep("suffix_ids", torch.tensor([list(chain(*row)) for row in suffixes]))
        offset = torch.cat([torch.arange(n) for n in lengths])
        self._keep("suffix_positions", torch.tensor(cut)[:, None] + offset)

        index = start[:, None] + torch.arange(S)
        self._keep("pad_index", index.clamp(max=sum(lengths) - 1).flatten())
        owner = torch.repeat_interleave(torch.arange(K), length)
        self._keep("pack_index", owner * S + offset)
        sees = torch.arange(S) < (seen - torch.tensor(cut)[:, None])[..., None]
        sees = sees[:1] if bool((sees == sees[0]).all()) else sees
        # what follows EOS is not seen anyway if causal
        self._keep("sees", None if causal or sees.all() else sees)
        mask = suffix_mask(cut, S) if causal else torch.ones(1, S, S).bool()
        self._keep("mask", (mask if len(mask) == 1 else mask.repeat_interleave(K, 0))[:, None])

        eos = torch.tensor([[s.eos for s in row] for row in sentences]) - torch.tensor(cut)[:, None]
        eos = eos[:1] if bool((eos == eos[0]).all()) else eos
        rows = torch.arange(len(mask))[:, None]  # one, or as many as there are rows of eos
        self._keep("eos_mask", mask[rows, eos] if self.sees is None else sees)
        self._keep("eos", start + eos)

        self._keep_slots(sentences[0])
        self._keep_tokens(spans)

    def _keep_slots(self, row: list[Sentence]) -> None:
        """Set the places of the learned tokens, which are the same in all prompts."""
        slots = [
            (self.place(0, k, p) - self.P, k, j)
            for k, sentence in enumerate(row)
            for p, j in sentence.slots.items()
            if p >= self.cut[0]
        ]
        self._keep("suffix_slots", torch.tensor(slots, dtype=torch.long).reshape(-1, 3).T)
        self.prefix_slots = sum(p < self.cut[0] for p in row[0].slots)

    def _keep_tokens(self, spans: list[list[range]] | None) -> None:
        """Set the positions of the token-level features, and their weights."""
        if not spans:
            self.token_weights = None
            return self._keep("token_index", None)
        N, K = len(spans), len(spans[0])
        places = [[self.place(n, k, p) for p in spans[n][k]] for n in range(N) for k in range(K)]
        shared = min(sum(i < self.P for i in row) for row in places)
        count = torch.tensor([len(row) for row in places])
        real = torch.arange(int(count.max())) < count[:, None]
        mass = (real / count[:, None]).reshape(N, K, -1)
        self.token_weights = TokenWeights(mass, shared)
        self._keep("token_index", pad_rows(places).reshape(N, K, -1))

    def replace(self, **buffers: torch.Tensor | None) -> "Layout":
        """Return a copy with other buffers of these names."""
        other = copy(self)
        other._buffers = {**self._buffers, **buffers}
        return other

    def longer(self, n: int, start: int) -> "Layout":
        """Return the layout of whole sentences into which n more tokens have entered at `start`."""
        if not n:
            return self
        assert self.token_index is None, "token-level features stay where they are"

        def shift(index: torch.Tensor) -> torch.Tensor:
            p = index % self.S
            return index // self.S * (self.S + n) + p + n * (p >= start)

        place, *rest = self.suffix_slots
        more = self.replace(
            eos=shift(self.eos),
            suffix_slots=torch.stack([shift(place), *rest]),
            eos_mask=F.pad(self.eos_mask, (n, 0), value=True),
            sees=None if self.sees is None else F.pad(self.sees, (n, 0), value=True),
        )
        more.S += n
        return more

    def place(self, n: int, k: int, p: int) -> int:
        """Return the index of position p of a sentence in prefix followed by packed suffixes."""
        c = self.cut[n]
        return p if p < c else self.P + self.starts[k] + p - c

    def _keep(self, name, value):
        self.register_buffer(name, value, persistent=False)


def lengthen(sentences, spans):
    """Return the sentences, extended until every span lies inside its sentence.

    In the released form a span may extend past EOS of a shorter prompt, to positions that are then
    computed.
    """
    beyond = max(
        span.stop - len(s.ids)
        for row, row_spans in zip(sentences, spans, strict=True)
        for s, span in zip(row, row_spans, strict=True)
    )
    beyond = max(beyond, 0)
    return [[s._replace(ids=s.ids + [0] * beyond) for s in row] for row in sentences]


def pad_rows(rows: list[list[int]]) -> torch.Tensor:
    """Return rows of different lengths as one tensor, shorter ones padded with 0."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def suffix_mask(cut: list[int], S: int) -> torch.Tensor:
    """Return the attention mask: a suffix sees its whole prefix and, causally, itself."""
    N, P = len(cut), max(cut)
    sees_prefix = torch.arange(P) < torch.tensor(cut)[:, None]
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    mask = torch.cat([sees_prefix[:, None].expand(N, S, P), causal.expand(N, S, S)], dim=-1)
    return mask[:1] if bool(sees_prefix.all()) else mask
