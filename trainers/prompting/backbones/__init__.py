"""The CLIPs: one module for each family (OpenAI, open_clip, Hugging Face).

A family's module has `load(name)`. From any storage format, it returns a model with the modules of
OpenAI's class under their names: `visual` (`conv1`, `class_embedding`, `positional_embedding`,
`ln_pre`, `transformer`, `ln_post`, `proj`, `input_resolution`), `token_embedding`,
`positional_embedding`, `transformer`, `ln_final`, `text_projection`, `logit_scale`,
`context_length`, and optionally `logit_bias`. A `transformer` has `resblocks` of `ln_1`, `attn`,
`ln_2` and `mlp` (`c_fc`, `gelu`, `c_proj`); `gelu` may be any activation. `assemble` makes such a
model from weights under these names.

A `visual` may end otherwise (`shapes`). A side that does not convert is a `Closed` module, `visual`
or `text`, with none of these inside.

The tokenizer and the preparation of images are in a `Family`, set as the model's `family`; a model
without one counts as OpenAI's. The package of a family is imported only when one of its models is
loaded.
"""

import hashlib
import os
from types import ModuleType
from typing import Any

from ..embedded import file_sha256
from ..errors import UserError
from . import hugging_face, openai, openclip
from .family import Family
from .module import from_module
from .openai import build_clip

__all__ = [
    "Family", "absolute", "build_clip", "family_of", "from_module", "list_backbones", "load_clip",
    "weights_sha256",
]  # fmt: skip


def list_backbones() -> list[str]:
    """Return the names that `load_clip` takes, without those of open_clip and Hugging Face.

    Examples:
        >>> list_backbones()[-3:]
        ['ViT-L/14', 'ViT-L/14@336px', 'emoji']
    """
    return sorted(openai.NAMES)


def load_clip(name: str) -> Any:
    """Load a CLIP in float32 on the CPU, in eval mode.

    Args:
        name: a name of the OpenAI release (`ViT-B/16`, `RN50`, ...), `emoji` (the embedded
            model), or a file: a checkpoint of the OpenAI release (TorchScript archive, or its
            state dict) or a safetensors state dict with the constructor's arguments as JSON under
            `arch` in its metadata. For open_clip, `open_clip:ARCHITECTURE/TAG`,
            `open_clip:ARCHITECTURE/FILE`, `open_clip:FOLDER` or `hf-hub:OWNER/NAME`; for Hugging
            Face, the name or folder of a `CLIPModel`. Weights of the last two are never downloaded.

    Raises:
        UserError: the name is unknown, the weights may not fit or are not on this machine, the
            download failed, a package is missing, or the model cannot be prompted.

    Examples:
        >>> load_clip("emoji").visual.input_resolution
        64
    """
    return _module_of(name).load(name)


def check_known(name: str) -> None:
    """Refuse an unknown name (UserError), as far as this is known without a family's package."""
    if _module_of(name) is openai:
        openai.check_known(name)


def check_weights(name: str, fetch: bool = False) -> None:
    """Check that the weights of a backbone are on this machine, without reading them.

    Args:
        name: as `load_clip` takes it.
        fetch: download those of OpenAI's release if they are not, as `load_clip` does.
    """
    module = _module_of(name)
    if module is openai:
        openai.check_weights(name, fetch)
    else:
        module.find(name)


def _module_of(name: str) -> ModuleType:
    if not name:
        raise UserError(
            "No backbone is named: give --config-file one of configs/trainers, or --backbone a "
            "name such as ViT-B/16"
        )
    if name.startswith((openclip.PREFIX, openclip.HUB)):
        return openclip
    folded = {known.lower() for known in openai.NAMES}  # openai suggests the right case
    if name.lower() not in folded and hugging_face.is_name(name):
        return hugging_face
    return openai


def absolute(name: str) -> str:
    """Return a backbone's name with absolute paths, so that it is valid in any working folder."""
    if name in openai.NAMES or openclip.HUB in name:
        return name
    before, path = "", name
    if name.startswith(openclip.PREFIX):
        before, path = openclip.PREFIX, name.removeprefix(openclip.PREFIX)
        arch, slash, file = path.partition("/")
        if not os.path.isdir(path):
            before, path = before + arch + slash, file
    return before + (os.path.abspath(path) if os.path.exists(path) else path)


def weights_sha256(name: str) -> str | None:
    """Return the SHA-256 of all that loading a backbone reads; None if it is not on this machine.

    That of a single file is the file's own; of several, it is that of their names and hashes.
    """
    if name in openai.RELEASED:
        return openai.RELEASED[name].split("/")[-2]  # the download is compared with this hash
    try:
        files = _module_of(name).files(name)
    except UserError:
        return None
    if len(files) == 1:
        return file_sha256(files[0])
    lines = sorted(f"{file.name} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def family_of(clip_model: Any) -> Family:
    """Return the family of a CLIP; OpenAI's if it was built by hand from OpenAI's class."""
    family: Family = getattr(clip_model, "family", openai.OPENAI)
    return family
