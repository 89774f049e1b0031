"""Checks of a file of features: that what it holds can be what it says, and fits together.

Letters: N images, D the width of the features, K classes, V views of each of n images.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import printable
from ..node import clean

PARTS = ("train", "val", "test")
TEXT = "text/"  # before the template, in the name of a tensor
SENTENCE, OWNER = "sentence/", "sentence_of/"  # before the name of a set of sentences
APART = 0.02  # from norm 1, of features that count as normalised; half precision needs 0.001
HALF = 2**-10  # of a norm: both were rounded
ROWS = 65_536  # that are checked at once


def same_rows(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return True if features (..., D) are equal within the rounding of float16."""
    one, other = one.float(), other.float()
    return bool(((one - other).norm(dim=-1) <= HALF * one.norm(dim=-1)).all())


class Flaw(Exception):
    """What is wrong with a file; the error adds its path."""


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _name(value: object) -> bool:
    return isinstance(value, str) and printable(value) == value


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and value is not True and 0 < value < math.inf


def _rows(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {*PARTS} and all(
        isinstance(rows, list) and all(type(row) is int for row in rows) for rows in value.values()
    )  # fmt: skip


# Key of the header -> test, what it must be, and its default; None: it must be there.
KEYS: dict[str, tuple[Callable[[Any], bool], str, Any]] = {
    "classnames": (
        lambda v: _texts(v) and len(v) > 1 and all(name.strip() for name in v),
        "a list of two or more class names", None,
    ),
    "split": (_rows, "lists of rows by train, val and test", None),
    "logit_scale": (_positive, "the positive factor of the logits", None),
    "normalised": (lambda v: isinstance(v, bool), "true or false", None),
    "template": (_name, "one of the templates with text features", None),
    "clip": (lambda v: _name(v) and v.strip() != "", "the name of a CLIP", None),
    "text_norm": (_positive, "a positive factor", 1.0),
    "dataset": (lambda v: isinstance(v, str), "the name of a data set", ""),
    "made_of": (lambda v: isinstance(v, str), "a fingerprint", ""),
    "sentence_files": (
        lambda v: isinstance(v, dict) and _texts([*v.values()]),
        "the file of each set of sentences, by name", {},
    ),
    "images": (_texts, "a list of image names or digests", []),
}  # fmt: skip


def check_header(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `KEYS`."""
    values = {}
    for key, (holds, wanted, default) in KEYS.items():
        if key not in header and default is None:
            raise Flaw(f"its header lacks '{key}', {wanted}")
        values[key] = header.get(key, default)
        if not holds(values[key]):
            text = printable(json.dumps(values[key])[:60])
            raise Flaw(f"its header has {text} for '{key}', which is not {wanted}")
    if values["text_norm"] != 1 and not values["normalised"]:
        raise Flaw("its header has a 'text_norm', but its features are not normalised")
    return values


def check_content(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `KEYS`; raises `Flaw` if tensors and header do not fit together."""
    own = check_header(header)
    text = {k.removeprefix(TEXT): v for k, v in tensors.items() if k.startswith(TEXT)}
    sets = {k.removeprefix(SENTENCE): v for k, v in tensors.items() if k.startswith(SENTENCE)}
    of_sets = tuple(prefix + name for name in sets for prefix in (SENTENCE, OWNER))
    rest = {k: v for k, v in tensors.items() if not k.startswith(TEXT) and k not in of_sets}
    if odd := [k for k in rest if k not in ("image", "label", "views", "views_of")]:
        raise Flaw(f"it has '{printable(odd[0])}', which is not the name of anything in it")
    for name in ("image", "label"):
        if name not in rest:
            raise Flaw(f"it lacks '{name}'")
    image, label, K = rest["image"], rest["label"], len(own["classnames"])
    if image.dim() != 2 or not image.numel():
        raise Flaw(f"'image' has the shape {tuple(image.shape)}, not (N, D)")
    (N, D), views = image.shape, rest.get("views")
    rows = rest.get("views_of")
    if (views is None) != (rows is None):
        raise Flaw("'views' and 'views_of' do not come together")
    if not text:
        raise Flaw("it has no text features ('text/TEMPLATE')")
    shapes = {"label": (N,), **{TEXT + name: (K, D) for name in text}}
    if views is not None and rows is not None:
        if views.dim() != 3 or not views.numel():
            raise Flaw(f"'views' has the shape {tuple(views.shape)}, not (V, n, D)")
        shapes |= {"views": (len(views), len(rows), D), "views_of": (views.shape[1],)}
    for name, features in sets.items():
        if OWNER + name not in tensors or not _name(name) or not name.strip():
            raise Flaw(f"'{printable(SENTENCE + name)}' has no '{OWNER}...' of the same plain name")
        shapes |= {SENTENCE + name: (len(features), D), OWNER + name: (len(features),)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise Flaw(
                f"'{printable(name)}' has the shape {tuple(tensors[name].shape)}, not {shape}, "
                f"with {N:,} images of width {D} and {K} classes"
            )
    _check_numbers(tensors, own["normalised"])
    _check_rows("label", label, K)
    if rows is not None:
        _check_rows("views_of", rows, N)
        if len(rows.unique()) < len(rows):
            raise Flaw("'views_of' has a row twice")
    for name in sets:
        of = tensors[OWNER + name]
        _check_rows(OWNER + name, of, K)
        if lacking := {*range(K)}.difference(of.tolist()):
            lacked = printable(own["classnames"][min(lacking)])
            raise Flaw(f"'{SENTENCE}{name}' has no sentence of the class '{lacked}'")
    _check_split(own["split"], N)
    _check_names(own, N, text)
    return own


def _check_numbers(tensors: Mapping[str, torch.Tensor], normalised: bool) -> None:
    for name, value in tensors.items():
        shown = printable(name)
        if name in ("label", "views_of") or name.startswith(OWNER):
            if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
                raise Flaw(f"'{shown}' is of {value.dtype}, not of whole numbers")
            continue
        if not value.is_floating_point():
            raise Flaw(f"'{shown}' is of {value.dtype}, not of floating-point numbers")
        for start, some in enumerate(value.flatten(0, -2).split(ROWS)):
            norms = some.float().norm(dim=-1)
            bad = ~norms.isfinite() | (norms == 0)
            what = "numbers that are not finite, or only zeros,"
            if normalised and not bad.any():
                bad, what = (norms - 1).abs() > APART, "a norm other than 1, although normalised,"
            if bad.any():
                row = start * ROWS + int(bad.nonzero()[0])
                raise Flaw(f"'{shown}' has {what} in row {row}")


def _check_rows(name: str, rows: torch.Tensor, end: int) -> None:
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < end:
        low, high = int(rows.min()), int(rows.max())
        raise Flaw(f"'{name}' has numbers from {low} to {high}, but they must be 0 to {end - 1}")


def _check_split(split: Mapping[str, list[int]], N: int) -> None:
    for part, rows in split.items():
        _check_rows(f"{part} of its split", torch.tensor(rows, dtype=torch.float64), N)
        if len(set(rows)) < len(rows):
            raise Flaw(f"{part} of its split has a row twice")
    trained = set(split["train"])
    for part in ("val", "test"):  # those two may be the same, as on ImageNet
        if both := trained.intersection(split[part]):
            raise Flaw(f"row {min(both)} is for training and in {part} of its split")


def _check_names(own: Mapping[str, Any], N: int, text: Mapping[str, torch.Tensor]) -> None:
    names, template = own["images"], own["template"]
    if template not in text:
        raise Flaw(
            f"its header has the template '{printable(template)[:60]}', but it has text features "
            f"of {', '.join(f'{printable(name)[:60]!r}' for name in list(text)[:5])}"
        )
    if names and (len(names) != N or len(set(names)) < N):
        raise Flaw(f"its header has {len(set(names)):,} different names of {N:,} images")
    for name in names:
        inside = os.path.normpath(name)
        if not name.strip() or os.path.isabs(name) or inside.split(os.sep)[0] == os.pardir:
            raise Flaw(f"its header has the image name '{printable(name)[:60]}', not one below it")
    seen: dict[str, int] = {}
    for k, name in enumerate(own["classnames"]):
        first = seen.setdefault(clean(name), k)  # as sentences are looked up
        if not all(same_rows(rows[k], rows[first]) for rows in text.values()):
            both = f"classes {first} and {k} both read '{printable(clean(name))}'"
            raise Flaw(f"{both} but have other text features")
