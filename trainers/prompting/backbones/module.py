"""A model of open_clip, or a user's own, as a CLIP: open where its blocks can be CLIP's."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, need
from .assemble import CLIP, Architecture, Sizes, assemble
from .bert import OpenText, open_hf_text
from .closed import Closed, example_image, example_sentence, open_if_equal
from .family import Family, Tokenizer
from .openai import OPENAI
from .openai_clip import model as openai_model
from .timm_vit import open_timm, why_closed
from .tokenizers import translate

HEAD = 64  # default width of an attention head
PARTS = ("vision_cfg", "text_cfg")


def sides(config: Mapping) -> tuple[str, str]:
    """Return which encoders of an architecture are open_clip's own, with CLIP's blocks.

    Args:
        config: as `open_clip.get_model_config` returns it.

    Returns:
        For images `class token`, `mean` (`assemble.image_encoder`) or `other`; for text `causal`,
        `both` (positions attend to later ones, too) or `other`.
    """
    vision, text = (config[part] for part in PARTS)
    own = not (vision.get("timm_model_name") or vision.get("attentional_pool"))
    unlike_clip = vision.get("no_ln_pre"), vision.get("pool_type", "tok")
    image = "other"
    if own and unlike_clip in ((None, "tok"), (False, "tok")):
        image = "class token"
    elif own and unlike_clip == (True, "avg") and vision.get("final_ln_after_pool"):
        image = "mean"
    foreign = text.get("hf_model_name") or config.get("multimodal_cfg") or text.get("embed_cls")
    reads = text.get("pool_type", "argmax") in ("argmax", "eos", "last")
    if foreign or not reads:
        return image, "other"
    return image, "both" if text.get("no_causal_mask") else "causal"


def from_module(
    model: Any, config: Mapping, tokenizer: Any, images: Mapping, arch: str = "the model"
) -> CLIP:
    """Return a model with weights as a CLIP: of open_clip, or your own.

    Sides whose encoder has CLIP's blocks, or can be given them (`open_timm`, `open_hf_text`), are
    open; others are closed, and used as a whole.

    Args:
        model: of open_clip; or of your own, with the modules `visual`, from images (B, 3, H, W) to
            (B, D), and `text`, from ids (n, L) to (n, D) or an `OpenText`, the parameter
            `logit_scale`, a logarithm, and perhaps `logit_bias`.
        config: its architecture, as `open_clip.get_model_config` returns it: `embed_dim` (D),
            `vision_cfg` with `image_size`, `text_cfg` with `context_length`. Of your own model,
            `timm_model_name` and `hf_model_name`, any texts, say that sides are not open_clip's.
        tokenizer: as `open_clip.get_tokenizer` returns it, or one of transformers.
        images: their preparation: `mean`, `std`, `interpolation` and `resize_mode` (`shortest` or
            `squash`); those of OpenAI where it has none.
        arch: the model's name, for messages.

    Examples:
        >>> from types import SimpleNamespace
        >>> model = torch.nn.Module()
        >>> model.visual = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16))
        >>> model.text = torch.nn.EmbeddingBag(29, 16)
        >>> model.logit_scale = torch.nn.Parameter(torch.tensor(4.6))
        >>> vision = {"timm_model_name": "mine", "image_size": 8}
        >>> text = {"hf_model_name": "mine", "context_length": 16}
        >>> config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        >>> letters = SimpleNamespace(sot_token_id=1, eot_token_id=2, decode=str)
        >>> letters.encode = lambda text: [3 + ord(letter) % 26 for letter in text]
        >>> clip_model = from_module(model, config, letters, {})
        >>> clip_model.visual(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 16])
    """
    image, text = sides(config)
    width, resolution = config["embed_dim"], config["vision_cfg"].get("image_size", 224)
    model = model.float().eval()
    whole: dict[str, nn.Module] = {}
    config = dict(config)
    family = family_from(tokenizer, config, images, arch)
    if image == "other":
        x, closed = example_image(resolution), Closed(model.visual, resolution)
        feature = closed.example(x)
        opened, why = open_timm(model.visual, resolution), why_closed(model.visual)
        whole["image"] = open_if_equal(closed, opened, x, feature, f"image side of {arch}", why)
        config["vision_cfg"] = {"image_size": resolution, "patch_size": 1}
    if text == "other":
        length = config["text_cfg"].get("context_length", 77)
        side = whole["text"] = _text_side(model.text, family.tokenizer, length, arch)
        if isinstance(side, OpenText):
            family, length = side.family(family), min(length, side.length)
        config["text_cfg"] = {"context_length": length}
    state = _open_state(model, whole)
    if text != "other" and "text_projection" not in state:
        state["text_projection"] = torch.eye(width)
    shape = "class token" if image == "other" else image
    return assemble_open_clip(
        fold_layer_scale(state), config, family, arch, arch, shape=shape, closed=whole
    )


def _text_side(text: Any, words: Tokenizer, length: int, arch: str) -> nn.Module:
    """Return the text encoder of a model, opened if it can be."""
    if isinstance(text, OpenText):  # a user's own
        why = text.unfit(words)
        need(not why, f"`text` of {arch} cannot read the sentences of its tokenizer: {why}")
        return text
    side, ids, opened = Closed(text), example_sentence(words), open_hf_text(text)
    feature = side.example(example_sentence(words, length))
    why = opened.unfit(words) if opened else ""
    return open_if_equal(side, opened, ids, feature, f"text side of {arch}", why)


def family_from(tokenizer: Any, config: Mapping, images: Mapping, arch: str) -> Family:
    """Return the family of a model; arguments and errors are those of `from_module`."""
    text, how = config["text_cfg"], images.get("interpolation", OPENAI.interpolation)
    resize = images.get("resize_mode", OPENAI.resize)
    need(
        resize in ("shortest", "squash"),
        f"{arch} resizes images by '{resize}', which is not known here: take shortest or squash",
    )
    causal = sides(config)[1] == "causal"
    translator = translate(tokenizer, not causal, arch)
    if text.get("pool_type") == "eos" and text.get("eos_id", translator.eos) != translator.eos:
        raise UserError(
            f"{arch} ends sentences with token {text['eos_id']}, its tokenizer with "
            f"{translator.eos}: use the tokenizer of its training"
        )
    return Family(
        translator,
        mean=tuple(images.get("mean") or OPENAI.mean),
        std=tuple(images.get("std") or OPENAI.std),
        interpolation="bicubic" if how == "random" else how,
        resize=resize,
        reads="last" if text.get("pool_type") == "last" else "eos",
        causal=causal,
    )


def _open_state(model: Any, whole: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return the weights outside of closed sides, under the names of OpenAI's class."""
    parts = tuple({"image": "visual.", "text": "text."}[side] for side in whole)
    left_out = (*parts, "attn_mask", "text.attn_mask", "text_decoder.")
    given = {n: x.detach() for n, x in model.state_dict().items() if not n.startswith(left_out)}
    if len(whole) == len(PARTS):  # a user's own may have more
        given = {n: x for n, x in given.items() if n in ("logit_scale", "logit_bias")}
    state = {name.removeprefix("text."): value for name, value in given.items()}
    if "text_projection.weight" in state:  # a Linear layer
        state["text_projection"] = state.pop("text_projection.weight").T
        if "text_projection.bias" in state:
            state["text_bias"] = state.pop("text_projection.bias")
    return state


def fold_layer_scale(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with LayerScale folded in: gamma (W x + b) = (gamma W) x + gamma b."""
    state = dict(state)
    for scale, linear in (("ls_1", "attn.out_proj"), ("ls_2", "mlp.c_proj")):
        for name in [name for name in state if name.endswith(f".{scale}.gamma")]:
            block, gamma = name.removesuffix(f"{scale}.gamma"), state.pop(name).float()
            weight, bias = f"{block}{linear}.weight", f"{block}{linear}.bias"
            state[weight] = gamma[:, None] * state[weight].float()
            state[bias] = gamma * state[bias].float()
    return state


def assemble_open_clip(
    state: Mapping[str, torch.Tensor],
    config: Mapping,
    family: Family,
    arch: str,
    source: Path | str,
    **how: Any,
) -> CLIP:
    """Return the CLIP of an architecture of open_clip; `how` goes to `assemble`."""
    vision, text, sizes = _shape(config)
    return assemble(state, vision, text, sizes, family, f"'{source}'", arch, **how)


def _shape(config: Mapping) -> tuple[Architecture, Architecture, Sizes]:
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
    of_vision = _architecture(vision, 64 if is_resnet else 768, None, act)
    if is_resnet:  # the heads of its final attention pooling, which is 32 times as wide
        of_vision = of_vision._replace(heads=32 * of_vision.width // vision.get("head_width", HEAD))
    return of_vision, _architecture(text, 512, 8, act), sizes


def _architecture(config: Mapping, width: int, heads: int | None, act: Mapping) -> Architecture:
    """Read an architecture from its part of a config, with the package's defaults."""
    width = config.get("width", width)
    arguments = config.get("act_kwargs") or {}
    activation = openai_model.QuickGELU if act["quick_gelu"] else partial(nn.GELU, **arguments)
    return Architecture(
        width,
        config.get("layers", 12),
        config.get("heads", heads) if heads else width // config.get("head_width", HEAD),
        int(width * config.get("mlp_ratio", 4.0)),
        activation,
        (config.get("norm_kwargs") or {}).get("eps", 1e-5),
    )
