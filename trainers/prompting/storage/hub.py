"""Runs on the Hugging Face hub: `hf://USER/REPO`, or `hf://USER/REPO/FOLDER` for one of several."""

import glob
import os
import re
from pathlib import Path

from ..errors import UserError, in_short, need
from .records import RECORD

START = "hf://"
FORM = re.compile(rf"{START}([\w.-]+/[\w.-]+)((?:/[^/]+)*)/?")


def fetched(folder: str | os.PathLike[str]) -> Path:
    """Return a run folder on this machine; one on the hub is copied to the hub's cache.

    Only the checkpoints and the record of the run are copied: never code.

    Args:
        folder: a folder on this machine, which is returned as it is, or a name on the hub.

    Raises:
        UserError: the name has another form, huggingface_hub is missing, the hub cannot be reached
            or refuses, or there is no run.
    """
    name = os.fspath(folder)
    if not name.startswith(START):
        return Path(folder)
    match = FORM.fullmatch(name)
    if match is None or ".." in name.split("/"):
        raise UserError(f"'{name}' is not a run on the hub: write {START}USER/REPO[/FOLDER]")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"'{name}' is on the hub, which needs the package huggingface_hub: run `pip install "
            "huggingface_hub`"
        ) from error
    repo, inside = match[1], match[2].lstrip("/")
    above = glob.escape(f"{inside}/" if inside else "")
    wanted = [f"{above}*/model*.pth.tar*", above + RECORD]
    try:  # a pattern's * also matches /, so folders below those of the run are left out
        copy = snapshot_download(repo, allow_patterns=wanted, ignore_patterns=[f"{above}*/*/*"])
    except Exception as error:  # from several libraries
        raise UserError(
            f"'{name}' cannot be fetched ({in_short(error)}): check the name, the connection and, "
            "for a private repository, `hf auth login`"
        ) from error
    run = Path(copy) / inside
    need(
        any(run.glob("*/model*.pth.tar*")),
        f"'{name}' holds no run (*/model.pth.tar-EPOCH): give the repository and the folder of one "
        f"run, {START}USER/REPO/FOLDER",
    )
    return run
