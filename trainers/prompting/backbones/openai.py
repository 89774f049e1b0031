"""Load a stock CLIP (the class of the OpenAI package) by name or from a file."""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import packaging.version
import torch
from safetensors import safe_open

from ..errors import UserError, nearest

# clip-anytorch 2.6.0 does `from pkg_resources import packaging`, but current setuptools have no
# pkg_resources any more. The standard `packaging` stands in for it during the import alone.
if importlib.util.find_spec("pkg_resources") is None:
    stand_in = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging
    sys.modules["pkg_resources"] = stand_in
    import clip

    del sys.modules["pkg_resources"]
else:
    import clip

import clip.model

EMBEDDED = {"emoji": Path(__file__).parents[3] / "assets" / "emoji_clip.safetensors"}


def build_clip(arch: dict) -> clip.model.CLIP:
    """A stock CLIP with fresh weights from its constructor's arguments, float32, in eval mode."""
    return clip.model.CLIP(**arch).float().eval()


def load_clip(name: str, download_root: str | None = None) -> clip.model.CLIP:
    """Load a stock CLIP in float32 on the CPU.

    Args:
        name: a name of the OpenAI release (`ViT-B/16`, `RN50`, ...), `emoji` (the embedded
            model), or a file: a checkpoint of the OpenAI package (TorchScript archive or state
            dict) or a safetensors state dict with the constructor's arguments as JSON under
            `arch` in its metadata.
        download_root: where the OpenAI package keeps its downloads (default `~/.cache/clip`).

    Raises:
        UserError: the name is unknown, the file is not a CLIP, or the download failed.
    """
    path = EMBEDDED.get(name, Path(name))
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise UserError(f"No CLIP weights at '{path}': restore that file or name another model")
        return _load_safetensors(path)
    if name not in clip.available_models() and not path.is_file():
        valid = [*clip.available_models(), *EMBEDDED]
        raise UserError(f"No backbone and no file is called '{name}': {nearest(name, valid)}")
    root = download_root or os.path.expanduser("~/.cache/clip")
    try:
        model, _ = clip.load(name, device="cpu", jit=False, download_root=root)
    except OSError as error:  # urllib's URLError among them
        url = clip.clip._MODELS[name]
        raise UserError(
            f"The weights of {name} could not be downloaded ({error}): fetch {url} on a machine "
            f"with internet and put the file at '{os.path.join(root, os.path.basename(url))}'"
        ) from error
    except Exception as error:
        raise UserError(f"'{name}' holds no CLIP weights that can be read: {error}") from error
    return model.float().eval()


def _load_safetensors(path: Path) -> clip.model.CLIP:
    try:
        with safe_open(path, "pt") as file:
            arch = json.loads((file.metadata() or {})["arch"])
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            if "token_embedding.ids" in state:  # only the words that the model was trained on
                ids = file.get_tensor("token_embedding.ids")
                table = torch.zeros(arch["vocab_size"], arch["transformer_width"])
                table[ids] = state.pop("token_embedding.rows")
                del state["token_embedding.ids"]
                state["token_embedding.weight"] = table
        model = build_clip(arch)
        model.load_state_dict(state)
    except Exception as error:
        raise UserError(f"'{path}' holds no CLIP weights that can be read: {error}") from error
    return model
