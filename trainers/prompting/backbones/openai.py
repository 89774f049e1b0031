"""Loads OpenAI's CLIPs (its class, with QuickGELU) by name or from a file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..embedded import EMBEDDED
from ..errors import UserError, in_short, nearest, need
from ..storage.files import parse_json
from .family import Family, Tokenizer
from .openai_clip import clip, model
from .weights import read_weights, unreadable_weights

RELEASED: dict[str, str] = clip._MODELS  # addresses, with the hashes of the files
NAMES = (*EMBEDDED, *RELEASED)  # these take precedence over files and folders
CACHE = os.path.expanduser("~/.cache/clip")  # the package's default
SILENCE = 10.0  # seconds without a byte after which a download is given up
# Entries of a released state dict that are not weights. Other CLIPs may have weights of the same
# names and shapes but another activation; their checkpoints lack these entries.
MARKS = {"input_resolution", "context_length", "vocab_size"}

_tokenizer = clip._tokenizer
OPENAI = Family(
    Tokenizer(
        _tokenizer.encode,
        _tokenizer.decode,
        sos=_tokenizer.encoder["<|startoftext|>"],
        eos=_tokenizer.encoder["<|endoftext|>"],
    ),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
)


def build_clip(arch: dict):
    """Build a CLIP with random weights from its constructor's arguments, float32, in eval mode.

    Examples:
        >>> arch = {"embed_dim": 32, "image_resolution": 32, "vision_layers": 1, "vision_width": 64}
        >>> arch |= {"vision_patch_size": 8, "context_length": 77, "vocab_size": 49408}
        >>> arch |= {"transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}
        >>> build_clip(arch).text_projection.shape
        torch.Size([64, 32])
    """
    return model.CLIP(**arch).float().eval()


def load(name: str):
    """Load a model as `load_clip` does."""
    check_known(name)
    if name in RELEASED:
        return _load_openai(_download(name))
    path = EMBEDDED.get(name, Path(name))
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_openai(path)


def check_known(name: str) -> None:
    """Check that a name is that of a model or a file; raises UserError if it is not."""
    if name in NAMES or os.path.isfile(name):
        return
    raise UserError(
        f"No backbone and no file is called '{name}': {nearest(name, list(NAMES))}; also "
        "open_clip:ARCHITECTURE/TAG, or the name or folder of a CLIPModel of Hugging Face"
    )


def files(name: str) -> list[Path]:
    """Return the file of a model that is not released; raises as `check_known`."""
    check_known(name)
    return [EMBEDDED.get(name, Path(name))]


def check_weights(name: str, fetch: bool) -> None:
    """Check that the file of a model is there, as `backbones.check_weights` says."""
    check_known(name)
    if name not in RELEASED or os.path.isfile(cached_file(name)):
        return
    need(
        fetch,
        f"The weights of {name} are not on this machine: a run downloads them, or fetch "
        f"{RELEASED[name]} on a machine with internet and put the file at '{cached_file(name)}'",
    )
    _download(name)


def cached_file(name: str) -> str:
    """Return where the file of a released model is, or will be downloaded to."""
    return os.path.join(CACHE, os.path.basename(RELEASED[name]))


def _download(name: str) -> str:
    """Return the file of a released model, downloaded if the cache lacks it."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        return clip._download(RELEASED[name], CACHE)
    except Exception as error:  # from the file system, urllib, or a wrong checksum
        raise UserError(
            f"The weights of {name} could not be downloaded ({error}): fetch {RELEASED[name]} on a "
            f"machine with internet and put the file at '{cached_file(name)}'; the backbone "
            "`emoji` needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(usual)


def _load_openai(path):
    """Load a file of OpenAI's release, or one in the same format."""
    state = read_weights(path)
    if not set(state) >= MARKS:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its state dict lacks "
            f"{', '.join(sorted(MARKS - set(state)))}, which those of OpenAI's release have; if it "
            f"is from open_clip, name its architecture, as in open_clip:ViT-B-16/{path}"
        )
    weights = {key: value for key, value in state.items() if key not in MARKS}
    return _fill(lambda: model.build_model(dict(weights)), weights, path)


def _load_safetensors(path: Path):
    state = read_weights(path)
    arch = _arch(path)
    rows = state.pop("token_embedding.rows", None)
    if rows is not None:  # the embeddings of only those tokens that the model was trained on
        table = torch.zeros(arch["vocab_size"], rows.shape[1])
        table[state.pop("token_embedding.ids")] = rows.float()
        state["token_embedding.weight"] = table
    return _fill(lambda: build_clip(arch), state, path)


def _arch(path: Path) -> dict:
    """Read the constructor's arguments from the metadata of a file."""
    from safetensors import safe_open  # late, as in `weights`

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("arch")
    if text is None:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its metadata lack "
            "`arch`, the arguments of the class as JSON; if it is from open_clip, name its "
            f"architecture, as in open_clip:ViT-B-16/{path}"
        )
    return parse_json(text, f"`arch` in the metadata of '{path}'", "take another copy of the file")


def _fill(build: Callable[[], nn.Module], weights: dict[str, torch.Tensor], path):
    """Return a model with exactly these weights."""
    try:
        loaded = build().float()
        loaded.load_state_dict(weights)  # again, as `build_model` rounds them to half precision
    except Exception as error:
        raise unreadable_weights(path, in_short(error)) from error
    return loaded
