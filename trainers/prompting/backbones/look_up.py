"""A CLIP without encoders: rows of features as they are, and whole sentences looked up."""

from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .assemble import closed_clip
from .closed import Closed
from .family import Family, Tokenizer

END = 0  # id of the end of a sentence; every other id is a whole sentence


class LookUp(nn.Module):
    """Text features by the ids of whole sentences, `[id, END]`.

    Args:
        path: of the file, for messages.
        templates: those with features, for messages.
        sentences: sentence -> its feature (D,); their ids are 1, 2, ...
    """

    table: torch.Tensor

    def __init__(self, path: str, templates: list[str], sentences: dict[str, torch.Tensor]):
        super().__init__()
        self.path, self.templates = path, templates
        self.ids = {sentence: i for i, sentence in enumerate(sentences, start=1)}
        self.register_buffer("table", torch.stack([*sentences.values()]), persistent=False)

    def encode(self, sentence: str) -> list[int]:
        """Return the id of a sentence; one that is not known gets the next."""
        return [self.ids.setdefault(sentence, len(self.ids) + 1)]

    def decode(self, ids: list[int]) -> str:
        """Return the sentences of ids."""
        sentences = list(self.ids)
        return " ".join(sentences[i - 1] for i in ids if i != END)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return features (n, D) of ids (n, 2)."""
        if ids.is_meta:  # where it is tried which methods run, and no id can be read
            return self.table.new_empty(len(ids), self.table.shape[1])
        if (largest := int(ids[:, 0].max())) > len(self.table):
            raise UserError(
                f"The method reads the sentence '{self.decode([largest]):.80}', but '{self.path}' "
                f"has only text features of {', '.join(f'{t:.60}' for t in self.templates)}: write "
                "it again with this template, or choose another method"
            )
        return self.table[ids[:, 0] - 1]


def clip_with(look_up: LookUp, D: int, scale: float) -> Any:
    """Return a CLIP of rows (D,) and the sentences of a table; `scale` is that of its logits."""
    preparation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic"  # no image is prepared
    family = Family(Tokenizer(look_up.encode, look_up.decode, None, END), *preparation)
    image = Closed(nn.Identity(), resolution=1)
    return closed_clip(image, Closed(look_up), D, family, scale=scale)
