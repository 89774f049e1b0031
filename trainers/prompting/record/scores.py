"""A run's labels and logits of test images that have several labels, written and read.

The file, `scores.npz`, takes the place of `predictions.npz`; reading it needs no PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .predictions import read_arrays, relative_files

if TYPE_CHECKING:
    import torch

NAME = "scores.npz"


class Scores:
    """The logits of one evaluation, (n, K); they stay on the device until `columns` is called.

    Attributes:
        temperature: None, as no softmax is meant.
    """

    temperature = None

    def __init__(self) -> None:
        self.files: list[str] = []
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add_images(self, files: list[str], labels: torch.Tensor) -> None:
        """Add the file names (B) of the next batch; its labels come with its logits."""
        self.files += files

    def add_logits(self, labels: torch.Tensor, logits: torch.Tensor) -> None:
        """Add labels and logits (B, K); what float16 cannot hold becomes its greatest number."""
        most = float(np.finfo(np.float16).max)
        self._kept.append((labels, logits.float().clamp(-most, most).half()))

    def __len__(self) -> int:
        return sum(len(labels) for labels, _ in self._kept)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (n, K), int8, and logits (n, K), float16."""
        import torch  # late: reports read files without it

        labels, logits = (torch.cat(each).cpu().numpy() for each in zip(*self._kept, strict=True))
        return labels, logits

    def columns(self) -> dict[str, list[str] | np.ndarray]:
        """Return the columns by name: `image`, as that of predictions, and `arrays`."""
        label, logit = self.arrays()
        return {"image": relative_files(self.files), "label": label, "logit": logit}


def read_scores(folder: Path) -> dict[str, np.ndarray] | None:
    """Read a run's columns; None if there is no file."""
    return read_arrays(folder / NAME, ("image", "label", "logit"))
