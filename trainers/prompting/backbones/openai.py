"""OpenAI's CLIPs: its class with QuickGELU, loaded by name or from a file."""

import json
import os
import pickle
import textwrap
from pathlib import Path

import torch

from ..errors import UserError, nearest
from .family import Family, Tokenizer
from .openai_clip import clip, model

EMBEDDED = {"emoji": Path(__file__).parents[3] / "assets" / "emoji_clip.safetensors"}
NAMES = (*EMBEDDED, *clip._MODELS)  # before any file or folder of such a name
CACHE = os.path.expanduser("~/.cache/clip")  # as the package has it
# Entries of a released state dict beside the weights. Checkpoints of other CLIPs have the same
# weights by name and shape, with another activation, but not these.
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
    """A CLIP with fresh weights from its constructor's arguments, float32, in eval mode."""
    return model.CLIP(**arch).float().eval()


def load(name: str):
    """As `load_clip`."""
    path = EMBEDDED.get(name, Path(name))
    if name in EMBEDDED and not path.is_file():
        raise UserError(
            f"'{name}' is a file of the repository that this plug-in comes from, and is not at "
            f"'{path}': name the file itself, assets/{path.name} of that repository"
        )
    if name in clip._MODELS:
        return _load_openai(_downloaded(name))
    if not path.is_file():
        raise UserError(
            f"No backbone and no file is called '{name}': {nearest(name, list(NAMES))}; also "
            "open_clip:ARCHITECTURE/TAG, and the name or folder of a CLIPModel of Hugging Face"
        )
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_openai(path)


def _downloaded(name: str) -> str:
    """The file of a released model, fetched when the cache lacks it."""
    url = clip._MODELS[name]
    try:
        return clip._download(url, CACHE)
    except (OSError, RuntimeError) as error:  # urllib's URLError, and a wrong checksum
        raise UserError(
            f"The weights of {name} could not be downloaded ({error}): fetch {url} on a machine "
            f"with internet and put the file at '{os.path.join(CACHE, os.path.basename(url))}'"
        ) from error


def _load_openai(path):
    """From a file of the release, or one in its layout; no code in it is run."""
    try:
        state = torch.jit.load(path, map_location="cpu").state_dict()
    except RuntimeError:  # no TorchScript archive
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise _unreadable(path, error) from error
    if not isinstance(state, dict) or "text_projection" not in state:
        raise _unreadable(path, "it is no state dict under the names of OpenAI's class")
    if not set(state) >= MARKS:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its state dict lacks "
            f"{', '.join(sorted(MARKS - set(state)))}, which those of OpenAI's release have; if "
            f"it is one of open_clip, name its architecture, as in open_clip:ViT-B-16/{path}"
        )
    weights = {key: value for key, value in state.items() if key not in MARKS}
    try:
        loaded = model.build_model(dict(weights)).float()
        loaded.load_state_dict(weights)  # once more, as the package rounds to half precision
    except (KeyError, RuntimeError, AssertionError) as error:
        raise _unreadable(path, error) from error
    return loaded


def _load_safetensors(path: Path):
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(
            f"'{path}' is read by the package safetensors: run `pip install safetensors`"
        ) from error
    try:
        with safe_open(path, "pt") as file:
            arch = json.loads((file.metadata() or {}).get("arch", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if arch is None:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its metadata lack "
            "`arch`, the arguments of the class as JSON; if it is one of open_clip, name its "
            f"architecture, as in open_clip:ViT-B-16/{path}"
        )
    try:
        if "token_embedding.ids" in state:  # only the words that the model was trained on
            table = torch.zeros(arch["vocab_size"], arch["transformer_width"])
            table[state.pop("token_embedding.ids")] = state.pop("token_embedding.rows").float()
            state["token_embedding.weight"] = table
        loaded = build_clip(arch)
        loaded.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, IndexError) as error:
        raise _unreadable(path, error) from error
    return loaded


def _unreadable(path, reason) -> UserError:
    words = textwrap.shorten(str(reason), 200, placeholder=" ...") or type(reason).__name__
    return UserError(f"'{path}' holds no CLIP weights that can be read: {words}")
