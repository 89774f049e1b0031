"""Finds packages and, in the cache of Hugging Face's hub, folders; nothing is downloaded."""

from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError


def package(name: str, install: str, backbone: str) -> Any:
    """Return a package that a backbone needs; raises a UserError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"The backbone '{backbone}' needs the package {name}, also for its tokenizer: run "
            f"`pip install {install}`"
        ) from error


def cached_folder(name: str) -> Path | None:
    """Return the folder of OWNER/NAME[@REVISION] in the hub's cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = str(name).partition("@")  # a config may have a number in its place
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def model_folder(name: str) -> Path:
    """Return the folder of a model in the hub's cache; raises a UserError if it is not there."""
    folder = cached_folder(name)
    if folder is None:
        repo, _, revision = name.partition("@")
        option = f" --revision {revision}" if revision else ""
        raise UserError(
            f"There is no file '{name}', and no such model of Hugging Face in the cache of this "
            f"machine: check the name, or run `hf download {repo}{option}`"
        )
    return folder
