"""A run's prediction for each test image: collected batch by batch, written and read.

The file, `predictions.npz`, is in the folder of results.json; reading it needs no PyTorch.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.npyio import NpzFile

from ..errors import UserError
from ..storage.files import write_whole

if TYPE_CHECKING:
    import torch

NAME = "predictions.npz"
TOP = 5  # classes kept for each image
# Columns of every file (`Predictions.columns` says what they are); some have more.
ARRAYS = "image", "label", "prediction", "top", "probability", "label_log_probability"


def confidence(logits: torch.Tensor) -> torch.Tensor:
    """Return the greatest value of the softmax over classes, (..., K) -> (...)."""
    return logits.softmax(-1).amax(-1)


class Predictions:
    """The predictions of one evaluation; they stay on the device until `columns` is called.

    Args:
        scale: of the logits, CLIP's 1 / tau.
        new: True if the run's classes are the new ones, which follow the base classes in the union.

    Attributes:
        temperature: of `scaled_probability` and `joint_scaled_probability`, which None leaves out.
        order: the number of each image in the data set, if they come in another order.
        note: why the union of base and new classes is left out; else empty.
        calibration_note: why calibration is left out; else empty.
        validation: logits (n, K) and labels (n,) of the validation images, if they were read.
    """

    temperature: float | None = None
    order: Sequence[int] | None = None
    note = ""
    calibration_note = ""
    validation: Sequence[np.ndarray] | None = None

    def __init__(self, scale: torch.Tensor | float = 1.0, new: bool = False):
        self.files: list[str] = []
        self.scale, self.new = scale, new
        self._columns: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add_images(self, files: list[str], labels: torch.Tensor) -> None:
        """Add the file names (B) and labels (B,) of the next batch."""
        self.files += files
        self._columns["label"].append(labels)

    def add_logits(
        self,
        logits: torch.Tensor,
        others: torch.Tensor | None = None,
        in_union: torch.Tensor | None = None,
    ) -> None:
        """Add the logits of the batch that `add_images` added last.

        Args:
            logits: (B, K), of the classes of the run.
            others: (B, K'), of the classes of the other half.
            in_union: (B, K), of the classes of the run in the union with the others, if these
                logits differ there.
        """
        labels = self._columns["label"][-1][:, None]
        logits = logits.float()
        log_p = logits.log_softmax(1)
        top = log_p.topk(min(TOP, log_p.shape[1]), dim=1)
        columns = {
            # argmax, as the evaluator: for equal logits it may differ from the first of topk
            "prediction": logits.argmax(1),
            "top": top.indices,
            "probability": top.values.exp().half(),
            "label_log_probability": log_p.gather(1, labels)[:, 0],
            "mcm": confidence(logits / self.scale),
        }
        if self.temperature is not None:
            columns["scaled_probability"] = confidence(logits / self.temperature)
        if others is not None:
            own = logits if in_union is None else in_union.float()
            columns |= self._union(own, others.float(), labels)
        for name, values in columns.items():
            self._columns[name].append(values)

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add the values (B,) of a further column for the last batch."""
        self._columns[name].append(values)

    def hits(self, name: str) -> torch.Tensor | None:
        """Return where a column is right, (n,), in the order in which images came; None without."""
        import torch  # late: reports read files without it

        if name not in self._columns:
            return None
        return (torch.cat(self._columns[name]) == torch.cat(self._columns["label"])).cpu()

    def _union(self, own, others, labels) -> dict[str, torch.Tensor]:
        """Return the columns over base and new classes together."""
        import torch

        logits = torch.cat([others, own] if self.new else [own, others], 1)
        K = (others if self.new else own).shape[1]  # base classes
        if self.new:
            labels = labels + K
        log_p = logits.log_softmax(1)
        columns = {
            "joint_label": labels[:, 0],
            "joint_prediction": logits.argmax(1),
            "joint_probability": log_p.amax(1).exp(),
            "base_probability": log_p[:, :K].amax(1).exp(),
            "joint_label_log_probability": log_p.gather(1, labels)[:, 0],
        }
        if self.temperature is not None:
            columns["joint_scaled_probability"] = confidence(logits / self.temperature)
        return columns

    def columns(self) -> dict[str, list[str] | torch.Tensor]:
        """Return the columns by name, with one row for each image in the order of the data set.

        Returns:
            `image` (n,), files relative to the folder that holds all of them; `label` and
            `prediction` (n,), classes by number; `top` and `probability` (n, 5), the likeliest
            classes, best first (n, K if K < 5); `label_log_probability` (n,), natural logarithm;
            `mcm` (n,), the greatest value of the softmax of logits without their scale;
            `scaled_probability` (n,), of the prediction after division by the temperature;
            `zero_shot` (n,), the prediction of zero-shot CLIP; `turn` (n,), the place in the order
            in which the images came.
            Over base and new classes together: `joint_label`, `joint_prediction`,
            `joint_probability`, `joint_label_log_probability` and `joint_scaled_probability`
            likewise, and `base_probability`, the greatest of a base class, all (n,).
        """
        import torch

        files = relative_files(self.files)
        columns = {name: torch.cat(values).cpu() for name, values in self._columns.items()}
        if self.order is not None:
            place = torch.tensor(self.order).argsort()
            files = [files[i] for i in place]
            columns = {name: values[place] for name, values in columns.items()} | {"turn": place}
        return {"image": files} | {
            name: values if values.is_floating_point() else values.int()
            for name, values in columns.items()
        }


def relative_files(files: Sequence[str]) -> list[str]:
    """Return paths relative to the folder that holds all of them."""
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    return [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]


def write_predictions(folder: Path, columns: Mapping, name: str = NAME) -> dict[str, np.ndarray]:
    """Write the predictions of an evaluation, compressed and atomically; return them as arrays.

    Raises:
        OSError: as the system says.
    """
    stream = io.BytesIO()
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_whole(folder / name, stream.getvalue())
    return arrays


def read_predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """Read a run's arrays: all of `ARRAYS`, some of the others. None if there is no file."""
    return read_arrays(folder / NAME, ARRAYS)


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """Read the arrays of a file, by name, of which it must have some; None without a file."""
    try:
        with NpzFile(io.BytesIO(path.read_bytes())) as file:  # reads no pickled objects
            arrays = {name: file[name] for name in (*names, *file)}
    except FileNotFoundError:
        return None
    except Exception as error:  # unpacking raises errors of many types
        raise UserError(f"'{path}' cannot be read ({error}): repeat the run") from None
    return arrays
