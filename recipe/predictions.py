"""predictions.npz, what a run said of each image, beside its results.json. Needs no PyTorch."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_file, write_whole

from .zips import opened, unpacked

NAME = "predictions.npz"
# By name, the kind of an array's type and the number of its axes; the first is of images.
ARRAYS = {
    "image": ("U", 1),
    "label": ("i", 1),
    "prediction": ("i", 1),
    "top": ("i", 2),
    "probability": ("f", 2),
    "label_log_probability": ("f", 1),
}
# Columns that not every run has, and those over base and new classes together: all or none.
MORE = {"mcm": ("f", 1), "scaled_probability": ("f", 1)}
JOINT = {
    "joint_label": ("i", 1),
    "joint_prediction": ("i", 1),
    "joint_probability": ("f", 1),
    "base_probability": ("f", 1),
    "joint_label_log_probability": ("f", 1),
    "joint_scaled_probability": ("f", 1),  # where there is `scaled_probability`
}
KINDS = ARRAYS | MORE | JOINT
MOST_BYTES = 2**28  # of a column: 600,000 images with paths of 100 letters


def write_predictions(folder: Path, columns: Mapping) -> dict[str, np.ndarray]:
    """Write what an evaluation said, compressed; the file appears whole.

    Args:
        folder: of the run.
        columns: as `trainers.prompting.storage.predictions` gives them; returned as arrays.

    Raises:
        OSError: as the system says.
    """
    stream = io.BytesIO()
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_whole(folder / NAME, stream.getvalue())
    return arrays


def read_predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays that a run left, as `arrays_in` has them; None without a file.

    Raises:
        UserError: the file is damaged, or not one of ours.
    """
    path = folder / NAME
    try:
        return arrays_in(read_file(path))
    except FileNotFoundError:
        return None
    except Exception as error:  # unpacking raises nearly every type there is
        raise UserError(f"'{path}' cannot be read ({error}): repeat the run") from None


def arrays_in(content: bytes) -> dict[str, np.ndarray]:
    """The arrays in the content of such a file, all of `ARRAYS` and some of the others.

    Memory is taken for what is there, whatever headers claim.

    Raises:
        Exception: it is damaged, or not one of ours; nearly every type there is.
    """
    with opened(io.BytesIO(content)) as archive:
        there = archive.namelist()
        arrays = {
            name: _array(unpacked(archive, f"{name}.npy", MOST_BYTES))
            for name in KINDS
            if name in ARRAYS or f"{name}.npy" in there
        }
    _check(arrays)
    return arrays


def _array(content: bytes) -> np.ndarray:
    """The array in a `.npy` file, whose header must be about the bytes that are there."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array is in another format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"an array {shape} of {dtype} has {len(content):,} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError where an array is not as `write_predictions` leaves it."""
    n = len(arrays["label"])
    joint, scaled = JOINT.keys() & arrays.keys(), "scaled_probability" in arrays
    wanted = {name for name in JOINT if scaled or "scaled" not in name}
    if joint and (odd := joint ^ wanted):
        raise ValueError(f"'{min(odd)}' does not go with the other columns")
    for name, array in arrays.items():
        kind, axes = KINDS[name]
        if array.dtype.kind != kind or array.ndim != axes or len(array) != n or not array.size:
            raise ValueError(f"'{name}' is an array {array.shape} of {array.dtype}")
        if kind == "i" and array.min() < 0 or kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"'{name}' has numbers that cannot be")
    if arrays["top"].shape != arrays["probability"].shape:
        raise ValueError("'top' and 'probability' have different shapes")
