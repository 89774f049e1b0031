"""predictions.npz, what a run said of each image, beside its results.json. Needs no PyTorch."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_file, write_whole

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
    """The arrays that a run left; None when it left none.

    Raises:
        UserError: the file is damaged, or not one of ours.
    """
    path = folder / NAME
    try:
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as found:
            arrays = {name: found[name] for name in ARRAYS}
        _check(arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # unpacking raises nearly every type there is
        raise UserError(f"'{path}' cannot be read ({error}): repeat the run") from None
    return arrays


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError where an array is not as `write_predictions` leaves it."""
    n = len(arrays["label"])
    for name, (kind, axes) in ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.ndim != axes or len(array) != n or not array.size:
            raise ValueError(f"'{name}' is an array {array.shape} of {array.dtype}")
        if kind == "i" and array.min() < 0 or kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"'{name}' has numbers that cannot be")
    if arrays["top"].shape != arrays["probability"].shape:
        raise ValueError("'top' and 'probability' have different shapes")
