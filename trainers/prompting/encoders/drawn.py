"""Several sentences about each class, of which a step reads one that it draws."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F

from .added import NONE, Additions
from .class_text import ClassText
from .sentences import Sentence, write_sentences
from .text import CHUNK, WHOLE, TextEncoder, TextFeatures


class DrawnSentences(TextEncoder):
    """CLIP's text encoder for sentences that it computes anew, since something learns inside.

    In training it reads one sentence of each class, those of the last `draw`; else all of them,
    and h is the direction of the mean of their normalised features.

    Args:
        clip_model: a CLIP (see `backbones`).
        text: the sentences, any number of each class.
    """

    def __init__(self, clip_model: Any, text: ClassText):
        lists = text.sentences()
        written = write_sentences(clip_model, ["{}"], [each for own in lists for each in own])[0]
        ends = [*accumulate(map(len, lists))]
        self.lists = [written[end - len(own) : end] for own, end in zip(lists, ends, strict=True)]
        super().__init__(clip_model, [[own[0] for own in self.lists]])
        self.class_text = text

    def draw(self) -> None:
        """Choose the sentences that are read in training."""
        u = torch.rand(len(self.lists), device="cpu").tolist()
        self.read([own[int(x * len(own))] for own, x in zip(self.lists, u, strict=True)])

    def read(self, *rows: Sequence[Sentence]) -> None:
        """Let the encoder read these sentences, in rows of the same number."""
        self.sentences, device = [list(row) for row in rows], self.text_projection.device
        self.layout, self.whole_layout = self._lay_out(False).to(device, non_blocking=True), None
        longest = max(len(sentence.ids) for row in rows for sentence in row)
        if self.causal and len(rows) * len(rows[0]) * longest <= WHOLE:
            whole = self._lay_out(False, whole=True)
            self.whole_layout = whole.to(device, non_blocking=True)

    def every(self, *given: Any) -> list[torch.Tensor]:
        """Return the normalised features (n, D) of all n sentences of each class."""
        flat, parts = [sentence for own in self.lists for sentence in own], []
        for i in range(0, len(flat), CHUNK):
            self.read(flat[i : i + CHUNK])
            parts.append(super().forward(*given).h[0])
        return list(torch.cat(parts).split([*map(len, self.lists)]))

    def forward(
        self,
        contexts: list[torch.Tensor] | None = None,
        inserted: torch.Tensor | None = None,
        added: Additions = NONE,
    ) -> TextFeatures:
        """Return the features of the drawn sentences or, in an evaluation, of all."""
        if self.training:
            return super().forward(contexts, inserted, added)
        return self.of_all(self.every(contexts, inserted, added))

    def of_all(self, each: list[torch.Tensor]) -> TextFeatures:
        """Return the features of an evaluation, given those (n, D) of all sentences of classes."""
        raw = torch.stack([own.mean(0) for own in each])[None]
        return TextFeatures(F.normalize(raw, dim=-1), raw)


class DrawnRows(DrawnSentences):
    """As `DrawnSentences`, for N sentences of each class that stay apart, h (N, K, D).

    In training it reads the first sentence and others that are drawn for all classes together.

    Args:
        count: the number of those read, at most.
    """

    def __init__(self, clip_model: Any, text: ClassText, count: int):
        super().__init__(clip_model, text)
        self.count, self.drawn = count, [0]

    def draw(self) -> None:
        """Choose the sentences that are read in training."""
        others = torch.randperm(len(self.lists[0]) - 1, device="cpu")[: self.count - 1]
        self.drawn = [0, *(others + 1).tolist()]
        self.read(*([own[i] for own in self.lists] for i in self.drawn))

    def of_all(self, each):
        """Return them apart."""
        h = torch.stack(each, 1)
        return TextFeatures(h, h)
