"""Files of features: of a data set's images, and of sentences about its classes, under one CLIP.

docs/features.md has the layout. A file is safetensors; nothing in it is executed.

Letters: N images, D the width of the features, K classes, V views of each of n images.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UserError, in_short, printable
from ..node import clean
from .feature_checks import (
    HALF,
    OWNER,
    SENTENCE,
    TEXT,
    Flaw,
    check_content,
    same_rows,
    values_of,
)
from .files import write_whole

HEADER = "header"  # the entry of the metadata: a JSON object
LAYOUT = "docs/features.md has the layout"
FEW = 3  # templates, and classes, of the sentences that a checkpoint keeps


@dataclass(eq=False)
class Features:
    """The content of a file of features.

    Attributes:
        path: absolute.
        image: (N, D); label: (N,), int64, or (N, K), int8, of 1, 0 and -1.
        views: (V, n, D) or None; views_of: (n,), their rows.
        text: template -> (K, D), as stored.
        sets: name -> features (S, D) of sentences, as stored, and their classes (S,).
        sentence_files: name -> the file that they are of, and what it held, if it was noted.
        classnames: K names; split: part -> rows, in order; images: N names or digests, or empty.
        logit_scale: the factor, not its logarithm.
        normalised: True if image and text features have norm 1.
        text_norm: what normalised text features are multiplied by.
        template: of the sentences that stand for the data set's own.
        clip: name of the CLIP; dataset: name of the data set's class, or empty.
        made_of: fingerprint of images and CLIP, or empty.
    """

    path: str
    image: torch.Tensor
    label: torch.Tensor
    views: torch.Tensor | None
    views_of: torch.Tensor | None
    text: dict[str, torch.Tensor]
    sets: dict[str, tuple[torch.Tensor, torch.Tensor]]
    sentence_files: dict[str, str]
    classnames: list[str]
    split: dict[str, list[int]]
    images: list[str]
    logit_scale: float
    normalised: bool
    text_norm: float
    template: str
    clip: str
    dataset: str
    made_of: str

    @property
    def several(self) -> bool:
        """True if an image has several labels."""
        return self.label.dim() == 2

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of each row by its place, a path that names the row in this file."""
        return {self.place(row): row for row in range(len(self.label))}

    def place(self, row: int) -> str:
        """Return the place of a row: the path of the file, and a name or a number below it."""
        return f"{self.path}/{self.images[row] if self.images else f'{row:06d}'}"

    def sentences(self, template: str) -> torch.Tensor:
        """Return text features (K, D), float32, of a template in `text`: times `text_norm`."""
        return self.as_read(self.text[template])

    def as_read(self, features: torch.Tensor) -> torch.Tensor:
        """Return text features, float32, as methods read them."""
        features = features.float()
        return F.normalize(features, dim=-1) * self.text_norm if self.normalised else features

    def traits(self) -> dict[str, Any]:
        """Return what tells its encoder apart, with sentences of FEW templates and classes."""
        order = sorted(self.text, key=lambda template: (template != self.template, template))
        rows = {clean(name): k for k, name in enumerate(self.classnames)}
        few = sorted(rows)[:FEW]
        text = {template: self.sentences(template) for template in order[:FEW]}
        return {
            "logit_scale": self.logit_scale,
            "normalised": self.normalised,
            "width": self.image.shape[1],
            "text": {t: {name: x[rows[name]].clone() for name in few} for t, x in text.items()},
        }


def differing_traits(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return how the traits of two encoders differ; None if they do not.

    Numbers, and the sentences that both have, are compared within the rounding of float16.
    """
    for name in ("width", "normalised", "logit_scale"):
        if abs(then[name] - now[name]) > HALF * abs(then[name]):
            return f"{name} {then[name]}, not {now[name]}"
    for template in filter(now["text"].__contains__, then["text"]):
        one, other = then["text"][template], now["text"][template]
        for name in filter(other.__contains__, one):
            if not same_rows(one[name], other[name]):
                return f"other text features of '{printable(name)}'"
    return None


def read_features(path: str | os.PathLike[str]) -> Features:
    """Read and check a file of features; an unchanged file is read once.

    Examples:
        >>> read_features("no.safetensors")
        Traceback (most recent call last):
        UserError: There is no file of features 'no.safetensors': check the path
    """
    features: Features = _of(path, _read)
    return features


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the header of a file of features, without its tensors; raises as `read_features`."""
    header: dict[str, Any] = _of(path, _header)
    return dict(header)


def write_features(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write a file of features, atomically; the same content gives the same bytes.

    Args:
        path: of the file.
        tensors: `image`, `label`, `text/TEMPLATE`, and optionally `views` and `views_of`,
            `sentence/NAME` and `sentence_of/NAME`.
        header: its keys, and any others that JSON can hold.

    Raises:
        OSError: as the system says.
    """
    from safetensors.torch import save

    path = Path(path)
    try:
        check_content(tensors, header)
    except Exception as error:  # what does not fit together raises errors of many types
        raise UserError(f"'{path}' is not written, as {_why(error)} ({LAYOUT})") from None
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    # one entry of metadata: several have no fixed order in the file
    write_whole(path, save({k: v.contiguous() for k, v in tensors.items()}, {HEADER: text}))


# ---------------------------------------------------------------------- reading


def _of(path: str | os.PathLike[str], read: Callable[[str, int], Any]) -> Any:
    """Return what `read` finds in a file, with its errors turned into one sentence."""
    try:
        if not os.path.isfile(path):
            raise UserError(f"There is no file of features '{path}': check the path")
        return read(os.path.abspath(path), os.stat(path).st_mtime_ns)
    except UserError:
        raise
    except Exception as error:  # a broken file raises errors of many types
        why = _why(error)
    raise UserError(f"'{path}' is no file of features that can be read, as {why}: {LAYOUT}")


def _why(error: Exception) -> str:
    """Return what is wrong with a file, as a clause."""
    is_flaw = isinstance(error, Flaw)
    return str(error) if is_flaw else f"it is damaged or of another kind ({in_short(error)})"


@lru_cache(maxsize=2)
def _read(path: str, _changed: int) -> Features:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = _header_of(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = check_content(tensors, header)
    content |= {name: tensors.get(name) for name in ("image", "views", "views_of")}
    content["text"] = {k.removeprefix(TEXT): v for k, v in tensors.items() if k.startswith(TEXT)}
    content["sets"] = {
        name: (tensors[SENTENCE + name], tensors[OWNER + name].long())
        for name in (k.removeprefix(SENTENCE) for k in tensors if k.startswith(SENTENCE))
    }
    label = tensors["label"]
    return Features(path=path, label=label if label.dim() == 2 else label.long(), **content)


@lru_cache(maxsize=2)
def _header(path: str, _changed: int) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return values_of(_header_of(file))


def _header_of(file: Any) -> Any:
    return json.loads((file.metadata() or {})[HEADER])
