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

    def read(self, row: Sequence[Sentence]) -> None:
        """Let the encoder read these sentences."""
        self.sentences, device = [list(row)], self.text_projection.device
        self.layout, self.whole_layout = self._lay_out(False).to(device), None
        if self.causal and len(row) * max(len(sentence.ids) for sentence in row) <= WHOLE:
            self.whole_layout = self._lay_out(False, whole=True).to(device)

    def forward(
        self,
        contexts: list[torch.Tensor] | None = None,
        inserted: torch.Tensor | None = None,
        added: Additions = NONE,
    ) -> TextFeatures:
        """Return the features of the drawn sentences or, in an evaluation, of all."""
        if self.training:
            return super().forward(contexts, inserted, added)
        every, parts = [sentence for own in self.lists for sentence in own], []
        for i in range(0, len(every), CHUNK):
            self.read(every[i : i + CHUNK])
            parts.append(super().forward(contexts, inserted, added).h[0])
        means = [own.mean(0) for own in torch.cat(parts).split([*map(len, self.lists)])]
        raw = torch.stack(means)[None]
        return TextFeatures(F.normalize(raw, dim=-1), raw)
