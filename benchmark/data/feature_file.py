"""The file of features of a data set: its path, what it is made of, and whether it is complete."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainers.prompting.errors import UserError


def path_of(folder: Path, name: str, backbone: str) -> Path:
    """Return the file of a data set under a CLIP."""
    clip = Path(backbone).stem if os.path.exists(backbone) else backbone
    return folder / f"{name}_{clip.replace('/', '-').replace(':', '-')}.safetensors"


def made_of(fingerprint: str | None, backbone: str) -> str:
    """Return what a file is made of: the fingerprint of the images, and of the CLIP."""
    from trainers.prompting.backbones import weights_sha256

    return f"{fingerprint} {weights_sha256(backbone)}"


def is_made_of(then: str, fingerprint: str | None, backbone: str) -> bool:
    """Return True if a file is made of these images and this CLIP, as far as it says so."""
    return then in (made_of(fingerprint, backbone), f"{fingerprint} None")


def sentence_files(args: Any) -> dict[str, str]:
    """Return what `args.sentences` of the command are, by their names in files."""
    from trainers.prompting.storage.run_record import sentences_text

    names = [Path(given).stem for given in args.sentences]
    for name, given in zip(names, args.sentences, strict=True):
        if names.count(name) > 1 or "{}" in given:
            raise UserError(
                f"--sentences: '{given}' must be a JSON file of a name of its own, clip7 or clip80 "
                "(--templates takes templates)"
            )
    return dict(zip(names, map(sentences_text, args.sentences), strict=True))


def check_complete(
    path: Path, fingerprint: str, templates: Collection[str], views_of: list[int], args: Any
) -> None:
    """Check that a finished file has what the command asks for, with views of these rows."""
    import torch

    from trainers.prompting.storage.features import read_features

    there = read_features(path)
    views, rows = there.views, there.views_of
    drawn = (0, []) if views is None or rows is None else (len(views), rows.tolist())
    same = {
        "images or CLIP": is_made_of(there.made_of, fingerprint, args.backbone),
        "templates": {*there.text} == {*templates},
        "sentences": there.sentence_files == sentence_files(args),
        "precision": (there.image.dtype == torch.float16) == args.half,
        "views": drawn == (args.views if views_of else 0, views_of),
    }
    if names := [name for name, equal in same.items() if not equal]:
        raise UserError(
            f"'{path}' exists, with other {', '.join(names)}: choose another --output, or replace "
            "it with --redo"
        )
