"""Names in the public code of a method, and its checkpoints."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import UserError, in_short, need
from .files import find_checkpoint, read_checkpoint, saved_epochs
from .saved import Saved

OF_CLASS_NAMES = ("token_prefix", "token_suffix")  # buffers in public checkpoints
LEFT_OUT: Any = None


@dataclass(frozen=True)
class Public:
    """What the public code of a method calls things; a field left out is that of the base class.

    Attributes:
        folder: in which it saves its model.
        submodule: the part that its checkpoints hold alone; empty if they hold the whole model.
        dead: beginnings of names in its checkpoints that have no effect here, without the name of
            the sub-module.
        outside: keys that it keeps elsewhere in the cfg, with their full names, such as
            `{"W": "TRAINER.W"}`; they are fields of `Settings`, too.
        ignored: keys of its node that have no effect here; a run that sets one gets a warning.

    Examples:
        >>> from trainers.prompting.methods.coop import CoOp
        >>> class Mine(CoOp):
        ...     public = Public(folder="mine", outside={"W": "LOSS.W"})
        >>> Mine.public.folder, Mine.public.submodule, Mine.place("W")
        ('mine', 'prompt_learner', 'LOSS.W')
    """

    folder: str = LEFT_OUT
    submodule: str = LEFT_OUT
    dead: tuple[str, ...] = LEFT_OUT
    outside: Mapping[str, str] = LEFT_OUT
    ignored: tuple[str, ...] = LEFT_OUT

    def beside(self, base: "Public") -> "Public":
        """Return these names, and those of the base class for the fields that are left out."""
        own = {field: value for field, value in vars(self).items() if value is not LEFT_OUT}
        return replace(base, **own)

    @property
    def beginning(self) -> str:
        """The beginning of names that a checkpoint may leave out, or that all of them lack."""
        return f"{self.submodule or 'prompt_learner'}."

    def shorten(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what is learned with the names in checkpoints; given ones are of the model."""
        cut = self.beginning if self.submodule else ""
        return {name.removeprefix(cut): value for name, value in state.items()}

    def is_unused(self, name: str, image_encoder: Any, text_encoder: nn.Module) -> bool:
        """Return True if a name in a checkpoint is that of a frozen or unused weight."""
        dead = name.removeprefix(self.beginning).startswith(self.dead)
        if dead or name.endswith(OF_CLASS_NAMES) or name == "logit_scale":
            return True
        encoder, _, rest = name.partition(".")
        if encoder == "image_encoder":
            return rest in image_encoder.visual.state_dict()
        return encoder == "text_encoder" and rest in text_encoder.state_dict()


class PublicFiles:
    """Base of methods whose public code writes files of its own; to inherit from first.

    Attributes: Class attributes
        public_files: their names. `*` stands for one or more characters, the same in all files
            that belong together: `keys_*.pt`, `values_*.pt`. Empty if the public code uses
            Dassl's folders.
    """

    public_files: ClassVar[tuple[str, ...]] = ()

    def read_public(self, files: Mapping[str, Any]) -> Saved:
        """Return a checkpoint made from public files, unchecked, by name in `public_files`."""
        raise NotImplementedError

    def complete(self, saved: Saved, path: str) -> Saved:
        """Return a checkpoint with what the public code saves beside its file, at `path`."""
        return saved

    def write_public(self) -> Mapping[str, Any]:
        """Return the content of each public file, by its name in `public_files`."""
        raise NotImplementedError


def find_prompts(method: Any, place: str, epoch: int | None) -> Saved | None:
    """Read the checkpoint of a run of this project, or of a method's public code.

    `place` is the output folder of the run, or one of the public files, or their folder. An epoch
    of None takes `model-best.pth.tar`, or else the last one. Return None if neither the method nor
    the training has learned anything.
    """
    folder = os.path.join(place, method.public.folder)
    if not (method.public_parameters() or method.own_state()):
        saved = Saved.read(find_checkpoint(folder, None)) if saved_epochs(folder) else Saved()
        need(
            not (saved.state_dict or saved.method),
            f"'{place}' holds what a training has learned, but with these settings "
            f"{type(method).__name__} learns nothing: set them as in the training, or leave out "
            "--model-dir",
        )
        return None
    perhaps_public = epoch is None and not os.path.isdir(folder)
    if perhaps_public and (public := public_checkpoint(method, place)) is not None:
        return public
    path = find_checkpoint(folder, epoch)
    saved = Saved.read(path, place)
    if isinstance(method, PublicFiles):
        saved = method.complete(saved, path)
    print(f"Loading prompts from '{path}' (epoch {'?' if saved.epoch is None else saved.epoch})")
    return saved


def public_checkpoint(method: Any, path: str) -> Saved | None:
    """Read a checkpoint from the public files of a method; `path` is one of them, or their folder.

    Return as `read_public`; None if there is no such file.
    """
    files = _files(path, method.public_files) if isinstance(method, PublicFiles) else {}
    if not files:
        return None
    contents = {pattern: read_checkpoint(file, object) for pattern, file in files.items()}
    names = ", ".join(map(repr, files.values()))
    print(f"Loading {names}")
    try:
        return replace(method.read_public(contents), place=path)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{names}: not as the public code of {type(method).__name__} writes it "
            f"({in_short(error)}): take another checkpoint"
        ) from None


def names_beside(name: str, patterns: Sequence[str]) -> dict[str, str]:
    """Return the names of the files that belong to one, by pattern; empty if it fits no pattern."""
    for pattern in patterns:
        if match := re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name):
            part = "".join(match.groups())
            return {other: other.replace("*", part) for other in patterns}
    return {}


def _files(path: str, patterns: Sequence[str]) -> dict[str, str]:
    """Return the files of one checkpoint at a path, by pattern."""
    folder, names = path, list[str]()
    if os.path.isfile(path):
        folder, *names = os.path.split(path)
    elif os.path.isdir(path):
        names = sorted(os.listdir(path))
    sets = [beside for name in names if (beside := names_beside(name, patterns))]
    if any(other != sets[0] for other in sets):
        raise UserError(
            f"'{path}' holds several checkpoints ({', '.join(names)[:200]}): name one file"
        )
    files = {key: os.path.join(folder, name) for key, name in (sets or [{}])[0].items()}
    return {key: file for key, file in files.items() if os.path.isfile(file)}
