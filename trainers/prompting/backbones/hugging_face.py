"""Loads Hugging Face's `CLIPModel` or another dual encoder, from a folder or by a name.

A name is looked up in the local cache of the hub; nothing is downloaded.
"""

import os
import re
import string
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, need
from ..storage.files import read_json
from . import dual
from .assemble import CLIP, Architecture, Sizes, assemble, image_encoder
from .family import Family, Tokenizer
from .hub import model_folder, package
from .openai import OPENAI
from .openai_clip import model as openai_model
from .tokenizers import LOCAL, files_of_tokenizer, read, translate
from .weights import read_weights

NAME = re.compile(r"(?!ViT-|RN)[\w.-]+/[\w.-]+")  # owner/model on the hub
INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
PREPARED = ("processor_config.json", "preprocessor_config.json")  # how images are, in turn
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
SIZES = ({"shortest_edge"}, {"height", "width"})  # of an image processor
CLIPS_IMAGES = ("ChineseCLIPModel", "AltCLIPModel")  # their image encoder is CLIP's
OLD_EOS = 2  # a config with this id means the largest token of a sentence
OPEN = {"clip": "CLIPConfig", "siglip": "SiglipConfig"}  # kinds whose blocks are CLIP's
NO_MARKS = str.maketrans("", "", string.punctuation)

# parts of names of weights, and those of OpenAI's class, in turn
RENAMED = {
    "vision_model.": "visual.",
    "text_model.head.weight": "text_projection",
    "text_model.head.bias": "text_bias",
    "text_model.": "",
    "encoder.layers.": "transformer.resblocks.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.": "conv1.",
    "pre_layrnorm.": "ln_pre.",
    "post_layernorm.": "ln_post.",
    "final_layer_norm.": "ln_final.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.": "attn.",
    "head.attention.": "head.attn.",
    "head.layernorm.": "head.ln.",
    "head.mlp.fc1.": "head.mlp.0.",
    "head.mlp.fc2.": "head.mlp.2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}


def is_name(name: str) -> bool:
    """Return True if a backbone's name is a folder or has the form of a name on the hub."""
    return os.path.isdir(name) or bool(NAME.fullmatch(name) and not os.path.exists(name))


def load(name: str) -> CLIP:
    """Load a model as `load_clip` does."""
    transformers, folder = package("transformers", "transformers", name), find(name)
    remedy = f"run `hf download {name}`, or name a folder from save_pretrained"
    if not (folder / "config.json").exists() and (folder / "open_clip_config.json").exists():
        form = "open_clip" if folder == Path(name) else "hf-hub"
        remedy = f"it is a model of open_clip, so write {form}:{name}"
    config = read_json(folder / "config.json", remedy)
    kind = config.get("model_type", "")
    if kind not in OPEN:
        family, size = _images(transformers, folder, name, config)
        words = _tokenizer(transformers, folder, name)
        model = dual.read(transformers, folder, name)
        return dual.as_clip(model, _clips_image(model), words, family, size, name)
    skeleton: Any = getattr(transformers, OPEN[kind]).from_dict(config)
    vision, text = (
        _architecture(transformers, c) for c in (skeleton.vision_config, skeleton.text_config)
    )
    family, size = _images(transformers, folder, name, config)
    words, of_text = _tokenizer(transformers, folder, name), skeleton.text_config
    if kind == "siglip":  # padded, and every position sees all
        tokenizer = translate(words, True, f"'{name}'", _without_marks)
        family = family._replace(tokenizer=tokenizer, reads="last", causal=False)
        width, shape = of_text.projection_size, "attention"
    else:
        family = family._replace(tokenizer=_clips_tokenizer(words, of_text, name))
        width, shape = skeleton.projection_dim, "class token"
    lengths = of_text.max_position_embeddings, of_text.vocab_size
    sizes = Sizes(width, size, skeleton.vision_config.patch_size, *lengths)
    where = f"'{folder}'", f"'{name}'"
    state = {n: x for file in _weights(folder) for n, x in read_weights(file).items()}
    return assemble(_rename(state), vision, text, sizes, family, *where, shape)


def find(name: str) -> Path:
    """Return the folder of a model: `name` itself, or the folder in the hub's cache."""
    package("transformers", "transformers", name)
    return Path(name) if os.path.isdir(name) else model_folder(name)


def files(name: str) -> list[Path]:
    """Return the files that loading a model reads."""
    folder = find(name)
    more = [file for form in (*PREPARED, "*.index.json") for file in folder.glob(form)]
    return [*_weights(folder), *files_of_tokenizer(folder), *more]


def _architecture(transformers: Any, config: Any) -> Architecture:
    name = config.hidden_act
    activation = {"quick_gelu": openai_model.QuickGELU, "gelu": nn.GELU}.get(
        name, partial(transformers.activations.get_activation, name)
    )
    return Architecture(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        activation,
        config.layer_norm_eps,
    )


def _clips_image(model: Any) -> nn.Module | None:
    """Return the image encoder of a dual encoder, if it is CLIP's."""
    if type(model).__name__ not in CLIPS_IMAGES:
        return None
    import transformers

    config, state = model.config.vision_config, model.state_dict()
    state = {n: x for n, x in state.items() if n.startswith(("vision_model.", "visual_proj"))}
    width = len(model.visual_projection.weight)
    with torch.device("meta"):
        visual = image_encoder(
            _architecture(transformers, config),
            Sizes(width, config.image_size, config.patch_size, 1, 1),
        )
    weights = {n.removeprefix("visual."): x for n, x in _rename(state).items()}
    visual.load_state_dict(weights, assign=True)
    return visual


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights in a folder."""
    for form in ("model*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(form)):
            return found
    raise UserError(f"'{folder}' has no weights: put model.safetensors there")


def _rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return Hugging Face's weights under the names of OpenAI's class."""
    weights = {}
    for name, value in state.items():
        for part, other in RENAMED.items():
            name = name.replace(part, other)
        if not name.endswith("position_ids"):
            weights[name] = value.T if name in ("text_projection", "visual.proj") else value
    for name in [name for name in weights if ".attn.q_proj." in name]:
        parts = [weights.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        weights[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return weights


def _tokenizer(transformers: Any, folder: Path, name: str) -> Any:
    """Return the tokenizer of a folder, of transformers."""
    return read(
        lambda: transformers.AutoTokenizer.from_pretrained(folder, **LOCAL),
        f"of '{name}' in '{folder}'",
        f"put its tokenizer.json there (`hf download {name}` has it), or vocab.json and merges.txt",
    )


def _clips_tokenizer(tokenizer: Any, config: Any, name: str) -> Tokenizer:
    """Return the tokenizer of a CLIP, if it fits the config of its text encoder."""
    sos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    expected = config.vocab_size - 1 if config.eos_token_id == OLD_EOS else config.eos_token_id
    need(
        eos == expected,
        f"'{name}' ends a sentence with token {expected}, its tokenizer with {eos}: use the "
        "tokenizer of its training",
    )

    def decode(ids: list[int]) -> str:
        # decode strips the space after a word
        ends = tokenizer.convert_ids_to_tokens(ids)[-1].endswith("</w>")
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip() + " " * ends

    return Tokenizer(partial(tokenizer.encode, add_special_tokens=False), decode, sos, eos)


def _without_marks(text: str) -> str:
    """Return a text as in SigLIP's training: in lower case and without marks."""
    return " ".join(text.translate(NO_MARKS).lower().split())


def _images(transformers: Any, folder: Path, name: str, config: Mapping) -> tuple[Family, int]:
    """Read how images are prepared, and their size, from one of two files.

    Sizes that the file lacks are that in the config of the image encoder. The family's tokenizer
    is OpenAI's.
    """
    remedy = f"run `hf download {name}`, or take another copy of its folder"
    nested, path = (folder / file for file in PREPARED)
    given = read_json(nested, remedy).get("image_processor") if nested.exists() else None
    if given is not None:
        path = nested
    elif path.exists():
        given = read_json(path, remedy)
    side = (config.get("vision_config") or {}).get("image_size", 224)
    if given is None:
        print(f"Note: '{name}' has no {path.name}: images are prepared as for OpenAI")
        return OPENAI, side
    how = transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL).to_dict()
    size = how["size"] if "size" in given else dict.fromkeys(how["size"], side)
    crop = how["crop_size"] if "crop_size" in given else {"height": side, "width": side}
    return _preparation(how, size, crop if how.get("do_center_crop") else None, path)


def _preparation(
    how: Mapping, size: Mapping, crop: Mapping | None, path: Path
) -> tuple[Family, int]:
    """Translate the preparation of an image processor of transformers, in the file `path`."""
    others = [k for k, v in how.items() if v and k.startswith(("do_", "include_top"))]
    others = [key for key in others if key not in STEPS]
    sides = {key: n for key, n in size.items() if n}
    crop = crop or dict.fromkeys(("height", "width"), next(iter(sides.values())))
    square = len({*sides.values()}) == 1 and crop["width"] == crop["height"]
    need(
        square and sides.keys() in SIZES and how.get("do_resize", True) and not others,
        f"'{path}' does not prepare images as squares in a known way (size {dict(size)}, crop "
        f"{dict(crop)}{''.join(f', {key}' for key in others)}): choose another model",
    )
    first, last = next(iter(sides.values())), crop["height"]
    resize = "shortest" if "shortest_edge" in sides else "squash"
    # ((f x - offset) - mean) / std for x up to 255, as (x / 255 - mean') / std'
    scaled, normal = how.get("do_rescale"), how.get("do_normalize")
    f = 255 * how["rescale_factor"] if scaled else 255
    offset = 1 if scaled and how.get("rescale_offset") else 0
    mean, std = (how["image_mean"], how["image_std"]) if normal else ((0.0,) * 3, (1.0,) * 3)
    prepared: dict[str, Any] = {
        "mean": tuple((offset + value) / f for value in mean),
        "std": tuple(value / f for value in std),
        "interpolation": INTERPOLATION[how["resample"]],
        "resize": resize if first == last else f"{resize} {first}",
    }
    return OPENAI._replace(**prepared), last
