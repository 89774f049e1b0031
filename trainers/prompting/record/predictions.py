"""Reads and writes predictions.npz, a run's prediction for each test image.

The file is in the folder of results.json. Needs no PyTorch.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ..errors import UserError
from ..storage.files import read_file, write_whole

NAME = "predictions.npz"
# Name of an array -> kind of its type, number of axes; the first axis is that of the images.
ARRAYS = {
    "image": ("U", 1),
    "label": ("i", 1),
    "prediction": ("i", 1),
    "top": ("i", 2),
    "probability": ("f", 2),
    "label_log_probability": ("f", 1),
}
# Optional columns, and those over base and new classes together: a run has all of JOINT or none.
MORE = {"mcm": ("f", 1), "scaled_probability": ("f", 1)}
BESIDE = {"zero_shot": ("i", 1), "turn": ("i", 1)}  # each of some methods
JOINT = {
    "joint_label": ("i", 1),
    "joint_prediction": ("i", 1),
    "joint_probability": ("f", 1),
    "base_probability": ("f", 1),
    "joint_label_log_probability": ("f", 1),
    "joint_scaled_probability": ("f", 1),  # where there is `scaled_probability`
}
KINDS = ARRAYS | MORE | BESIDE | JOINT


def write_predictions(folder: Path, columns: Mapping) -> dict[str, np.ndarray]:
    """Write the predictions of an evaluation, compressed and atomically; return them as arrays.

    Raises:
        OSError: as the system says.
    """
    stream = io.BytesIO()
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_whole(folder / NAME, stream.getvalue())
    return arrays


def read_predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """Read a run's arrays: all of `ARRAYS`, some of the others. None if there is no file.

    Raises:
        UserError: the file is damaged, or not of this project.
    """
    path = folder / NAME
    try:
        with NpzFile(io.BytesIO(read_file(path))) as file:  # reads no pickled objects
            arrays = {name: file[name] for name in KINDS if name in ARRAYS or name in file}
        _check(arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # unpacking raises errors of many types
        raise UserError(f"'{path}' cannot be read ({error}): repeat the run") from None
    return arrays


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError if an array is not as `write_predictions` writes it."""
    n = len(arrays["label"])
    joint, scaled = JOINT.keys() & arrays.keys(), "scaled_probability" in arrays
    expected = {name for name in JOINT if scaled or "scaled" not in name}
    if joint and (odd := joint ^ expected):
        raise ValueError(f"'{min(odd)}' does not go with the other columns")
    for name, array in arrays.items():
        kind, axes = KINDS[name]
        if array.dtype.kind != kind or array.ndim != axes or len(array) != n or not array.size:
            raise ValueError(f"'{name}' is an array {array.shape} of {array.dtype}")
        if kind == "i" and array.min() < 0 or kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"'{name}' has numbers that are negative or not finite")
    if arrays["top"].shape != arrays["probability"].shape:
        raise ValueError("'top' and 'probability' have different shapes")
