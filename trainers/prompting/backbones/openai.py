"""OpenAI's CLIPs: its class with QuickGELU, loaded by name or from a file."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError, in_short, nearest
from ..storage.files import parsed
from .assemble import check_sizes
from .family import Family, Tokenizer
from .openai_clip import clip, model
from .weights import read_weights, unreadable

EMBEDDED = {"emoji": Path(__file__).parents[1] / "embedded" / "emoji_clip.safetensors"}
RELEASED: dict[str, str] = clip._MODELS  # addresses, with the hashes of the files
NAMES = (*EMBEDDED, *RELEASED)  # before any file or folder of such a name
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
    """A CLIP with fresh weights from its constructor's arguments, float32, in eval mode.

    Examples:
        >>> arch = {"embed_dim": 32, "image_resolution": 32, "vision_layers": 1, "vision_width": 64}
        >>> arch |= {"vision_patch_size": 8, "context_length": 77, "vocab_size": 49408}
        >>> arch |= {"transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}
        >>> build_clip(arch).text_projection.shape
        torch.Size([64, 32])
    """
    return model.CLIP(**arch).float().eval()


def load(name: str):
    """As `load_clip`."""
    check_known(name)
    if name in clip._MODELS:
        return _load_openai(_downloaded(name))
    path = EMBEDDED.get(name, Path(name))
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_openai(path)


def check_known(name: str) -> None:
    """Refuse a name that is neither a model's nor a file's.

    Raises:
        UserError: there is neither.
    """
    if name not in NAMES and not Path(name).is_file():
        raise UserError(
            f"No backbone and no file is called '{name}': {nearest(name, list(NAMES))}; also "
            "open_clip:ARCHITECTURE/TAG, and the name or folder of a CLIPModel of Hugging Face"
        )


def _downloaded(name: str) -> str:
    """The file of a released model, fetched when the cache lacks it."""
    url = clip._MODELS[name]
    try:
        return clip._download(url, CACHE)
    except Exception as error:  # of the file system, of urllib, of a wrong checksum
        raise UserError(
            f"The weights of {name} could not be downloaded ({error}): fetch {url} on a machine "
            f"with internet and put the file at '{os.path.join(CACHE, os.path.basename(url))}'"
        ) from error


def _load_openai(path):
    """From a file of the release, or one in its layout."""
    state = read_weights(path)
    if "text_projection" not in state:
        raise unreadable(path, "it is no state dict under the names of OpenAI's class")
    if not set(state) >= MARKS:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its state dict lacks "
            f"{', '.join(sorted(MARKS - set(state)))}, which those of OpenAI's release have; if "
            f"it is one of open_clip, name its architecture, as in open_clip:ViT-B-16/{path}"
        )
    weights = {key: value for key, value in state.items() if key not in MARKS}
    return _filled(lambda: model.build_model(dict(weights)), weights, path)


def _load_safetensors(path: Path):
    state = read_weights(path)
    arch = _arch(path)
    rows = state.pop("token_embedding.rows", None)
    if rows is not None:  # only the words that the model was trained on
        try:
            table = torch.zeros(arch["vocab_size"], rows.shape[1])
            table[state.pop("token_embedding.ids")] = rows.float()
        except Exception as error:
            raise unreadable(path, in_short(error)) from error
        state["token_embedding.weight"] = table
    return _filled(lambda: build_clip(arch), state, path)


def _arch(path: Path) -> dict:
    """The constructor's arguments in the metadata of a file."""
    from safetensors import safe_open  # late, as in `weights`

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("arch")
    if text is None:
        raise UserError(
            f"'{path}' is not known to be a CLIP with OpenAI's activation: its metadata lack "
            "`arch`, the arguments of the class as JSON; if it is one of open_clip, name its "
            f"architecture, as in open_clip:ViT-B-16/{path}"
        )
    arch = parsed(text, f"`arch` in the metadata of '{path}'", "take another copy of the file")
    names = {"image_resolution": "resolution", "vision_patch_size": "patch_size"}
    check_sizes(f"'{path}'", {names.get(k, k): v for k, v in arch.items() if v is not None})
    return arch


def _filled(build: Callable[[], nn.Module], weights: dict[str, torch.Tensor], path):
    """A model with these weights, exactly.

    It is built without memory first: sizes that do not fit the weights would take any amount.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that weights are not copied into no memory
            build().load_state_dict(weights)
        loaded = build().float()
        loaded.load_state_dict(weights)  # which the package itself rounds to half precision
    except Exception as error:
        raise unreadable(path, in_short(error)) from error
    return loaded
