"""Loads open_clip's CLIPs: `open_clip:ARCHITECTURE/TAG`, `.../FILE`, or `open_clip:FOLDER`.

The package open_clip knows the architectures, the tags and where weights are stored; nothing is
downloaded. FOLDER is one that the package has saved, with `open_clip_config.json` and weights.
"""

import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..errors import UserError, in_short, nearest
from ..storage.files import read_json
from .assemble import CLIP, Sizes, Tower, assemble
from .family import Family, Tokenizer
from .openai_clip import model as openai_model
from .weights import read_weights

PREFIX = "open_clip:"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a folder or on the hub
HEAD = 64  # default width of an attention head


class Source(NamedTuple):
    """A model to load: its architecture's name and config, its file, and its image preparation."""

    arch: str
    config: dict
    file: Path
    images: Mapping


def load(name: str) -> CLIP:
    """Load a model as `load_clip` does.

    Raises:
        UserError: the package is missing, the model is unknown, its weights are not on this
            machine, or it cannot be prompted.
    """
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"The backbone '{name}' needs the package open_clip, for its tokenizer and its "
            "architectures: run `pip install open_clip_torch`"
        ) from error
    source = _source(open_clip, name.removeprefix(PREFIX))
    try:
        vision, text, sizes = _shape(source.config)
        family = _family(open_clip, source)
    except UserError:
        raise
    except Exception as error:  # a wrong config raises errors of many types
        raise UserError(
            f"The config of {PREFIX}{source.arch} does not say what CLIP it is "
            f"({in_short(error)}): correct it"
        ) from error
    return assemble(
        folded(_state(source.file)), vision, text, sizes, family, f"'{source.file}'", source.arch
    )


def _shape(config: Mapping) -> tuple[Tower, Tower, Sizes]:
    """Return the architectures of the image and the text encoder, and all other sizes."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    act = {"quick_gelu": config.get("quick_gelu", False)}
    sizes = Sizes(
        config["embed_dim"],
        vision.get("image_size", 224),
        16 if vision.get("patch_size") is None else vision["patch_size"],  # null for a ResNet
        text.get("context_length", 77),
        text.get("vocab_size", 49408),
    )
    is_resnet = isinstance(vision.get("layers"), list)
    of_vision = _tower(vision, 64 if is_resnet else 768, None, act)
    if is_resnet:  # the heads of its final attention pooling, which is 32 times as wide
        of_vision = of_vision._replace(heads=32 * of_vision.width // vision.get("head_width", HEAD))
    return of_vision, _tower(text, 512, 8, act), sizes


def _tower(config: Mapping, width: int, heads: int | None, act: Mapping) -> Tower:
    """Return a tower from its part of a config, with the package's defaults for missing values."""
    width = config.get("width", width)
    arguments = config.get("act_kwargs") or {}
    activation = openai_model.QuickGELU if act["quick_gelu"] else partial(nn.GELU, **arguments)
    activation()  # or an error about its arguments
    return Tower(
        width,
        config.get("layers", 12),
        config.get("heads", heads) if heads else width // config.get("head_width", HEAD),
        int(width * config.get("mlp_ratio", 4.0)),
        activation,
        (config.get("norm_kwargs") or {}).get("eps", 1e-5),
    )


def refuse(arch: str, config: Mapping) -> None:
    """Refuse an architecture that cannot be prompted.

    Raises:
        UserError: prompts do not fit into the architecture; the message says why.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    size = vision.get("image_size", 224)
    tokenizer = text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs")
    reasons = {
        f"its image encoder is timm's {vision.get('timm_model_name')}, not CLIP's, and pools by "
        f"'{vision.get('timm_pool', 'avg')}'": vision.get("timm_model_name"),
        "it pools the patches of an image by attention": vision.get("attentional_pool"),
        "its image feature is the mean of the patches, not the class token": (
            vision.get("pool_type", "tok") != "tok"
        ),
        "it has no LayerNorm before the first block": vision.get("no_ln_pre"),
        f"its images are {size}, not square": not isinstance(size, int),
        f"its text encoder is {text.get('hf_model_name')}, not CLIP's": text.get("hf_model_name"),
        "its text encoder is also a decoder (CoCa)": (
            config.get("multimodal_cfg") or text.get("embed_cls")
        ),
        "its text encoder also attends to later tokens, and prompts need one that does not": (
            text.get("no_causal_mask")
        ),
        "its text feature is not the state of the end token": (
            text.get("pool_type", "argmax") not in ("argmax", "eos")
        ),
        f"its tokenizer is not CLIP's ({tokenizer})": tokenizer,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(
                f"{PREFIX}{arch} cannot be prompted, as {reason:.300}: choose a CLIP such as "
                f"{PREFIX}ViT-B-16/laion2b_s34b_b88k"
            )


# ---------------------------------------------------------------------- finding the file


def _source(open_clip, name: str) -> Source:
    """Find the model of a name without its prefix."""
    if os.path.isdir(name):
        return _folder(Path(name))
    arch, _, tag = name.partition("/")
    known = open_clip.list_models()
    if arch not in known:  # the package also takes other names, and downloads
        raise UserError(f"open_clip has no architecture '{arch}': {nearest(arch, known)}")
    config = open_clip.get_model_config(arch)
    refuse(arch, config)
    known = open_clip.list_pretrained_tags_by_model(arch)
    if os.path.isfile(tag):
        return Source(arch, config, Path(tag), {})
    if tag not in known:
        raise UserError(
            f"'{PREFIX}{name}': {arch} has no weights '{tag}', and there is no such file: "
            f"{nearest(tag, known)}"
        )
    images = open_clip.get_pretrained_cfg(arch, tag)
    quick = bool(images.get("quick_gelu"))
    if quick != bool(config.get("quick_gelu", False)):
        other = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
        raise UserError(
            f"The weights '{tag}' were trained with{'' if quick else 'out'} QuickGELU, unlike "
            f"{arch}: write {PREFIX}{other}/{tag}"
        )
    return Source(arch, config, _cached(arch, tag, images), images)


def _folder(folder: Path) -> Source:
    path = folder / "open_clip_config.json"
    remedy = (
        "name a folder that open_clip has saved, or an architecture and a file "
        "(open_clip:ViT-B-16/FILE)"
    )
    found = read_json(path, remedy)
    config = found.get("model_cfg")
    if (
        not isinstance(config, dict)
        or "embed_dim" not in config
        or not all(isinstance(config.get(part), dict) for part in ("vision_cfg", "text_cfg"))
        or not isinstance(found.setdefault("preprocess_cfg", {}), dict)
    ):
        raise UserError(f"'{path}' is not the config of an open_clip model: {remedy}")
    refuse(folder.name, config)
    files = [folder / file for file in FILES if (folder / file).is_file()]
    if not files:
        raise UserError(f"'{folder}' has no weights: put {' or '.join(FILES)} there")
    return Source(folder.name, config, files[0], found["preprocess_cfg"])


def _cached(arch: str, tag: str, pretrained: Mapping) -> Path:
    """Find the file of released weights in the caches that open_clip uses."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, file = pretrained.get("hf_hub", "").rpartition("/")
    for candidate in (file,) if file else FILES:
        found = try_to_load_from_cache(repo, candidate) if repo else None
        if isinstance(found, str):
            return Path(found)
    plain = Path("~/.cache/clip").expanduser() / os.path.basename(pretrained.get("url", ""))
    if plain.is_file():
        return plain
    raise UserError(
        f'The weights of {PREFIX}{arch}/{tag} are not on this machine: `python -c "import '
        f"open_clip; open_clip.create_model('{arch}', '{tag}')\"` downloads them"
    )


# ---------------------------------------------------------------------- reading the file


def _state(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights under the names of OpenAI's class, without the file's other entries."""
    left_out = ("input_resolution", "context_length", "vocab_size", "attn_mask")
    state = read_weights(file)
    names = {name: name.removeprefix("module.").removeprefix("text.") for name in state}
    return {n: state[name] for name, n in names.items() if n not in left_out}


def folded(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with LayerScale folded in: gamma (W x + b) = (gamma W) x + gamma b."""
    state = dict(state)
    for scale, linear in (("ls_1", "attn.out_proj"), ("ls_2", "mlp.c_proj")):
        for name in [name for name in state if name.endswith(f".{scale}.gamma")]:
            block, gamma = name.removesuffix(f"{scale}.gamma"), state.pop(name).float()
            weight, bias = f"{block}{linear}.weight", f"{block}{linear}.bias"
            state[weight] = gamma[:, None] * state[weight].float()
            state[bias] = gamma * state[bias].float()
    return state


@cache
def _tokenizer(open_clip):
    return open_clip.tokenizer.SimpleTokenizer()


def _family(open_clip, source: Source) -> Family:
    text = source.config["text_cfg"]
    tokenizer = _tokenizer(open_clip)
    eos = tokenizer.eot_token_id
    if text.get("pool_type") == "eos" and text.get("eos_id", eos) != eos:
        raise UserError(
            f"{PREFIX}{source.arch} ends sentences with token {text['eos_id']}, CLIP's tokenizer "
            f"with {eos}: it cannot be prompted"
        )
    images = source.images
    if images.get("resize_mode", "shortest") != "shortest":
        print(
            f"Note: {source.arch} was trained on images resized by '{images['resize_mode']}'; here "
            "images are cropped to the central square, as in all methods"
        )
    how = images.get("interpolation", "bicubic")
    return Family(
        Tokenizer(tokenizer.encode, tokenizer.decode, tokenizer.sot_token_id, eos),
        mean=tuple(images.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(images.get("std") or open_clip.OPENAI_DATASET_STD),
        interpolation="bicubic" if how == "random" else how,
    )
