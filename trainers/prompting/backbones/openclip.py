"""Loads open_clip's CLIPs: `open_clip:ARCHITECTURE/TAG`, `.../FILE`, or `open_clip:FOLDER`.

The package open_clip knows the architectures, the tags and where weights are stored; nothing is
downloaded. FOLDER is one that the package has saved, with `open_clip_config.json` and weights;
`hf-hub:OWNER/NAME` is such a folder in the hub's cache.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import UserError, in_short, nearest
from ..storage.files import read_json
from .assemble import CLIP, check_names_and_shapes
from .hugging_face import snapshot
from .module import assemble_open_clip, family_from, fold_layer_scale, from_module, sides
from .tokenizers import files_of_tokenizer, open_clip_tokenizer, tokenizer_folder
from .weights import read_weights

PREFIX, HUB, CONFIG = "open_clip:", "hf-hub:", "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a folder or on the hub
PREPARED = ("mean", "std", "interpolation", "resize_mode")  # of images


class Source(NamedTuple):
    """A model to load: its architecture's name and config, its file, and its image preparation."""

    arch: str
    config: dict
    file: Path
    images: Mapping


def load(name: str) -> CLIP:
    """Load a model as `load_clip` does.

    Raises:
        UserError: the package is missing, the model is unknown, or its weights, its tokenizer or a
            config that it needs are not on this machine.
    """
    open_clip = package(name)
    source = find(name)
    text = source.config["text_cfg"]
    tokenizer = open_clip_tokenizer(open_clip, text, source.arch, source.file.parent)
    if sides(source.config) == ("class token", "causal"):
        family = family_from(tokenizer, source.config, source.images, PREFIX + source.arch)
        state = fold_layer_scale(_state(source.file))
        return assemble_open_clip(state, source.config, family, source.arch, source.file)
    model = _module(open_clip, source.config, source.arch)
    _fill(model, source)
    return from_module(model, source.config, tokenizer, source.images, PREFIX + source.arch)


def find(name: str) -> Source:
    """Return where the weights of a model are and what else is known; raises as `load`."""
    return _source(package(name), name.removeprefix(PREFIX))


def files(name: str) -> list[Path]:
    """Return the files that loading a model reads; raises as `load`."""
    source = find(name)
    text, place = source.config["text_cfg"], source.file.parent
    found = [source.file]
    if name.removeprefix(PREFIX).startswith(HUB) or os.path.isdir(name.removeprefix(PREFIX)):
        found.append(place / CONFIG)
    if tokenizer := text.get("hf_tokenizer_name"):
        found += files_of_tokenizer(tokenizer_folder(tokenizer, place))
    if encoder := text.get("hf_model_name"):
        found.append(Path(_hub_config(encoder, source.arch)) / "config.json")
    return found


def without_weights(arch: str) -> CLIP:
    """Return an architecture of open_clip on `meta`, to see what runs on it.

    Its tokenizer and weights need not be on this machine: all words become one id.

    Raises:
        UserError: there is none of this name, or a config that it needs is not here.
    """
    open_clip = package(PREFIX + arch)
    config = _config_of(open_clip, arch)
    with torch.device("meta"):
        model = _module(open_clip, config, arch)
    words = _AnyWords(config["text_cfg"].get("eos_id", 2))
    return from_module(model, config, words, {}, PREFIX + arch)


class _AnyWords:
    """A tokenizer for architectures without weights."""

    sot_token_id, decode = 0, str

    def __init__(self, eos: int):
        self.eot_token_id = eos

    def encode(self, text: str) -> list[int]:
        """Return an id for each word."""
        return [3] * len(text.split())


def package(name: str) -> Any:
    """Return the package; raises a UserError that names a backbone if it is not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"The backbone '{name}' needs the package open_clip, for its tokenizer and its "
            "architectures: run `pip install open_clip_torch`"
        ) from error
    return open_clip


# ---------------------------------------------------------------------- the package's own module


def _module(open_clip: Any, config: Mapping, arch: str) -> nn.Module:
    """Build the package's own model, with random weights; no random numbers are drawn from ours.

    Raises:
        UserError: the text encoder's config is on the hub only, or the model cannot be built.
    """
    arguments = copy.deepcopy({k: v for k, v in config.items() if k != "custom_text"})
    vision, text = arguments["vision_cfg"], arguments["text_cfg"]
    vision["timm_model_pretrained"] = text["hf_model_pretrained"] = False
    if name := text.get("hf_model_name"):
        text["hf_model_name"] = _hub_config(name, arch)
    kind = open_clip.CLIP
    if config.get("custom_text") or name:
        kind = open_clip.CustomTextCLIP
    if config.get("multimodal_cfg"):
        kind = open_clip.CoCa
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = kind(**arguments)
    except Exception as error:  # from timm, transformers and open_clip, of many types
        raise UserError(
            f"{PREFIX}{arch} cannot be built ({in_short(error)}): correct its config, or install "
            "the packages that it names"
        ) from error
    return model


def _hub_config(name: str, arch: str) -> str:
    """Return the folder in the hub's cache with the config of a text encoder."""
    from huggingface_hub import try_to_load_from_cache

    if os.path.isdir(name):
        return name
    file = try_to_load_from_cache(name, "config.json")
    if not isinstance(file, str):
        raise UserError(
            f"The text encoder of {PREFIX}{arch} is {name}, whose config.json is not on this "
            f"machine: run `hf download {name} config.json`"
        )
    return os.path.dirname(file)


def _fill(model: nn.Module, source: Source) -> None:
    """Load the weights of a file into the package's own model."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    given = read_weights(source.file)
    state = {name.removeprefix("module."): value for name, value in given.items()}
    try:
        state = convert_state_dict(model, state)
        if hasattr(model, "text"):
            state = convert_to_custom_text_state_dict(state)
        own = model.state_dict()  # transformers before 4.31 kept the numbers of positions
        state = {n: x for n, x in state.items() if n in own or not n.endswith(".position_ids")}
    except Exception as error:  # of another architecture
        raise UserError(
            f"'{source.file}' does not hold weights of {source.arch} ({in_short(error)}): check "
            "that they belong to this architecture"
        ) from error
    for name in {"logit_scale", "logit_bias"} & state.keys() & own.keys():
        state[name] = state[name].reshape(own[name].shape)
    check_names_and_shapes(own, state, f"'{source.file}'", source.arch)
    model.load_state_dict(state)


# ---------------------------------------------------------------------- finding the file


def _source(open_clip, name: str) -> Source:
    """Find the model of a name without its prefix."""
    if name.startswith(HUB):
        return _folder(snapshot(name.removeprefix(HUB)))
    if os.path.isdir(name):
        return _folder(Path(name))
    arch, _, tag = name.partition("/")
    config = _config_of(open_clip, arch)
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if os.path.isfile(tag):
        return Source(arch, config, Path(tag), _of_all_tags(open_clip, arch, tags))
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
    return Source(arch, config, _cached_file(arch, tag, images), images)


def _config_of(open_clip: Any, arch: str) -> dict[str, Any]:
    """Return the config of an architecture; raises a UserError if there is none."""
    names = open_clip.list_models()
    if arch not in names:  # the package also takes other names, and downloads
        raise UserError(f"open_clip has no architecture '{arch}': {nearest(arch, names)}")
    config: dict[str, Any] = open_clip.get_model_config(arch)
    return config


def _of_all_tags(open_clip: Any, arch: str, tags: list[str]) -> dict[str, Any]:
    """Return how all released weights of an architecture prepare images; a file does not say it.

    Raises:
        UserError: they differ in how images are resized.
    """
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
    config = content.get("model_cfg")
    if (
        not isinstance(config, dict)
        or "embed_dim" not in config
        or not all(isinstance(config.get(part), dict) for part in ("vision_cfg", "text_cfg"))
        or not isinstance(content.setdefault("preprocess_cfg", {}), dict)
    ):
        raise UserError(f"'{path}' is not the config of an open_clip model: {remedy}")
    files = [folder / file for file in FILES if (folder / file).is_file()]
    if not files:
        raise UserError(f"'{folder}' has no weights: put {' or '.join(FILES)} there")
    return Source(folder.name, config, files[0], content["preprocess_cfg"])


def _cached_file(arch: str, tag: str, pretrained: Mapping) -> Path:
    """Find the file of released weights in the caches that open_clip uses."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, file = pretrained.get("hf_hub", "").rpartition("/")
    for candidate in (file,) if file else FILES:
        path = try_to_load_from_cache(repo, candidate) if repo else None
        if isinstance(path, str):
            return Path(path)
    plain = Path("~/.cache/clip").expanduser() / os.path.basename(pretrained.get("url", ""))
    if plain.is_file():
        return plain
    raise UserError(
        f'The weights of {PREFIX}{arch}/{tag} are not on this machine: `python -c "import '
        f"open_clip as o; o.create_model('{arch}', '{tag}'); o.get_tokenizer('{arch}')\"` "
        "downloads them and the tokenizer"
    )


# ---------------------------------------------------------------------- reading the file


def _state(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights under the names of OpenAI's class, without the file's other entries."""
    left_out = ("input_resolution", "context_length", "vocab_size", "attn_mask")
    state = read_weights(file)
    names = {name: name.removeprefix("module.").removeprefix("text.") for name in state}
    return {n: state[name] for name, n in names.items() if n not in left_out}
