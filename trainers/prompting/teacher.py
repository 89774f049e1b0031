"""Frozen teachers: the CLIP without prompts, or a method that was trained before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from .encoders.class_text import ClassText
from .encoders.descriptions import match, read_about, with_names
from .encoders.sentence_features import encode_sentences
from .encoders.text import TextFeatures
from .encoders.vision import ImageEncoder
from .errors import UserError, need
from .full_precision import gradients_of, no_autocast
from .node import clean


def normalised_lists(clip_model: Any, lists: Sequence[Sequence[str]]) -> tuple[torch.Tensor, ...]:
    """Return the normalised features (n, D) of each of K lists of n sentences."""
    texts = [text for sentences in lists for text in sentences]
    features = F.normalize(encode_sentences(clip_model, texts).float(), dim=-1)
    return tuple(features.split([len(sentences) for sentences in lists]))


class Teacher(nn.Module):
    """Features and logits of a frozen CLIP without prompts, for the classes of a method.

    A method has it as an attribute. It learns nothing, is not saved with the method, and moves with
    it. Features carry no gradient. Text features are computed when they are first read, and kept.

    Args:
        clip_model: a CLIP from `load_clip`: that of the method, whose modules are shared, or
            another one.
        classnames: K names.
        templates: n items, each a sentence with `{}` for the class name, or a list of K sentences,
            one for each class; or a `ClassText`, or a function that returns one when it is needed.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> teacher = Teacher(load_clip("emoji"), ["cat", "dog"], ["a {}.", "the {}."])
        >>> teacher.h.shape, teacher.h_each.shape
        (torch.Size([2, 128]), torch.Size([2, 2, 128]))
    """

    def __init__(
        self,
        clip_model: Any,
        classnames: Sequence[str],
        templates: Sequence[str | Sequence[str]] | ClassText | Callable[[], ClassText],
    ):
        super().__init__()
        clip_model.requires_grad_(False)
        # in a tuple, so that their parameters are not those of the method
        self._frozen = clip_model, ImageEncoder(clip_model.visual)
        self._sentences, self._names = templates, list(classnames)
        self._text: dict[str, torch.Tensor] = {}

    @property
    def clip_model(self) -> Any:
        """The CLIP."""
        return self._frozen[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move the CLIP and the features, as the method that holds this teacher is moved."""
        self.clip_model._apply(fn)
        self._text = {name: fn(value) for name, value in self._text.items()}
        return self

    @property
    def sentences(self) -> ClassText:
        """The sentences, which are read when they are first needed."""
        given = self._sentences() if callable(self._sentences) else self._sentences
        if not isinstance(given, ClassText):
            given = ClassText(list(given), self._names, "raw_mean")
        self._sentences = given
        return given

    @property
    def text(self) -> TextFeatures:
        """h0 and `raw` as text features, (1, K, D)."""

        def features() -> torch.Tensor:
            text = self.sentences.features(self.clip_model)
            return torch.stack(text[:2])

        return TextFeatures(*self._keep("text", features))

    @property
    def h(self) -> torch.Tensor:
        """h0, the normalised text features (K, D), float32.

        Features of the templates are averaged, then normalised.
        """
        return self._keep("h", lambda: self.text.h[0])

    @property
    def raw(self) -> torch.Tensor:
        """`h` before it is normalised, (K, D)."""
        return self._keep("raw", lambda: self.text.raw[0])

    @property
    def h_each(self) -> torch.Tensor:
        """The normalised features of each of the n templates, (n, K, D)."""

        def each() -> torch.Tensor:
            features = self.sentences.each(self.clip_model)
            return F.normalize(features, dim=-1)

        return self._keep("each", each)

    def _keep(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        if name not in self._text:
            with torch.inference_mode(False), torch.no_grad():  # so that training can read it
                self._text[name] = compute()
        return self._text[name]

    def z(self, images: torch.Tensor) -> torch.Tensor:
        """Return z0, the normalised features (B, D), float32, of images (B, 3, H, W).

        A method without visual prompts already has z0 in its output.
        """
        with gradients_of(images):
            z: torch.Tensor = self._frozen[1](images).z[:, 0]
        return z.float()

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Return zero-shot logits (B, K) of normalised image features (B, D)."""
        h, scale = self.h, self.clip_model.logit_scale.detach().exp().float()
        with no_autocast(z.device.type):
            logits: torch.Tensor = scale * z.detach().float() @ h.T
        return logits


def nearest(z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return the class (B,) whose feature in h (K, D) is most similar to each z (B, D)."""
    with no_autocast(z.device.type):
        return (z @ h.T).argmax(1)


class MethodTeacher(nn.Module):
    """A frozen method as the teacher of another one, with its own CLIP, such as a larger one.

    As `Teacher`, it learns nothing and moves with the method that has it as an attribute. Its text
    features are computed when they are first read, and kept. Checkpoints of that method hold them
    with the class names and `origin`, so that it classifies where the teacher is missing.

    Args:
        method: a trained method, which is put into eval mode and frozen; None if it is missing.
        classnames: its K names.
        trained: the checkpoint (`Saved`) that it comes from, if known.
        origin: as `Saved.origin`; `digest` identifies it.
        why: what is missing, and what to do, for the error if it is needed all the same.

    Example:
        >>> import torch
        >>> from trainers.prompting import MethodTeacher, build_method, load_clip
        >>> names = ["cat", "dog"]
        >>> teacher = MethodTeacher(build_method("CoOp", {}, load_clip("emoji"), names), names)
        >>> teacher.output(torch.zeros(1, 3, 64, 64)).logits.shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        method: Any = None,
        classnames: Sequence[str] = (),
        trained: Any = None,
        origin: Mapping[str, Any] | None = None,
        why: str = "The teacher is missing",
    ):
        super().__init__()
        self._frozen = (method and method.eval().requires_grad_(False),)  # as in `Teacher`
        self.classnames, self.trained, self.why = list(classnames), trained, why
        self.origin = dict(origin or {})
        self._text: TextFeatures | None = None

    @property
    def method(self) -> Any:
        """The method, or None."""
        return self._frozen[0]

    def need(self) -> Any:
        """Return the method; raises a UserError if it is missing."""
        need(self.method is not None, self.why)
        return self.method

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        if self.method is not None:
            self.method._apply(fn)
        if self._text is not None:
            self._text = TextFeatures(fn(self._text.h), fn(self._text.raw))
        return self

    def text(self, classnames: Sequence[str] | None = None) -> TextFeatures:
        """Return h and raw of the method's classes, or of some of them, without gradient.

        Raises:
            UserError: the teacher is missing, and the checkpoint does not have these classes.
        """
        if self._text is None:
            self._text = self.need().text()
        if classnames is None:
            return self._text
        h, raw, names = self._text.h, self._text.raw, list(classnames)
        if names == self.classnames[: len(names)]:
            return TextFeatures(h[:, : len(names)], raw[:, : len(names)])
        lack = [name for name in names if name not in self.classnames]
        need(not lack, f"The checkpoint has no text features of '{lack and lack[0]}'. {self.why}")
        number = [self.classnames.index(name) for name in names]
        return TextFeatures(h[:, number], raw[:, number])

    @torch.no_grad()
    def output(self, images: torch.Tensor) -> Any:
        """Return the method's `Output` of images (B, 3, H, W), without gradient."""
        return self.need().output(images)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what checkpoints hold: origin, class names, text features if they were read."""
        raw = None if self._text is None else self._text.raw.cpu()
        return {"origin": self.origin, "classnames": self.classnames, "raw": raw}

    def set_extra_state(self, state: Any) -> None:
        """Take what `get_extra_state` returned; another teacher than that one counts as missing."""
        origin, names, raw = state["origin"], state["classnames"], state["raw"]
        need(
            raw is None or raw.isfinite().all(),
            "The checkpoint has features of its teacher that are not finite: train again",
        )
        if self.method is not None and self.origin.get("digest") == origin.get("digest"):
            return
        if self.method is not None:
            place = self.origin.get("place")
            self.why = f"The teacher in '{place}' is not that of the training: restore that one"
            print(f"{self.why}; its text features in the checkpoint are used")
        self._frozen, self.trained = (None,), None
        self.origin, self.classnames = dict(origin), list(names)
        if raw is not None:
            self._text = TextFeatures(F.normalize(raw, dim=-1), raw)


def sentences_of(source: Any, classnames: Sequence[str]) -> list[list[str]]:
    """Read any number of sentences about each class.

    Args:
        source: as `read_sentences` takes it.
        classnames: K names.

    Returns:
        K lists of sentences.

    Examples:
        >>> sentences_of({"Cat": ["a cat.", "cats"], "*": ["a {}."]}, ["cat", "dog"])
        [['a cat.', 'cats'], ['a dog.']]
    """
    need(
        source,
        "Sentences about the classes are missing: set SENTENCES to a JSON file "
        'like {"class name": ["a sentence about it", ...], ...}',
    )
    where, about, names = "SENTENCES", source, [clean(name) for name in classnames]
    if isinstance(source, str):
        about, where = read_about(source, "SENTENCES"), f"SENTENCES: '{source}'"
    return with_names(match(about, names, where)[0], names)


def read_sentences(source: Any, classnames: Sequence[str]) -> list[list[str]]:
    """Read sentences about each class, `{class name: [sentence, ...], ...}`.

    Args:
        source: a JSON file, `emoji` for that of the embedded data sets, `medical` for that of
            BiomedCoOp's, or a mapping with the content of such a file. In a class name `_` reads
            as a space. The sentences under `*`, with `{}` for the class name, are for every class
            that is not listed.
        classnames: K names.

    Returns:
        n lists of K sentences: n for each class.

    Raises:
        UserError: the file does not exist, it lacks a class, or classes differ in the number of
            their sentences.

    Examples:
        >>> read_sentences({"cat": ["a cat."], "*": ["a {}."]}, ["cat", "dog"])
        [['a cat.', 'a dog.']]
    """
    rows = sentences_of(source, classnames)
    for name, sentences in zip(classnames, rows, strict=True):
        if len(sentences) != len(rows[0]):
            where = "SENTENCES" if isinstance(source, Mapping) else f"SENTENCES: '{source}'"
            raise UserError(
                f"{where} has {len(rows[0])} sentences for '{clean(classnames[0])}' but "
                f"{len(sentences)} for '{clean(name)}': give all classes the same number"
            )
    return [list(row) for row in zip(*rows, strict=True)]
