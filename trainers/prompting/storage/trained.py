"""An earlier training on which another one builds, such as that of a teacher."""

import ast
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, need
from .checkpoints import find_checkpoint, read_checkpoint
from .state import are_texts, is_settings

UNKNOWN = "unknown"  # of public checkpoints, which do not say it
# What records say of an earlier training, with its keys.
FACTS = {
    "dataset": "DATASET.NAME",
    "classes": "DATASET.SUBSAMPLE_CLASSES",
    "shots": "DATASET.NUM_SHOTS",
    "seed": "SEED",
    "label_noise": "DATASET.LABEL_NOISE",
    "label_noise_kind": "DATASET.LABEL_NOISE_KIND",
    "imbalance": "DATASET.IMBALANCE",
}


class Trained:
    """What was learned in a training, by this project or by public code.

    Args:
        place: the output folder of a run, the folder of a public checkpoint, or its file.
        key: the setting that gives the place, for messages.
        remedy: what to do if there is no checkpoint, for messages.

    Attributes:
        place: as given.
        state: the whole checkpoint.
        tensors: what was learned, by name.
        method: its name; None in a public checkpoint.
        settings: texts by dotted key; empty in a public checkpoint.
        classnames: of the training; empty in a public checkpoint.
        images: what the checkpoint says of the images of the training, unchecked.
        backbone, backbone_sha256: name and hash of the CLIP, or None.

    Raises:
        UserError: there is no checkpoint, it is broken, or its training has not ended.
    """

    def __init__(self, place: str, key: str, remedy: str):
        self.place = os.path.normpath(place)
        self.state = state = read_checkpoint(checkpoint_at(self.place, key, remedy))
        self.tensors: Mapping[str, Any] = state.get("state_dict", state)
        self.method, self.settings = state.get("trainer"), state.get("settings", {})
        self.classnames, self.images = state.get("classnames", []), state.get("images")
        self.backbone, self.backbone_sha256 = state.get("backbone"), state.get("backbone_sha256")
        public = "settings" not in state
        need(
            isinstance(self.tensors, Mapping)
            and (public or (isinstance(self.method, str) and is_settings(self.settings)))
            and are_texts(self.classnames),
            f"The checkpoint in '{self.place}' does not say what made it: take another one, or "
            "train again",
        )
        epoch, last = state.get("epoch"), self.value("OPTIM.MAX_EPOCH")
        by_epochs = isinstance(epoch, int) and isinstance(last, int) and os.path.isdir(self.place)
        nothing = state.get("optimizer", True) is None  # to train
        need(
            not by_epochs or nothing or self.value("OPTIM.STEPS") or epoch >= last,
            f"The training in '{self.place}' has done {epoch} of its {last} epochs: let it end, or "
            "give the file of a checkpoint",
        )

    def value(self, place: str) -> Any:
        """Return the value of a setting by its dotted key; None if the checkpoint lacks it."""
        return _literal(self.settings.get(place, "None"))

    def digest(self) -> str:
        """Return a hash that identifies what was learned."""
        sha256 = hashlib.sha256()
        for name in sorted(self.tensors):
            if torch.is_tensor(value := self.tensors[name]):
                sha256.update(value.float().cpu().contiguous().numpy().tobytes())
        return sha256.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return what records say of the training: place, digest, method, backbone and FACTS."""
        facts = {"place": self.place, "digest": self.digest(), "method": self.method}
        facts |= {name: self.value(place) for name, place in FACTS.items()}
        backbone = isinstance(self.backbone, str) and os.path.basename(self.backbone)
        known = {name: UNKNOWN if value is None else value for name, value in facts.items()}
        return known | {"backbone": backbone or UNKNOWN}


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
