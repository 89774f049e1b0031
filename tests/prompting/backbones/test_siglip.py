"""Dual encoders of transformers, tiny and untrained: SigLIP with prompts inside, others closed."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from foreign import (
    NAMES,
    SENTENCES,
    VOCABULARY,
    images,
    learns,
    spread,
    write_words,
)

from trainers.prompting import (
    ImageEncoder,
    TextEncoder,
    UserError,
    build_method,
    load_clip,
    write_sentences,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
LENGTH = 24
PREPARED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}


def siglip_folder(folder):
    """Write a tiny SigLIP, and return the model and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": len(VOCABULARY), "projection_size": 64,
            "max_position_embeddings": LENGTH, "bos_token_id": None, "eos_token_id": 1,
            "pad_token_id": 2,
        },
        vision_config={
            "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
        },
    )  # fmt: skip
    model = spread(transformers.SiglipModel(config))
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    write_words(folder, sos=False)
    prepared = PREPARED | {"size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    theirs = siglip_folder(folder)
    return load_clip(str(folder)), *theirs


def test_features_and_logits_are_those_of_hugging_face(pair):
    ours, model, tokenizer = pair
    x = images()
    words = [s.replace(".", "") for s in SENTENCES]
    with torch.no_grad():
        found = model(input_ids=ids_of(tokenizer, words), pixel_values=x)
    image = ImageEncoder(ours.visual)(x)
    text = TextEncoder(ours, write_sentences(ours, ["a photo of a {}."], NAMES))()
    torch.testing.assert_close(image.z[:, 0], found.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text.h[0], found.text_embeds, atol=1e-5, rtol=0)
    logits = build_method("ZeroshotCLIP", {}, ours, NAMES)(x)
    torch.testing.assert_close(logits, found.logits_per_image, atol=1e-5, rtol=1e-5)
    family = ours.family
    assert (family.resize, family.reads, family.causal) == ("squash", "last", False)
    assert family.tokenizer[2:5] == (None, 1, 2)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_words_as_contexts_change_nothing(pair, position):
    """Learned tokens that are the words' own embeddings give the sentence with these words."""
    ours, *_ = pair
    rows = write_sentences(ours, ["a photo of a {}."], NAMES, 4, position)
    ctx = ours.token_embedding.weight[[VOCABULARY.index(w) for w in ["a", "photo", "of", "a"]]]
    found = TextEncoder(ours, rows)([ctx[None]])
    words = {
        "end": "a photo of a {}", "middle": "a photo {} of a", "front": "{} a photo of a",
    }[position]  # fmt: skip
    plain = TextEncoder(ours, write_sentences(ours, [words], NAMES))()
    torch.testing.assert_close(found.h, plain.h, atol=1e-6, rtol=0)


def naive_text(model, ids, slots, contexts):
    """Encode rows of ids with contexts (b, W) in the slots of each depth, by their parts."""
    text = model.text_model
    x = text.embeddings.token_embedding(ids).clone()
    x[:, slots] = contexts[0]
    x = x + text.embeddings.position_embedding.weight
    for i, layer in enumerate(text.encoder.layers):
        if 1 <= i < len(contexts):
            x = x.clone()
            x[:, slots] = contexts[i]
        out = layer(x, attention_mask=None)
        x = out[0] if isinstance(out, tuple) else out
    x = text.final_layer_norm(x)
    return F.normalize(text.head(x[:, -1]), dim=-1), F.normalize(text.head(x), dim=-1)


def naive_image(model, images, contexts):
    vision = model.vision_model
    x = vision.embeddings(images)
    P, b = x.shape[1], contexts[0].shape[0]
    x = torch.cat([x, contexts[0].expand(len(x), b, -1)], 1)
    for i, layer in enumerate(vision.encoder.layers):
        if 1 <= i < len(contexts):
            x = torch.cat([x[:, :P], contexts[i].expand(len(x), b, -1)], 1)
        out = layer(x, attention_mask=None)
        x = out[0] if isinstance(out, tuple) else out
    x = vision.post_layernorm(x)
    alone = torch.stack([vision.head(x[:, p : p + 1]) for p in range(x.shape[1])], 1)
    return F.normalize(vision.head(x), dim=-1), F.normalize(alone, dim=-1)


def ids_of(tokenizer, sentences):
    found = tokenizer(sentences, padding="max_length", max_length=LENGTH, return_tensors="pt")
    return found.input_ids


NODES = {
    "CoOp": {"N_CTX": 4}, "VPT": {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 3},
    "MaPLe": {"PROMPT_DEPTH": 3}, "ALIGN": {"M": 2, "N": 2, "DEPTH": 3}, "CoCoOp": {},
    "TCP": {"INSERT_BLOCK": 2}, "PLOT": {"N": 2}, "CLIPLoRA": {}, "LNOnly": {"LN_ENDS": True},
    "MultiModalAdapter": {"ADAPTER_START": 2, "ADAPTER_END": 3}, "GalLoP": {},
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_a_step_gives_finite_gradients_everywhere(pair, name):
    learns(build_method(name, NODES[name], pair[0], NAMES), images())


def test_deep_prompts_read_no_value(pair):
    """On `meta`, as on a GPU, an index that depends on values would wait for them."""
    clip_model = copy.deepcopy(pair[0])
    method = build_method("ALIGN", NODES["ALIGN"], clip_model, NAMES).to("meta")
    clip_model.to("meta")
    assert method.text_features(method.contexts()).h.shape == (2, 3, 64)


def test_ivlp_and_align_agree_with_hugging_faces_parts(pair):
    ours, model, tokenizer = pair
    torch.manual_seed(3)
    node = {"M": 2, "N": 2, "DEPTH": 3, "COUPLING": "independent"}
    method = build_method("ALIGN", node, ours, NAMES)
    contexts = method.contexts()
    x = images()
    image, text = method.image_features(x, contexts), method.text_features(contexts)
    starts = ["a photo of a", "x x of a"]
    for n in range(2):
        ids = ids_of(tokenizer, [f"{starts[n]} {name.replace('_', ' ')}" for name in NAMES])
        h, s = naive_text(model, ids, [0, 1], [c[n] for c in contexts.text])
        torch.testing.assert_close(text.h[n], h, atol=1e-5, rtol=0)
        for k, name in enumerate(NAMES):
            length = 4 + len(name.replace("_", " ").split())
            torch.testing.assert_close(text.s[n, k, :length], s[k, :length], atol=1e-5, rtol=0)
            assert float(text.s_weights.mass[n, k, length:].sum()) == 0
    for m in range(2):
        z, r = naive_image(model, x, [c[m] for c in contexts.vision])
        torch.testing.assert_close(image.z[:, m], z, atol=1e-5, rtol=0)
        torch.testing.assert_close(image.r[:, m], r, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk, most", [(256, 6), (4, 4), (1, 2)])
def test_recomputation_changes_nothing(chunk, most, pair, monkeypatch):
    """Blocks read at most CHUNK sentences of two prompts and three classes at a time."""
    ours, *_ = pair
    grads, x, read = [], images(), []
    block = TextEncoder._block

    def counted(encoder, layer, layout, shared, suffix, *rest):
        read.append(suffix.shape[0] * suffix.shape[1] // LENGTH)
        return block(encoder, layer, layout, shared, suffix, *rest)

    monkeypatch.setattr(TextEncoder, "_block", counted)
    monkeypatch.setattr("trainers.prompting.encoders.text.CHUNK", chunk)
    for recompute in (False, True):
        read.clear()
        torch.manual_seed(3)
        method = build_method("ALIGN", {"M": 2, "N": 2, "DEPTH": 3}, ours, NAMES)
        method.text_encoder.recompute = 2 * recompute
        method.image_encoder.recompute = recompute
        method.backward(method.losses(x, torch.tensor([0, 1, 2, 0])))
        grads.append([p.grad for p in method.learned().values()])
        assert max(read) == (most if recompute else 6)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_what_transformers_does_not_know_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}))
    write_words(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip(str(tmp_path))
