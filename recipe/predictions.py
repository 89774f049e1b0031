"""predictions.npz, what a run said of each image, beside its results.json. Needs no PyTorch."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainers.prompting.errors import UserError
from trainers.prompting.files import write_whole

NAME = "predictions.npz"
ARRAYS = ("image", "label", "prediction", "top", "probability", "label_log_probability")


def write_predictions(folder: Path, columns: Mapping) -> dict[str, np.ndarray]:
    """Write what an evaluation said, compressed; the file appears whole.

    Args:
        folder: of the run.
        columns: as `trainers.prompting.predictions` gives them.

    Returns:
        The columns as arrays.

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
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in ARRAYS}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"'{path}' cannot be read ({error}): repeat the run") from None
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f"'{path}' has columns of different lengths: repeat the run")
    return arrays
