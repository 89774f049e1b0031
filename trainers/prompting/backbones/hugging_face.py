"""Loads Hugging Face's `CLIPModel` or another dual encoder, from a folder or by a name.

A name is looked up in the local cache of the hub; nothing is downloaded.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, in_short, need
from ..storage.files import read_json
from . import dual
from .assemble import CLIP, Architecture, Sizes, assemble, image_encoder
from .family import Family, Tokenizer
from .openai import OPENAI
from .openai_clip import model as openai_model
from .tokenizers import files_of_tokenizer, unreadable_tokenizer
from .weights import read_weights, unreadable_weights

NAME = re.compile(r"(?!ViT-|RN)[\w.-]+/[\w.-]+")  # owner/model on the hub
INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
PREPARED = ("processor_config.json", "preprocessor_config.json")  # how images are, in turn
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
SIZES = ({"shortest_edge"}, {"height", "width"})  # of an image processor
CLIPS_IMAGES = ("ChineseCLIPModel", "AltCLIPModel")  # their image encoder is CLIP's
OLD_EOS = 2  # a config with this id means the largest token of a sentence
OPEN = {"clip": "CLIPConfig", "siglip": "SiglipConfig"}  # kinds whose blocks are CLIP's

RENAMED = [
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_projection\.weight", "text_projection"),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^vision_model\.head\.probe", "visual.head.probe"),
    (r"^vision_model\.head\.attention\.", "visual.head.attn."),
    (r"^vision_model\.head\.layernorm\.", "visual.head.ln."),
    (r"^vision_model\.head\.mlp\.fc1\.", "visual.head.mlp.0."),
    (r"^vision_model\.head\.mlp\.fc2\.", "visual.head.mlp.2."),
    (r"^text_model\.head\.weight", "text_projection"),
    (r"^text_model\.head\.bias", "text_bias"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
]


def is_name(name: str) -> bool:
    """Return True if a backbone's name is a folder or has the form of a name on the hub."""
    return os.path.isdir(name) or bool(NAME.fullmatch(name) and not os.path.exists(name))


def load(name: str) -> CLIP:
    """Load a model as `load_clip` does.

    Raises:
        UserError: the package is missing, the model is not on this machine, or is not a CLIP.
    """
    transformers = _package(name)
    folder = find(name)
    remedy = f"run `hf download {name}`, or name a folder from save_pretrained"
    if not (folder / "config.json").exists() and (folder / "open_clip_config.json").exists():
        form = "open_clip" if folder == Path(name) else "hf-hub"
        remedy = f"it is a model of open_clip, so write {form}:{name}"
    config = read_json(folder / "config.json", remedy)
    kind = config.get("model_type", "")
    need(
        isinstance(kind, str),
        f"'{folder / 'config.json'}' has {kind} for model_type, where the name of an architecture "
        "is needed: correct it",
    )
    if kind == "siglip2":
        raise UserError(
            f"'{name}' is a SigLIP 2 for images of any proportions (NaFlex), and methods need "
            "squares: choose one of fixed size, such as google/siglip2-base-patch16-224"
        )
    if kind not in OPEN:
        prepared = _images(transformers, folder, name, config)
        words = _read_tokenizer(transformers, folder, name)
        return dual.load(transformers, folder, name, words, prepared, _clips_image)
    try:
        skeleton: Any = getattr(transformers, OPEN[kind]).from_dict(config)
        vision, text = (
            _architecture(transformers, c) for c in (skeleton.vision_config, skeleton.text_config)
        )
        prepared = _images(transformers, folder, name, config)
    except UserError:
        raise
    except Exception as error:  # a wrong config raises errors of many types
        raise UserError(
            f"'{folder}' does not say what CLIP it is ({in_short(error)}): correct its config.json "
            "and preprocessor_config.json"
        ) from error
    size = skeleton.vision_config.image_size
    need(
        prepared["size"] == size,
        f"'{name}' prepares images of {prepared['size']} pixels, but its image encoder reads "
        f"{size}: correct preprocessor_config.json in '{folder}'",
    )
    siglip, length = kind == "siglip", skeleton.text_config.max_position_embeddings
    if siglip:
        words = _read_tokenizer(transformers, folder, name)
        tokenizer = dual.siglip_tokenizer(words, length, name)
    else:
        tokenizer = _tokenizer(transformers, folder, name, skeleton.text_config)
    sizes = Sizes(
        skeleton.text_config.projection_size if siglip else skeleton.projection_dim,
        size,
        skeleton.vision_config.patch_size,
        length,
        skeleton.text_config.vocab_size,
    )
    family = Family(tokenizer, *(prepared[key] for key in Family._fields[1:5]))
    if siglip:  # padded, and every position sees all
        family = family._replace(reads="last", causal=False)
    shape = "attention" if siglip else "class token"
    where = f"'{folder}'", f"'{name}'"
    return assemble(_state(folder), vision, text, sizes, family, *where, shape)


def find(name: str) -> Path:
    """Return the folder of a model: `name` itself, or the folder in the hub's cache.

    Raises:
        UserError: the package is missing, or the model is not on this machine.
    """
    _package(name)
    return Path(name) if Path(name).is_dir() else snapshot(name)


def snapshot(name: str) -> Path:
    """Return the folder of OWNER/NAME[@REVISION] in the hub's cache; raises as `find`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        option = f" --revision {revision}" if revision else ""
        raise UserError(
            f"There is no file '{name}', and no such model of Hugging Face in the cache of this "
            f"machine: check the name, or run `hf download {repo}{option}`"
        ) from error


def files(name: str) -> list[Path]:
    """Return the files that loading a model reads; raises as `find`."""
    folder = find(name)
    more = [file for form in (*PREPARED, "*.index.json") for file in folder.glob(form)]
    return [*_weights(folder), *files_of_tokenizer(folder), *more]


def _package(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"The backbone '{name}' is a model of Hugging Face, which needs the package "
            "transformers, also for its tokenizer: run `pip install transformers`"
        ) from error
    return transformers


def _architecture(transformers, config) -> Architecture:
    name = config.hidden_act
    if name == "quick_gelu":
        activation = openai_model.QuickGELU
    elif name == "gelu":
        activation = nn.GELU
    else:
        activation = partial(transformers.activations.get_activation, name)
    activation()  # or an error about its name
    return Architecture(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        activation,
        config.layer_norm_eps,
    )


def _clips_image(model: Any, width: int) -> nn.Module | None:
    """Return the image encoder of a dual encoder, if it is CLIP's."""
    if type(model).__name__ not in CLIPS_IMAGES:
        return None
    config, state = model.config.vision_config, model.state_dict()
    state = {n: x for n, x in state.items() if n.startswith(("vision_model.", "visual_proj"))}
    sizes = Sizes(width, config.image_size, config.patch_size, 1, 1)
    import transformers

    with torch.device("meta"):
        visual = image_encoder(_architecture(transformers, config), sizes)
    weights = {n.removeprefix("visual."): x for n, x in rename_weights(state).items()}
    visual.load_state_dict(weights, assign=True)
    return visual


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights in a folder; raises a UserError if there are none."""
    for form in ("model*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(form)):
            return found
    raise UserError(f"'{folder}' has no weights: put model.safetensors there")


def _state(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a folder, in one or more files, under the names of OpenAI's class."""
    state = {n: value for file in _weights(folder) for n, value in read_weights(file).items()}
    try:
        return rename_weights(state)
    except Exception as error:
        raise unreadable_weights(folder, in_short(error)) from error


def rename_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return Hugging Face's weights under the names of OpenAI's class."""
    weights = {}
    for name, value in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    for name in {"text_projection", "visual.proj"} & weights.keys():
        weights[name] = weights[name].T
    for name in [name for name in weights if ".attn.q_proj." in name]:
        parts = [weights.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        weights[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return {name: value for name, value in weights.items() if not name.endswith("position_ids")}


def _tokenizer(transformers, folder: Path, name: str, config) -> Tokenizer:
    """Load the tokenizer of a folder, and check that it fits the text encoder.

    Raises:
        UserError: it is missing, damaged, or that of another model.
    """
    tokenizer = _read_tokenizer(transformers, folder, name)
    sos, eos, ids = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        list(tokenizer.get_vocab().values()),
    )
    expected = config.vocab_size - 1 if config.eos_token_id == OLD_EOS else config.eos_token_id
    fits = sos is not None and max(ids) < config.vocab_size and len(ids) == len(set(ids))
    if eos != expected or not fits:
        raise UserError(
            f"'{name}' ends a sentence with token {config.eos_token_id} of {config.vocab_size} in "
            f"its config.json, but its tokenizer with {eos} of {len(set(ids))}, or the tokenizer "
            "has no start token, or one id for two words: use the tokenizer of its training"
        )

    def decode(ids: list[int]) -> str:
        # decode strips the space after a word
        ends = tokenizer.convert_ids_to_tokens(ids)[-1].endswith("</w>")
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip() + " " * ends

    return Tokenizer(
        lambda text: tokenizer.encode(text, add_special_tokens=False), decode, sos, eos
    )


def _read_tokenizer(transformers: Any, folder: Path, name: str) -> Any:
    """Return the tokenizer of a folder; raises a UserError if it is missing or damaged."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer.get_vocab()
        tokenizer.encode("a photo")
    except Exception as error:  # from several libraries, one of them in Rust
        remedy = (
            f"put its tokenizer.json there (`hf download {name}` has it), or vocab.json and "
            "merges.txt"
        )
        raise unreadable_tokenizer(error, f"of '{name}' in '{folder}'", remedy) from error
    return tokenizer


def _images(transformers: Any, folder: Path, name: str, config: Mapping) -> dict[str, Any]:
    """Read how images are prepared from one of two files, under the names of `Family`.

    `size` is that of the images, which the config of the image encoder has if that file does not.
    """
    remedy = f"run `hf download {name}`, or take another copy of its folder"
    side = (config.get("vision_config") or {}).get("image_size", 224)
    nested, path = (folder / file for file in PREPARED)
    given = read_json(nested, remedy).get("image_processor") if nested.exists() else None
    if given is not None:
        path = nested
    elif path.exists():
        given = read_json(path, remedy)
    else:
        print(f"Note: '{name}' has no {path.name}: images are prepared as for OpenAI")
        return {**OPENAI._asdict(), "size": side}
    try:
        read = transformers.AutoImageProcessor.from_pretrained
        how = read(folder, local_files_only=True, trust_remote_code=False).to_dict()
        size = how["size"] if "size" in given else dict.fromkeys(how["size"], side)
        crop = how["crop_size"] if "crop_size" in given else {"height": side, "width": side}
        return _preparation(how, size, crop if how.get("do_center_crop") else None)
    except Exception as error:  # a wrong file raises errors of many types
        reason = error if isinstance(error, UserError) else in_short(error)
        raise UserError(
            f"'{path}' does not say how to prepare images for methods, as squares ({reason}): "
            "correct it, or choose another model"
        ) from error


def _preparation(how: Mapping, size: Mapping, crop: Mapping | None) -> dict[str, Any]:
    """Translate the preparation of an image processor of transformers; raises a UserError."""
    others = [k for k, v in how.items() if v and k.startswith(("do_", "include_top"))]
    others = [key for key in others if key not in STEPS]
    need(not others, f"{', '.join(others)} is not known here")
    need(how.get("do_resize", True), "do_resize is false")
    need(how["resample"] in INTERPOLATION, f"resample is {how['resample']}")
    sides = {key: n for key, n in size.items() if n}
    need(sides.keys() in SIZES and len({*sides.values()}) == 1, f"size is {dict(size)}")
    first = last = next(iter(sides.values()))
    if crop is not None:
        last = crop["height"]
        need(crop["width"] == last, f"crop_size is {dict(crop)}")
    resize = "shortest" if "shortest_edge" in sides else "squash"
    # ((f x - offset) - mean) / std for x up to 255, as (x / 255 - mean') / std'
    scaled, normal = how.get("do_rescale"), how.get("do_normalize")
    f = 255 * how["rescale_factor"] if scaled else 255
    offset = 1 if scaled and how.get("rescale_offset") else 0
    mean, std = (how["image_mean"], how["image_std"]) if normal else ((0.0,) * 3, (1.0,) * 3)
    return {
        "mean": tuple((offset + value) / f for value in mean),
        "std": tuple(value / f for value in std),
        "interpolation": INTERPOLATION[how["resample"]],
        "resize": resize if first == last else f"{resize} {first}",
        "size": last,
    }
