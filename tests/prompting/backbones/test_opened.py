"""Opened encoders compute what their packages do; others stay closed, and the log says why.

The file is long because each family of CLIPs has encoders of its own.
"""

import importlib.util
import json
import runpy

import pytest
import torch
from foreign import NAMES, SENTENCES, TEXT, VISION, VOCABULARY, images, spread, write_words
from paths import ROOT

from trainers.prompting import (
    ImageEncoder,
    OpenText,
    UserError,
    build_method,
    from_module,
    load_clip,
)
from trainers.prompting.encoders.sentence_features import encode_sentences
from trainers.prompting.encoders.sides import kinds

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from open_golden import register_vit  # noqa: E402

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


D = 24
VITS = {  # sizes of timm's ViT, pool and projection of open_clip, kind of the side
    "class token": ({}, "", "linear", "class token"),
    "class token, MLP": ({}, "token", "mlp", "head"),
    "mean": ({"class_token": False, "global_pool": "avg"}, "avg", "linear", "head"),
    "mean after the norm": ({"fc_norm": False}, "avg", "mlp", "head"),
    "registers": ({"reg_tokens": 2, "no_embed_class": True}, "token", "mlp", "head"),
    "LayerScale": ({"init_values": 0.5, "pre_norm": True}, "", "linear", "class token"),
    "no bias": ({"qkv_bias": False}, "", "linear", "class token"),
    "normalised keys": ({"qk_norm": True}, "", "linear", "closed"),
    "mean with the class token": ({"pool_include_prefix": True}, "avg", "linear", "closed"),
    "attention, matrix": ({"class_token": False, "global_pool": "map"}, "map", "linear", "closed"),
}
BERTS = {"BERT": "BertConfig", "RoBERTa": "RobertaConfig", "XLM-R": "XLMRobertaConfig"}
POOLERS = ("cls_pooler", "cls_last_hidden_state_pooler", "mean_pooler")
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": len(VOCABULARY), "pad_token_id": 2, "max_position_embeddings": 30,
}  # fmt: skip


@pytest.mark.parametrize("case", VITS)
@torch.no_grad()
def test_vits_of_timm(case, capsys):
    sizes, pool, proj, kind = VITS[case]
    register_vit("vit_case", **sizes)
    vision = {"timm_model_name": "vit_case", "timm_pool": pool, "timm_proj": proj,
              "timm_model_pretrained": False, "image_size": 32}  # fmt: skip
    model = spread(open_clip.CustomTextCLIP(embed_dim=D, vision_cfg=vision, text_cfg=TEXT))
    config = {"embed_dim": D, "vision_cfg": vision, "text_cfg": TEXT}
    ours = from_module(model, config, open_clip.SimpleTokenizer(context_length=24), {})
    assert kinds(ours)[0] == kind and "stays closed" not in capsys.readouterr().out
    x = images()
    found = ImageEncoder(ours.visual)(x).raw[:, 0]
    if case == "registers":
        with pytest.raises(UserError, match="images have 3 tokens before their patches: choose"):
            build_method("MMRL", {"REP_LAYERS": [1]}, ours, NAMES)
    torch.testing.assert_close(found, model.visual(x), atol=2e-6, rtol=2e-6)


def text_model(folder, kind="BertConfig", pooler="mean_pooler", proj="mlp", width=D, **sizes):
    """Return a model of open_clip with a text of transformers, its tokenizer and its config."""
    folder.mkdir(exist_ok=True)
    getattr(transformers, kind)(**{**SIZES, **sizes}).save_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        write_words(folder)
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False, "context_length": 24,
            "hf_pooler_type": pooler, "hf_proj_type": proj}  # fmt: skip
    config = {"embed_dim": width, "vision_cfg": VISION, "text_cfg": text}
    model = spread(open_clip.CustomTextCLIP(**json.loads(json.dumps(config))))
    return model, open_clip.tokenizer.HFTokenizer(str(folder), context_length=24), config


CASES = [(kind, pooler, "mlp", D) for kind in BERTS for pooler in POOLERS]


@pytest.mark.parametrize("case", [*CASES, ("BERT", POOLERS[1], "linear", D),
                                  ("BERT", POOLERS[0], None, 32)])  # fmt: skip
@torch.no_grad()
def test_texts_of_transformers(case, tmp_path, capsys):
    kind, pooler, proj, width = case
    model, tokenizer, config = text_model(tmp_path, BERTS[kind], pooler, proj, width)
    ours = from_module(model, config, tokenizer, {})
    assert kinds(ours) == ("class token", "both") and "closed" not in capsys.readouterr().out
    found = encode_sentences(ours, SENTENCES)
    expected = model.encode_text(tokenizer(SENTENCES))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)
    sentences = build_method("CoOp", {"N_CTX": 2}, ours, NAMES).text_encoder.sentences
    assert max(len(sentence.ids) for (row,) in [sentences] for sentence in row) < 12, "no padding"


def test_more_positions_than_the_text_has(tmp_path):
    model, tokenizer, config = text_model(tmp_path)
    ours = from_module(model, config, tokenizer, {})
    with pytest.raises(UserError, match=r"has 2\d tokens but the text encoder reads 24: shorten"):
        build_method("CoOp", {"N_CTX": 22}, ours, NAMES)


WRONG = {  # a text that differs from BERT's or its tokenizer, and what is said
    "another padding": ({"pad_token_id": 3}, {}, "skips token 3, its tokenizer pads with 2"),
    "no start": ({}, {"sos": False}, "its tokenizer writes no start token"),
    "its end is its padding": ({}, {"end": "<pad>"}, "token 2 is its padding and its end"),
}


@pytest.mark.parametrize("case", WRONG)
@torch.no_grad()
def test_what_stays_closed_and_why(case, tmp_path, capsys):
    sizes, how, why = WRONG[case]
    write_words(tmp_path, **how)
    model, tokenizer, config = text_model(tmp_path, **sizes)
    ours = from_module(model, config, tokenizer, {}, "mine")
    said = capsys.readouterr().out
    assert "the text side of mine stays closed: " in said and why in said
    assert kinds(ours) == ("class token", "closed")
    ids = tokenizer(SENTENCES)
    found = encode_sentences(ours, SENTENCES)
    torch.testing.assert_close(found, model.encode_text(ids), atol=2e-6, rtol=2e-6)


def test_a_package_that_computes_something_else(tmp_path, capsys):
    """A forward pass that the modules do not show: the side is closed, and keeps its features."""
    model, tokenizer, config = text_model(tmp_path)
    forward = model.text.forward
    model.text.forward = lambda ids: forward(ids) * 1.001
    ours = from_module(model, config, tokenizer, {}, "mine")
    said = capsys.readouterr().out
    assert "text side of mine stays closed: a feature would differ by 1e-03" in said
    assert kinds(ours)[1] == "closed"


def test_an_own_bert(tmp_path):
    model, tokenizer, config = text_model(tmp_path)
    bert = model.text.transformer
    model.text = OpenText(bert, [torch.nn.Linear(32, D)], "mean")
    assert kinds(from_module(model, config, tokenizer, {}))[1] == "both"
    bert.config.pad_token_id = 3
    model.text = OpenText(bert, [torch.nn.Linear(32, D)], "mean")
    with pytest.raises(UserError, match="`text` of mine cannot read the sentences of its token"):
        from_module(model, config, tokenizer, {}, "mine")
    with pytest.raises(UserError, match="DistilBertModel cannot be opened: only BertModel, .*"):
        OpenText(transformers.DistilBertModel(transformers.DistilBertConfig(
            dim=8, hidden_dim=8, n_heads=1, n_layers=1, vocab_size=9)), [])  # fmt: skip
    bert.config.is_decoder = True
    with pytest.raises(UserError, match="cannot be opened: its positions are relative, or see on"):
        OpenText(bert, [])


def test_words_without_spaces_between_them(tmp_path):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"一张照片的猫狗"]
    (tmp_path / "vocab.txt").write_text("\n".join(names), "utf-8")
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    model, tokenizer, config = text_model(tmp_path, **{"vocab_size": len(names), "pad_token_id": 0})
    ours = from_module(model, config, tokenizer, {})
    spaced = build_method("CoOp", {"CTX_INIT": "一 张 照 片"}, ours, ["猫", "狗"])
    assert spaced.prompt_learner.ctx.shape == (4, 32)


def dual(folder, kind, text, end):
    """Write a tiny dual encoder of transformers with these sizes of its text; return the model."""
    sizes = {k: v for k, v in SIZES.items() if k != "pad_token_id"}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**SIZES, **text, "projection_dim": D},
        vision_config=vision | {"projection_dim": D}, projection_dim=D,
    )  # fmt: skip
    model = spread(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    write_words(folder, end=end)
    prepared = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3,
                "size": {"height": 32, "width": 32}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return model


DUAL = {  # the text's sizes, the tokenizer's end, kinds
    "ChineseCLIP": ({}, "</s>", ("class token", "both")),
    "AltCLIP": ({"project_dim": 32}, "</s>", ("class token", "both")),
    "AltCLIP, end as padding": ({"project_dim": 32}, "<pad>", ("class token", "closed")),
}


@pytest.mark.parametrize("case", DUAL)
@torch.no_grad()
def test_dual_encoders_of_transformers(case, tmp_path):
    text, end, expected = DUAL[case]
    model, x = dual(tmp_path, case.partition(",")[0], text, end), images()
    ours = load_clip(str(tmp_path))
    assert kinds(ours) == expected
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    words = tokenizer(SENTENCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    found = model(**words, pixel_values=x).logits_per_image
    logits = build_method("ZeroshotCLIP", {}, ours, NAMES)(x)
    if end == "</s>":  # the package takes an end that pads for padding
        torch.testing.assert_close(logits, found, atol=1e-5, rtol=1e-5)
    else:
        with pytest.raises(UserError, match="the text side of this backbone is closed"):
            build_method("CoOp", {}, ours, NAMES)


# ------------------------------------------------------------------ an-own-CLIP


def test_the_example_runs_with_its_own_modules():
    example = runpy.run_path(str(ROOT / "examples" / "biomedclip.py"))
    logits = example["main"]("test_vit", **example["SMALL"], intermediate_size=64)
    assert logits.shape == (2, 3) and logits.isfinite().all()
    assert "python -m examples.biomedclip" in example["__doc__"]  # finds the packages, too
    assert importlib.util.find_spec("examples.biomedclip")
