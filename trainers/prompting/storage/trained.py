"""An earlier training on which another one builds, such as that of a teacher."""

import ast
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .checkpoints import find_checkpoint, read_checkpoint


class Trained:
    """What was learned in a training, by this project or by public code.

    Args:
        place: the output folder of a run, the folder of a public checkpoint, or its file.
        key: the setting that gives the place, for messages.
        remedy: what to do if there is no checkpoint, for messages.

    Attributes:
        place: as given.
        state: the content of the checkpoint.
        tensors: what was learned, by name.

    Raises:
        UserError: there is no checkpoint, or it is broken.
    """

    def __init__(self, place: str, key: str, remedy: str):
        self.place = place
        self.state: Mapping[str, Any] = read_checkpoint(checkpoint_at(place, key, remedy))
        self.tensors: Mapping[str, Any] = self.state.get("state_dict", self.state)

    def values(self, places: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of settings, without those that are None or missing.

        Args:
            places: dotted key in the settings of the checkpoint, by the name to return.
        """
        saved = self.state["settings"]
        texts = {name: saved.get(place, "None") for name, place in places.items()}
        values = {name: _literal(text) for name, text in texts.items()}
        return {name: value for name, value in values.items() if value is not None}

    def digest(self) -> int:
        """Return a number that identifies what was learned."""
        found = hashlib.sha256()
        for name in sorted(self.tensors):
            if torch.is_tensor(value := self.tensors[name]):
                found.update(value.float().cpu().contiguous().numpy().tobytes())
        return int.from_bytes(found.digest()[:7])


def checkpoint_at(place: str, key: str, remedy: str) -> str:
    """Return the path of the checkpoint at a place: its file, its folder, or that of the run.

    Raises:
        UserError: there is none, or there are several.
    """
    if os.path.isfile(place):
        return place
    files: Iterable[Path] = Path(place).glob("**/model*.pth.tar*") if os.path.isdir(place) else ()
    folders = {file.parent for file in files}
    if len(folders) != 1:
        what = "several checkpoints" if folders else "no checkpoint"
        raise UserError(f"{key} is '{place}', where there is {what}: {remedy}")
    return find_checkpoint(str(folders.pop()), None)


def _literal(text: str) -> object:
    """Return the value of a setting, of which a path is stored without quotes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
