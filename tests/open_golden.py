"""Parity files of prompts inside BERT and timm ViTs, and the CLIP of one of them."""

import copy
import json

import torch
from paths import GOLDEN
from safetensors import safe_open

FILES = sorted((GOLDEN / "open").glob("*.safetensors"))
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4}
MORE = {"vit_golden": {}, "vit_golden_reg": {"reg_tokens": 2, "no_embed_class": True,
                                             "init_values": 0.5}}  # fmt: skip


def read(name):
    """Return the metadata and the tensors of a file."""
    with safe_open(GOLDEN / "open" / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        texts = file.metadata()
    plain = ("vocab", "public_code")
    return {k: v if k in plain else json.loads(v) for k, v in texts.items()}, tensors


def register_vit(name, **sizes):
    """Let timm build a small ViT under a name, with the pool and head that open_clip asks for."""
    import timm

    def build(pretrained=False, **kwargs):
        given = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
        return timm.create_model("vit_tiny_patch16_224", **{**VIT, **sizes, **given})

    timm.models._registry._model_entrypoints[name] = build


def package_model(meta, tensors, folder):
    """Return the model of open_clip of a file, its tokenizer and its config.

    Args:
        folder: where the files of its text encoder and tokenizer are made.
    """
    import open_clip
    import transformers

    for name, more in MORE.items():
        register_vit(name, **meta["vit"], **more)
    (folder / "config.json").write_text(json.dumps(meta["bert_config"]))
    (folder / "vocab.txt").write_text(meta["vocab"])
    words = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    words.save_pretrained(folder)
    config = copy.deepcopy(meta["config"])
    config["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    model = open_clip.CustomTextCLIP(**copy.deepcopy(config))
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    model.load_state_dict(state)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=48)
    return model.eval(), tokenizer, config


def near(found, expected, tolerance=1e-5) -> bool:
    """Return True if no value differs by more than a share of the largest, or of 1."""
    size = max(1.0, float(expected.abs().max()))
    return (
        found.shape == expected.shape and float((found - expected).abs().max()) < tolerance * size
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of a difference in units of the expected one's."""
    return float((found - expected).norm() / expected.norm())
