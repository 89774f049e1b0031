"""The one place where sentences about classes become h0, the text features that methods start from.

Letters: K classes, S sentences, n of them about each class, D the width of the features, W of the
encoder.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..node import clean
from .sentences import write_sentences
from .sides import need_open
from .templates import ZERO_SHOT, template_of
from .text import TextEncoder, TextFeatures


class ClassText(NamedTuple):
    """Sentences about K classes, and the rule that makes one feature of those of a class.

    rows: n rows, each a template with `{}` for the class name, or K sentences; names: K names;
    rule: `normalised_mean`, h = n(mean of n(t)), or `raw_mean`, h = n(mean of t), of the features t
    of the sentences, where n(.) is division by the norm; lists: K lists of sentences, in place of
    rows.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> text = ClassText(["a {}.", "the {}."], ["cat", "dog"])
        >>> text.features(load_clip("emoji")).h.shape
        torch.Size([1, 2, 128])
    """

    rows: Sequence[str | Sequence[str]]
    names: Sequence[str]
    rule: str = "normalised_mean"
    lists: Sequence[Sequence[str]] = ()

    def each(self, clip_model: Any, projection: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features of single sentences, float32, not normalised.

        Returns:
            (n, K, D) of rows, (S, D) of lists.

        Raises:
            UserError: as `encode_sentences`.
        """
        if self.lists:
            texts = [text for sentences in self.lists for text in sentences]
            return encode_sentences(clip_model, texts, projection=projection).float()
        names = [clean(name) for name in self.names]
        rows = [
            [row.replace("{}", name) for name in names] if isinstance(row, str) else row
            for row in self.rows
        ]
        features = [encode_sentences(clip_model, row, projection=projection) for row in rows]
        return torch.stack([row.float() for row in features])

    def mean(self, each: torch.Tensor) -> torch.Tensor:
        """Return the means (K, D) over the sentences of each class."""
        if not self.lists:
            return each.mean(0)
        parts = each.split([len(sentences) for sentences in self.lists])
        return torch.stack([part.mean(0) for part in parts])

    def features(self, clip_model: Any, projection: torch.Tensor | None = None) -> TextFeatures:
        """Return h0, and the mean that it is the direction of, both (1, K, D), without gradient.

        Args:
            clip_model: a CLIP.
            projection: (W, D) in place of its text projection.

        Raises:
            UserError: as `encode_sentences`.
        """
        each = self.each(clip_model, projection)
        if self.rule == "normalised_mean":
            each = F.normalize(each, dim=-1)
        raw = self.mean(each)[None]
        return TextFeatures(F.normalize(raw, dim=-1), raw)

    def encoder(self, clip_model: Any) -> TextEncoder:
        """Return a text encoder for the only template."""
        (template,) = self.rows
        assert isinstance(template, str), "other sentences are for a Teacher"
        return TextEncoder(clip_model, write_sentences(clip_model, [template], self.names))


def class_text(
    settings: Any,
    classnames: Sequence[str],
    dataset: str,
    templates: Sequence[str] = (),
    rule: str = "normalised_mean",
) -> ClassText:
    """Return the text that a method starts from.

    Args:
        settings: of the method.
        classnames: K names.
        dataset: name of the data set.
        templates: those that the method is published with; empty for the data set's own sentence.
        rule: likewise.
    """
    return ClassText(templates or [zero_shot_template(dataset)], classnames, rule)


def zero_shot_template(dataset: str) -> str:
    """Return the sentence of zero-shot CLIP on a data set."""
    return template_of(ZERO_SHOT, dataset)


@torch.no_grad()
def encode_sentences(
    clip_model: Any,
    sentences: Sequence[str],
    chunk: int = 256,
    projection: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return features of whole sentences from CLIP's untouched text encoder, without gradient.

    A teacher encodes the classes in hand-written templates with it.

    Args:
        clip_model: a CLIP (see `backbones`).
        sentences: n sentences, in which `_` reads as a space. The common beginning of a chunk is
            computed once, so order them by template.
        chunk: number of sentences encoded at a time.
        projection: (W, D) in place of CLIP's text projection.

    Returns:
        (n, D), not normalised.

    Raises:
        UserError: a sentence is empty or too long for the encoder.
    """
    device, parts = clip_model.logit_scale.device, []
    for i in range(0, len(sentences), chunk):
        written = write_sentences(clip_model, ["{}"], sentences[i : i + chunk])
        encoder = TextEncoder(clip_model, written).to(device)
        if projection is not None:
            need_open(clip_model, "text", "replaces the text projection")
            encoder.text_projection = nn.Parameter(projection.to(device), requires_grad=False)
        parts.append(encoder().raw[0])
    return torch.cat(parts)
