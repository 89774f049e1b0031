"""Loads open_clip's CLIPs: `open_clip:ARCHITECTURE/TAG`, `.../FILE`, or `open_clip:FOLDER`.

The package open_clip knows the architectures, the tags and where weights are stored; nothing is
downloaded. FOLDER is one that the package has saved, with `open_clip_config.json` and weights;
`hf-hub:OWNER/NAME` is such a folder in the hub's cache.

Its `create_model` reads the weights itself: twice then, as they are checked here, without the
checks of their sizes (it interpolates positions), and no TorchScript archives. So its classes and
conversions are used, and the weights are those of `read_weights`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError, in_short, nearest
from ..storage.files import read_json
from .assemble import CLIP, check_names_and_shapes
from .hub import cached_folder, model_folder, package
from .module import assemble_open_clip, family_from, fold_layer_scale, from_module, sides
from .openai import CACHE
from .tokenizers import files_of_tokenizer, open_clip_tokenizer, tokenizer_folder
from .weights import read_weights

PREFIX, HUB, CONFIG = "open_clip:", "hf-hub:", "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a folder or on the hub
RANDOM = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, torch.Tensor.normal_,
          torch.Tensor.uniform_, torch.Tensor.erfinv_)  # fmt: skip
PREPARED = ("mean", "std", "interpolation", "resize_mode")  # of images


class Source(NamedTuple):
    """A model to load: its architecture's name and config, its file, and its image preparation.

    files: all that are read to know this.
    """

    arch: str
    config: dict
    file: Path
    images: Mapping
    files: list[Path]


class NoValues(TorchFunctionMode):
    """Leave out functions that would only draw values which are not read."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function, or return the tensor that it would fill."""
        if func in RANDOM:
            return [*args, *(kwargs or {}).values()][0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def load(name: str) -> CLIP:
    """Load a model as `load_clip` does."""
    source = find(name)
    config, file, images, arch = source.config, source.file, source.images, source.arch
    tokenizer = open_clip_tokenizer(config["text_cfg"], arch, file.parent)
    if sides(config) != ("class token", "causal"):
        return from_module(_module(source), config, tokenizer, images, PREFIX + arch)
    family = family_from(tokenizer, config, images, PREFIX + arch)
    left_out = ("input_resolution", "context_length", "vocab_size", "attn_mask")
    state = {n.removeprefix("text."): value for n, value in _weights(file).items()}
    state = fold_layer_scale({n: value for n, value in state.items() if n not in left_out})
    return assemble_open_clip(state, config, family, arch, file)


def find(name: str) -> Source:
    """Return where the weights of a model are and what else is known."""
    open_clip, name = package("open_clip", "open_clip_torch", name), name.removeprefix(PREFIX)
    if name.startswith(HUB):
        return _folder(model_folder(name.removeprefix(HUB)))
    if os.path.isdir(name):
        return _folder(Path(name))
    arch, _, tag = name.partition("/")
    config, tags = _config(open_clip, arch), open_clip.list_pretrained_tags_by_model(arch)
    if os.path.isfile(tag):
        images = _of_all_tags(open_clip, arch, tags)
        return Source(arch, config, Path(tag), images, [Path(tag)])
    if tag not in tags:
        raise UserError(
            f"'{PREFIX}{name}': {arch} has no weights '{tag}', and there is no such file: "
            f"{nearest(tag, tags)}"
        )
    images = open_clip.get_pretrained_cfg(arch, tag)
    quick = bool(images.get("quick_gelu"))
    if quick != bool(config.get("quick_gelu", False)):
        other = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
        raise UserError(
            f"The weights '{tag}' were trained with{'' if quick else 'out'} QuickGELU, unlike "
            f"{arch}: write {PREFIX}{other}/{tag}"
        )
    file = _cached_file(arch, tag, images)
    return Source(arch, config, file, images, [file])


def files(name: str) -> list[Path]:
    """Return the files that loading a model reads."""
    source = find(name)
    text, found = source.config["text_cfg"], [*source.files]
    if tokenizer := text.get("hf_tokenizer_name"):
        found += files_of_tokenizer(tokenizer_folder(tokenizer, source.file.parent))
    if encoder := text.get("hf_model_name"):
        found.append(_encoder_folder(encoder, source.arch) / "config.json")
    return found


def without_weights(arch: str) -> CLIP:
    """Return an architecture of open_clip on `meta`, to see what runs on it.

    Its tokenizer and weights need not be on this machine: all words become one id.
    """
    open_clip = package("open_clip", "open_clip_torch", PREFIX + arch)
    config = _config(open_clip, arch)
    words = SimpleNamespace(
        sot_token_id=0,
        eot_token_id=config["text_cfg"].get("eos_id", 2),
        encode=lambda text: [3] * len(text.split()),
        decode=str,
    )
    model = _empty(config, arch, "meta")
    return from_module(model, config, words, {}, PREFIX + arch)


def _empty(config: Mapping, arch: str, device: str) -> nn.Module:
    """Return the package's own model without values of its weights; no random number is drawn."""
    import open_clip

    arguments: dict[str, Any] = {k: v for k, v in config.items() if k != "custom_text"}
    arguments["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    text = arguments["text_cfg"] = {**config["text_cfg"], "hf_model_pretrained": False}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    if name := text.get("hf_model_name"):
        text["hf_model_name"] = str(_encoder_folder(name, arch))
        kind = open_clip.CustomTextCLIP
    if config.get("multimodal_cfg"):
        kind = open_clip.CoCa
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device), NoValues():
            model: nn.Module = kind(**arguments)
    except Exception as error:  # from timm, transformers and open_clip, of many types
        raise UserError(
            f"{PREFIX}{arch} cannot be built ({in_short(error)}): correct its config, or install "
            "the packages that it names"
        ) from error
    return model


def _encoder_folder(name: str, arch: str) -> Path:
    """Return the folder with the config of a text encoder; raises a UserError if it is not here."""
    folder = Path(name) if os.path.isdir(str(name)) else cached_folder(name)
    if folder is None or not (folder / "config.json").is_file():
        raise UserError(
            f"The text encoder of {PREFIX}{arch} is {name}, whose config.json is not on this "
            f"machine: run `hf download {name} config.json`"
        )
    return folder


def _module(source: Source) -> nn.Module:
    """Return the package's own model with its weights.

    It is first built without memory, since wrong sizes could take any amount.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    model = _empty(source.config, source.arch, "meta")
    own, weights = model.state_dict(), _weights(source.file)
    state = convert_state_dict(model, weights)
    if hasattr(model, "text"):
        state = convert_to_custom_text_state_dict(state)
    # transformers before 4.31 kept the numbers of positions
    state = {n: x for n, x in state.items() if n in own or not n.endswith(".position_ids")}
    for name in {"logit_scale", "logit_bias"} & state.keys() & own.keys():
        state[name] = state[name].reshape(own[name].shape)
    check_names_and_shapes(own, state, f"'{source.file}'", source.arch)
    model = _empty(source.config, source.arch, "cpu")
    model.load_state_dict(state)
    return model


def _weights(file: Path) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): value for name, value in read_weights(file).items()}


def _config(open_clip: Any, arch: str) -> dict[str, Any]:
    """Return the config of an architecture; raises a UserError if there is none."""
    names = open_clip.list_models()
    if arch not in names:  # the package also takes other names, and downloads
        raise UserError(f"open_clip has no architecture '{arch}': {nearest(arch, names)}")
    config: dict[str, Any] = open_clip.get_model_config(arch)
    return config


def _of_all_tags(open_clip: Any, arch: str, tags: list[str]) -> dict[str, Any]:
    """Return how all released weights of an architecture prepare images; a file does not say it."""
    configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    if len({config.get("resize_mode", "shortest") for config in configs}) > 1:
        raise UserError(
            f"The released weights of {PREFIX}{arch} resize images in different ways, and a file "
            f"does not say how: name a tag ({', '.join(tags)}), or a folder that open_clip saved"
        )
    same = {k: [config.get(k) for config in configs] for k in PREPARED}
    return {k: v[0] for k, v in same.items() if v and v[0] and all(x == v[0] for x in v)}


def _folder(folder: Path) -> Source:
    path = folder / CONFIG
    remedy = (
        "name a folder that open_clip has saved, or an architecture and a file "
        "(open_clip:ViT-B-16/FILE)"
    )
    content = read_json(path, remedy)
    file = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if file is None:
        raise UserError(f"'{folder}' has no weights: put {' or '.join(FILES)} there")
    images = content.get("preprocess_cfg", {})
    return Source(folder.name, content["model_cfg"], file, images, [file, path])


def _cached_file(arch: str, tag: str, images: Mapping) -> Path:
    """Find the file of released weights in the caches that open_clip uses."""
    repo, _, file = images.get("hf_hub", "").rpartition("/")
    places = [Path(CACHE, os.path.basename(images.get("url", "")))]
    if folder := cached_folder(repo):
        places[:0] = [folder / name for name in ((file,) if file else FILES)]
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f'The weights of {PREFIX}{arch}/{tag} are not on this machine: `python -c "import '
        f"open_clip as o; o.create_model('{arch}', '{tag}'); o.get_tokenizer('{arch}')\"` "
        "downloads them and the tokenizer"
    )
