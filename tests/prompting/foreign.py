"""Small random CLIPs of open_clip and Hugging Face, in folders as saved by these packages."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainers.prompting import build_method, load_clip
from trainers.prompting.backbones.openai import clip

NAMES = ["forest", "annual_crop", "river or sea"]
SENTENCES = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}


def images(count=4, size=32):
    return torch.randn(count, 3, size, size)


@torch.no_grad()
def spread(model):
    """Change every vector and number from its initial value, and return the model."""
    for name, p in model.named_parameters():
        if p.dim() < 2:
            p.add_(torch.randn_like(p) * (0.01 if "logit" in name else 0.3))
    return model.eval()


def learns(method, x):
    """Do the gradients of a step, which are finite for every learned parameter."""
    method.train().backward(method.losses([x] * method.views, torch.tensor([0, 1, 2, 0])))
    for name, p in method.learned().items():
        assert p.grad is not None and p.grad.isfinite().all(), name


def zero_shot(folder):
    clip_model = load_clip(str(folder))
    return build_method("ZeroshotCLIP", {}, clip_model, NAMES).eval()


def open_clip_config(vision=(), text=(), **more) -> dict:
    return {
        "embed_dim": 24,
        "vision_cfg": {**VISION, **dict(vision)},
        "text_cfg": {**TEXT, **dict(text)},
        **more,
    }


def open_clip_folder(folder: Path, config: dict, preprocess=()) -> tuple:
    """Write the folder of a random open_clip model; return the folder and the model."""
    import open_clip

    arguments = {k: v for k, v in config.items() if k != "custom_text"}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = spread(kind(**arguments))
    folder.mkdir(exist_ok=True)
    whole = {"model_cfg": config, "preprocess_cfg": dict(preprocess)}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder, model


def write_tokenizer(folder: Path) -> int:
    """Write CLIP's tokenizer of a few words in Hugging Face's files; return how many ids it has."""
    words = " ".join(SENTENCES).replace(".", " ") + " word "
    tokens, merges = clip._tokenizer.encoder, clip._tokenizer.bpe_ranks
    merges = [pair for pair in merges if "".join(pair).replace("</w>", " ") in words]
    letters = [token for token in tokens if len(token.removesuffix("</w>")) == 1]
    ids = [*letters, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(ids)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    special = {
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return len(ids)


def hugging_face_folder(folder: Path, **changes) -> tuple:
    """Write the folder of a random CLIPModel; return the folder and the model.

    `changes` go to the configs of both encoders.
    """
    import transformers

    folder.mkdir(exist_ok=True)
    count = write_tokenizer(folder)
    tower = {"hidden_size": 32, "intermediate_size": 48, "projection_dim": 24, **changes}
    config = transformers.CLIPConfig(
        text_config={**tower, "num_hidden_layers": 3, "num_attention_heads": 4,
                     "max_position_embeddings": 24, "vocab_size": count,
                     "eos_token_id": count - 1, "bos_token_id": count - 2},
        vision_config={**tower, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )  # fmt: skip
    model = spread(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    prepared = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder, model


VOCABULARY = [
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    *(WORDS := ["a", "photo", "of", "forest", "annual", "crop", "river", "or", "sea", "x"]),
    *(f"▁{word}" for word in WORDS),
    *(LETTERS := [*"bcdefhilmnoprstuv"]),
]


def write_words(folder: Path, sos: bool = True, end: str = "</s>", marks: bool = False) -> None:
    """Write a tokenizer of a few words in Hugging Face's files, with or without a start token.

    marks: a word after a space is a token of its own, and the first one single letters.
    """
    special = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", end)]
    row = [*special[: int(sos)], {"Sequence": {"id": "A", "type_id": 0}}, special[1]]
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    found = {
        "version": "1.0",
        "added_tokens": [
            {"id": ids[token], "content": token, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True} for token in VOCABULARY[:4]
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "single": row, "pair": row,
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                for token in ("<s>", end)
            },
        },
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }  # fmt: skip
    if marks:
        found["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True,
        }  # fmt: skip
        score = {**dict.fromkeys(VOCABULARY, -1.0), **dict.fromkeys(WORDS[1:-1], -99.0)}
        found["model"] = {"type": "Unigram", "unk_id": 3, "vocab": [*score.items()]}
    (folder / "tokenizer.json").write_text(json.dumps(found))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "unk_token": "<unk>"}
    config |= {"pad_token": "<pad>"} | ({"bos_token": "<s>"} if sos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
