"""Prompts inside BERT, XLM-R and timm's ViTs: parity with public code, and with the packages.

And CLIPs of open_clip with sides unlike OpenAI's, tiny and untrained: open ones and closed ones.
"""

import pytest
import torch
import torch.nn.functional as F
from foreign import NAMES, SENTENCES, TEXT, VISION, images, learns, spread

from trainers.prompting import Added, TextEncoder, UserError, build_method, write_sentences
from trainers.prompting.building import build
from trainers.prompting.encoders.sentence_features import encode_sentences

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from open_golden import FILES, near, package_model, read, register_vit, relative  # noqa: E402

from trainers.prompting import from_module  # noqa: E402
from trainers.prompting.encoders.sides import kinds  # noqa: E402

COOP = [path.stem for path in FILES if path.stem.startswith(("coop", "kgcoop", "biomedcoop"))]
VPT = [path.stem for path in FILES if path.stem.startswith("vpt")]
DEEP = [path.stem for path in FILES if path.stem.startswith("deep")]


@pytest.fixture
def golden(request, tmp_path):
    """The metadata and tensors of a file, and its CLIP."""
    meta, tensors = read(request.param)
    model, tokenizer, config = package_model(meta, tensors, tmp_path)
    return meta, tensors, from_module(model, config, tokenizer, {}, request.param)


def check_step(method, tensors, learned, grad):
    """Compare logits, loss and gradient of a step with a file's."""
    method.train()
    terms = method.losses(tensors["images"], tensors["labels"])
    with torch.no_grad():
        logits = method(tensors["images"])
    assert near(logits, tensors["logits"])
    terms["loss"].backward()
    assert relative(learned.grad, grad) < 1e-5
    return {name: term.detach() for name, term in terms.items()}


@pytest.mark.parametrize("golden", COOP, indirect=True)
def test_learned_words(golden):
    meta, tensors, clip_model = golden
    node = {"N_CTX": 4, "CTX_INIT": meta["ctx_init"]}
    kind = meta["method"]
    own = ("W", "SCCM_LAMBDA", "KDSP_LAMBDA", "TAU", "N_PROMPTS")
    node |= {key: meta[key] for key in own if key in meta}
    node |= {"SENTENCES": meta["sentences"]} if "sentences" in meta else {}
    method = build_method(kind, node, clip_model, meta["classnames"])
    ctx = method.prompt_learner.ctx
    if "ctx_of_words" in tensors:
        assert near(ctx.detach(), tensors["ctx_of_words"])
        with torch.no_grad():
            output = method.output(tensors["images"])
        assert near(output.logits, tensors["logits_at_words"])
        assert near(output.text.raw[0], tensors["text_features_of_words"])
        assert near(output.image.raw[:, 0], tensors["image_features"])
    with torch.no_grad():
        ctx.copy_(tensors["ctx"])
    terms = check_step(method, tensors, ctx, tensors["grad.ctx"])
    for name in ("ce", "sccm", "kdsp"):
        assert f"loss_{name}" not in tensors or near(terms[name], tensors[f"loss_{name}"])
    assert near(terms["loss"], tensors["loss"])
    if kind == "BiomedCoOp":
        raw = encode_sentences(
            clip_model, [text for row in meta["sentences"].values() for text in row]
        )
        assert near(raw, tensors["fixed_embeddings"].flatten(0, 1))
        z = method.output(tensors["images"]).image.z[:, 0]
        scores = method.score_sentences(z, method.teacher.h_each).detach()
        assert near(scores, tensors["scores"])
        assert torch.equal(method.find_kept(scores), tensors["kept"])
        package = {f"text_encoder.model.{k}": v for k, v in tensors.items() if "state." in k}
        package |= {"prompt_learner.ZS_image_encoder.trunk.cls_token": ctx, "logit_scale": ctx}
        package |= {"prompt_learner.token_prefix": ctx, "image_encoder.trunk.cls_token": ctx}
        method.load_public_state_dict(package | {"prompt_learner.ctx": tensors["ctx"] + 1})
        assert torch.equal(ctx, tensors["ctx"] + 1)


@pytest.mark.parametrize("golden", VPT, indirect=True)
def test_learned_tokens_of_images(golden):
    meta, tensors, clip_model = golden
    depth, b, _ = tensors["contexts"].shape
    node = {"N_CTX_VISION": b, "PROMPT_DEPTH_VISION": depth}
    method = build_method("VPT", node, clip_model, meta["classnames"])
    own = [*method.learned().values()]
    with torch.no_grad():
        plain = build_method("ZeroshotCLIP", {}, clip_model, meta["classnames"])
        assert near(plain(tensors["images"]), tensors["logits_without"])
        for p, value in zip(own, tensors["contexts"], strict=True):
            p.copy_(value.reshape(p.shape))
    terms = method.train().losses(tensors["images"], tensors["labels"])
    terms["loss"].backward()
    with torch.no_grad():
        assert near(method(tensors["images"]), tensors["logits"])
    assert near(terms["loss"].detach(), tensors["loss"])
    for p, grad in zip(own, tensors["grad.contexts"], strict=True):
        assert relative(p.grad, grad.reshape(p.shape)) < 1e-5


@pytest.mark.parametrize("golden", DEEP, indirect=True)
def test_learned_states_of_words(golden):
    meta, tensors, clip_model = golden
    contexts = tensors["contexts"].clone().requires_grad_()
    sentences = write_sentences(clip_model, [meta["template"]], meta["classnames"], 2)
    text = TextEncoder(clip_model, sentences)(list(contexts[:, None]))
    z = F.normalize(clip_model.visual(tensors["images"]), dim=-1)
    logits = clip_model.logit_scale.exp() * z @ text.h[0].T
    loss = F.cross_entropy(logits, tensors["labels"])
    loss.backward()
    assert near(logits.detach(), tensors["logits"]) and near(loss.detach(), tensors["loss"])
    assert relative(contexts.grad, tensors["grad.contexts"]) < 1e-5


@pytest.mark.parametrize("golden", ["coop_biomed", "coop_xlm_mean"], indirect=True)
@torch.no_grad()
def test_tokens_that_enter_and_adapters(golden):
    """Tokens follow [CLS] at blocks 1 and 2, and a module is parallel to block 1."""
    meta, _, clip_model = golden
    blocks = clip_model.transformer.resblocks
    W, tokens = blocks[0].attn.embed_dim, torch.randn(2, 3, 32)
    beside = torch.nn.Linear(W, W)

    class Beside(torch.nn.Module):
        def forward(self, x, y):
            return beside(y)

    added = {1: Added(enter=tokens[0], beside=Beside()), 2: Added(enter=tokens[1], share=0.25)}
    sentences = write_sentences(clip_model, ["a photo of a {}."], meta["classnames"])
    text = TextEncoder(clip_model, sentences)(added=added)
    for k, sentence in enumerate(sentences[0]):
        ids = torch.tensor(sentence.ids)
        x = clip_model.token_embedding(ids) + clip_model.positional_embedding[: len(ids)]
        x = blocks[0](clip_model.ln_embed(x)[:, None])[:, 0]
        x = torch.cat([x[:1], tokens[0], x[1:]])
        x = blocks[1](x[:, None])[:, 0] + beside(x)
        mixed = 0.25 * tokens[1] + 0.75 * x[1:4]
        x = blocks[2](torch.cat([x[:1], mixed, x[4:]])[:, None])[:, 0]
        x = x[0] if clip_model.family.reads == "first" else x.mean(0)
        raw = clip_model.ln_final(x) @ clip_model.text_projection
        assert near(text.raw[0, k], raw)


# ------------------------------------------------------------------ sides unlike OpenAI's

TOKENIZER = open_clip.SimpleTokenizer(context_length=24)
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear", "image_size": 160}  # fmt: skip
register_vit("vit_tiny_siglip", embed_dim=24, class_token=False, global_pool="map")
SIGLIP = {"timm_model_name": "vit_tiny_siglip", "timm_pool": "map", "timm_proj": "none",
          "timm_model_pretrained": False, "image_size": 32}  # fmt: skip
CONVNEXT = TIMM | {"timm_model_name": "test_convnext", "timm_pool": "", "image_size": 32}
BOTH = TEXT | {"no_causal_mask": True}
LAST = BOTH | {"pool_type": "last", "proj_bias": True}
MEAN = VISION | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
ATTENTION = VISION | {"attentional_pool": True, "attn_pooler_heads": 4}
CASES = {  # vision, text, sides
    "ConvNeXt": (CONVNEXT, TEXT, ("closed", "causal")),
    "ConvNeXt, both": (CONVNEXT, BOTH, ("closed", "both")),
    "timm's ViT": (TIMM, BOTH, ("head", "both")),
    "timm's SigLIP": (SIGLIP, LAST, ("attention", "both")),
    "mean": (MEAN, BOTH | {"pool_type": "last"}, ("mean", "both")),
    "mean, bias": (MEAN, LAST, ("mean", "both")),
    "attention": (ATTENTION, TEXT, ("closed", "causal")),
    "class token in the text": (VISION, TEXT | {"embed_cls": True}, ("class token", "closed")),
    "CLIP, both": (VISION, LAST, ("class token", "both")),
}
NODES = {
    "CLIPAdapter": {}, "CoOp": {"N_CTX": 4}, "CoCoOp": {"N_CTX": 2}, "TCP": {"INSERT_BLOCK": 1},
    "ALIGN": {"DEPTH": 2, "M": 2, "N": 2}, "CLIPLoRA": {}, "LNOnly": {},
    "VPT": {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 2}, "MMRL": {"REP_LAYERS": [1, 2]},
}  # fmt: skip
NEEDS = {"CLIPAdapter": (), "CoOp": ("text",), "CoCoOp": ("text",), "TCP": ("text",),
         "VPT": ("image",)}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sides_unlike_openais(case, monkeypatch):
    """Logits are those of the package; a method learns, or is refused by what it needs."""
    monkeypatch.setattr(build, "methods_on", lambda clip_model: {})  # for time
    vision, text, expected = CASES[case]
    model = spread(open_clip.model.CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text))
    found = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    ours = from_module(model, found, TOKENIZER, {})
    assert kinds(ours) == expected
    family = ours.family
    assert family.causal == (expected[1] == "causal") and family.resize == "shortest"
    assert (family.tokenizer.pad is None) == family.causal
    x = images(4, vision["image_size"])
    with torch.no_grad():
        z, h = model.encode_image(x, normalize=True), model.encode_text(TOKENIZER(SENTENCES), True)
        wanted = model.logit_scale.exp() * z @ h.T
        logits = build_method("ZeroshotCLIP", {}, ours, NAMES)(x)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    for name, node in NODES.items():
        sides = {expected[side == "text"] for side in NEEDS.get(name, ("image", "text"))}
        if name == "MMRL" and expected[0] == "attention":
            with pytest.raises(UserError, match="reads the class token or tokens next to it"):
                build_method(name, node, ours, NAMES)
        elif "closed" in sides:
            with pytest.raises(UserError, match="side of this backbone is closed"):
                build_method(name, node, ours, NAMES)
        else:
            learns(build_method(name, node, ours, NAMES), x)
