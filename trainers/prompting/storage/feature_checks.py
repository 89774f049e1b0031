"""Checks of a file of features, without which numbers would be wrong.

Letters: N images, D the width of the features, K classes, V views of each of n images.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import printable

TEXT = "text/"  # before the template, in the name of a tensor
SENTENCE, OWNER = "sentence/", "sentence_of/"  # before the name of a set of sentences
APART = 0.02  # from norm 1, of features that count as normalised; half precision needs 0.001
HALF = 2**-10  # of a norm: both were rounded
ROWS = 65_536  # that are checked at once
NEEDED = ("classnames", "split", "logit_scale", "normalised", "template", "clip")  # in a header
DEFAULTS: dict[str, Any] = {
    "text_norm": 1.0, "dataset": "", "made_of": "", "sentence_files": {}, "images": [],
}  # fmt: skip


def same_rows(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return True if features (..., D) are equal within the rounding of float16."""
    one, other = one.float(), other.float()
    return bool(((one - other).norm(dim=-1) <= HALF * one.norm(dim=-1)).all())


class Flaw(Exception):
    """What is wrong with a file; the error adds its path."""


def values_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of NEEDED and DEFAULTS in a header."""
    return {key: header[key] for key in NEEDED} | {k: header.get(k, x) for k, x in DEFAULTS.items()}


def check_content(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a header.

    Raises:
        Flaw: tensors and header do not fit together.
        Exception: they are of another kind.
    """
    own = values_of(header)
    text = {k.removeprefix(TEXT): v for k, v in tensors.items() if k.startswith(TEXT)}
    if not 0 < own["logit_scale"] < math.inf:
        raise Flaw(f"its header has the 'logit_scale' {own['logit_scale']}, not a positive factor")
    if own["template"] not in text:
        raise Flaw(
            f"its header has the template '{printable(own['template'])[:60]}', but it has text "
            f"features of {', '.join(f'{printable(x)[:60]!r}' for x in list(text)[:5]) or 'none'}"
        )
    N, K = len(tensors["image"]), len(own["classnames"])
    _check_shapes(tensors, K)
    _check_numbers(tensors, own["normalised"])
    for name, rows in tensors.items():
        if name == "label" and rows.dim() == 2:
            _check_rows(name, rows, 2, -1)
        elif name in ("label", "views_of") or name.startswith(OWNER):
            _check_rows(name, rows, N if name == "views_of" else K)
    trained = set(own["split"]["train"])
    for part in ("train", "val", "test"):
        rows = own["split"][part]
        _check_rows(f"{part} of its split", torch.tensor(rows), N)
        if part != "train" and (both := trained.intersection(rows)):  # val and test may be the same
            raise Flaw(f"row {min(both)} is for training and in {part} of its split")
    if own["images"] and (len(own["images"]), len(set(own["images"]))) != (N, N):
        raise Flaw(f"its header has {len(set(own['images'])):,} different names of {N:,} images")
    return own


def _check_shapes(tensors: Mapping[str, torch.Tensor], K: int) -> None:
    N, D = tensors["image"].shape
    shapes: dict[str, tuple[int, ...]] = {"label": (N, K) if tensors["label"].dim() == 2 else (N,)}
    if (views := tensors.get("views")) is not None:
        V, n, _ = views.shape
        shapes |= {"views": (V, n, D), "views_of": (n,)}
    for name, tensor in tensors.items():
        if name.startswith(TEXT):
            shapes[name] = (K, D)
        elif name.startswith(SENTENCE):
            shapes[name] = (len(tensor), D)
            shapes[name.replace(SENTENCE, OWNER, 1)] = (len(tensor),)
    for name, shape in shapes.items():
        if (found := tuple(tensors[name].shape)) != shape:
            raise Flaw(
                f"'{printable(name)}' has the shape {found}, not {shape}, with {N:,} images of "
                f"width {D} and {K} classes"
            )


def _check_numbers(tensors: Mapping[str, torch.Tensor], normalised: bool) -> None:
    for name, value in tensors.items():
        if name in ("label", "views_of") or name.startswith(OWNER):
            continue
        for start, some in enumerate(value.flatten(0, -2).split(ROWS)):
            norms = some.float().norm(dim=-1)
            bad = ~norms.isfinite() | (norms == 0)
            what = "numbers that are not finite, or only zeros,"
            if normalised and not bad.any():
                bad, what = (norms - 1).abs() > APART, "a norm other than 1, although normalised,"
            if bad.any():
                row = start * ROWS + int(bad.nonzero()[0])
                raise Flaw(f"'{printable(name)}' has {what} in row {row}")


def _check_rows(name: str, rows: torch.Tensor, end: int, least: int = 0) -> None:
    if rows.numel() and not least <= int(rows.min()) <= int(rows.max()) < end:
        raise Flaw(
            f"'{printable(name)}' has numbers from {int(rows.min())} to {int(rows.max())}, but "
            f"they must be {least} to {end - 1}"
        )
