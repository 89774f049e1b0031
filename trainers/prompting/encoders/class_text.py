"""The one place where sentences about classes become h0, the text features that methods start from.

Letters: K classes, S sentences, n of them about each class, D the width of the features, W of the
encoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F

from ..node import clean
from .sentence_features import encode_sentences
from .sentences import Sentence, write_sentences
from .templates import ZERO_SHOT, template_of
from .text import TextEncoder, TextFeatures

RULES: tuple[str, ...] = ("normalised_mean", "raw_mean", "score_mean", "score_max")
MEANS = RULES[:2]  # of all methods that start from h0
SCORES = RULES[:3]  # of those that do not normalise it again


class ClassText(NamedTuple):
    """Sentences about K classes, and the rule that makes one feature of those of a class.

    rows: n rows, each a template with `{}` for the class name, or K sentences; names: K names;
    rule: of RULES; lists: K lists of sentences, in place of rows; note: where given sentences come
    from; asked: what a run asked for, None for published templates; about: what of a file it needs.

    Of the features t of sentences, with n(.) for division by the norm:

        normalised_mean   h = n(mean n(t))
        raw_mean          h = n(mean t)
        score_mean        h = mean n(t)       so that s z.h is the mean of s z.n(t)
        score_max         n features a class, the largest s z.n(t) of which counts

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
    note: str = ""
    asked: Any = None
    about: Mapping[str, Any] | None = None

    def each(self, clip_model: Any, projection: torch.Tensor | None = None) -> torch.Tensor:
        """Return the raw features of single sentences, float32: (n, K, D) of rows, or (S, D)."""
        if self.lists:
            texts = [text for sentences in self.lists for text in sentences]
            return encode_sentences(clip_model, texts, projection=projection).float()
        rows = zip(*self.sentences(), strict=True)
        features = [encode_sentences(clip_model, row, projection=projection) for row in rows]
        return torch.stack([row.float() for row in features])

    def sentences(self) -> list[list[str]]:
        """Return K lists of sentences."""
        names = [clean(name) for name in self.names]
        rows = [
            [row.replace("{}", name) for name in names] if isinstance(row, str) else row
            for row in self.rows
        ]
        return [list(own) for own in self.lists or zip(*rows, strict=True)]

    def owners(self) -> torch.Tensor:
        """Return the class of each feature of `each`, one after another: (n K,) or (S,)."""
        K = torch.arange(len(self.names))
        if not self.lists:
            return K.repeat(len(self.rows))
        return K.repeat_interleave(torch.tensor([len(sentences) for sentences in self.lists]))

    def mean(self, each: torch.Tensor) -> torch.Tensor:
        """Return the means (K, D) over the sentences of each class."""
        if not self.lists:
            return each.mean(0)
        parts = each.split([len(sentences) for sentences in self.lists])
        return torch.stack([part.mean(0) for part in parts])

    def features(
        self,
        clip_model: Any = None,
        projection: torch.Tensor | None = None,
        each: torch.Tensor | None = None,
    ) -> TextFeatures:
        """Return h0 and the mean that it is the direction of: (1, K, D); of `score_max` (n, K, D).

        They have no gradient. `projection` (W, D) replaces CLIP's text projection; `each` is what
        the method of that name returns, if it is known.
        """
        each = self.each(clip_model, projection) if each is None else each
        if self.rule == "raw_mean":
            raw = self.mean(each)[None]
            return TextFeatures(F.normalize(raw, dim=-1), raw)
        each, lengths = F.normalize(each, dim=-1), each.norm(dim=-1, keepdim=True)
        if self.rule == "score_max":
            return TextFeatures(each, each)
        raw = self.mean(each)[None]
        if self.rule == "score_mean":
            return TextFeatures(raw, raw)
        h = F.normalize(raw, dim=-1)
        if self.asked is not None:  # as long as the features, from which some methods start
            raw = raw * self.mean(lengths)
        return TextFeatures(h, raw)

    def encoder(self, clip_model: Any) -> TextEncoder:
        """Return a text encoder for published templates, one sentence, or several as one."""
        if self.lists or (self.asked is not None and len(self.rows) > 1):
            return SeveralSentences(clip_model, self)
        encoder = TextEncoder(clip_model, self.tokens(clip_model))
        encoder.class_text = self
        return encoder

    def tokens(self, clip_model: Any) -> list[list[Sentence]]:
        """Return the token ids of the rows, or of the first sentences of the lists."""
        rows = self.rows or [[sentences[0] for sentences in self.lists]]
        pairs = [(row, self.names) if isinstance(row, str) else ("{}", row) for row in rows]
        return [write_sentences(clip_model, [template], names)[0] for template, names in pairs]


class SeveralSentences(TextEncoder):
    """CLIP's text encoder for several fixed sentences about each class, which give one feature."""

    def __init__(self, clip_model: Any, text: ClassText):
        super().__init__(clip_model, text.tokens(clip_model))
        self._frozen = clip_model, text  # in a tuple, so that it is no sub-module
        self.class_text = text

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._frozen[0]._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, *learned: Any) -> TextFeatures:  # type: ignore[override]
        """Return the features; nothing may be learned in the encoder."""
        assert not any(x is not None and len(x) for x in learned), "`check_built` has refused it"
        clip_model, text = self._frozen
        return text.features(clip_model, getattr(self, "text_projection", None))


def class_text(
    settings: Any,
    classnames: Sequence[str],
    dataset: str,
    templates: Sequence[str] = (),
    rule: str = "normalised_mean",
) -> ClassText:
    """Return the text that a method starts from: what its run asks for, or what is published.

    The published ones are `templates`, or the sentence of zero-shot CLIP on the data set.
    """
    given: ClassText | None = settings.sentences
    if given is not None:
        return given._replace(rule=given.rule or rule)
    return ClassText(templates or [zero_shot_template(dataset)], classnames, rule)


def zero_shot_template(dataset: str) -> str:
    """Return the sentence of zero-shot CLIP on a data set."""
    return template_of(ZERO_SHOT, dataset)
