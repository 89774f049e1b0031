"""CLIPs of open_clip with sides unlike OpenAI's, tiny and untrained: open ones and closed ones."""

import pytest
import torch
from foreign import NAMES, SENTENCES, TEXT, VISION, images, learns, spread

from trainers.prompting import UserError, build_method
from trainers.prompting.backbones import family_of
from trainers.prompting.building import config
from trainers.prompting.errors import ClosedSide

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
from open_golden import register_vit  # noqa: E402

from trainers.prompting import from_module  # noqa: E402
from trainers.prompting.encoders.sides import kinds  # noqa: E402

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
SHALLOW = {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2}
NODES = {
    "ZeroshotCLIP": {}, "TaskRes": {}, "CLIPAdapter": {}, "CoOp": {"N_CTX": 4},
    "CoCoOp": {"N_CTX": 2}, "KgCoOp": {}, "TCP": {"INSERT_BLOCK": 1}, "IVLP": SHALLOW,
    "ALIGN": {"DEPTH": 2, "M": 2, "N": 2}, "CLIPLoRA": {}, "LNOnly": {},
    "VPT": {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 2}, "MMRL": {"REP_LAYERS": [1, 2]},
}  # fmt: skip
WHERE = {"CoOp": "text", "CoCoOp": "text", "KgCoOp": "text", "TCP": "text", "VPT": "image"}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A CLIP, the package's own model, images, and the sides."""
    vision, text, expected = CASES[request.param]
    model = spread(open_clip.model.CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text))
    found = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    x = images(4, vision["image_size"])
    ours = from_module(model, found, tokenizer, {})
    assert kinds(ours) == expected
    return ours, model, tokenizer, x, expected


def test_logits_are_those_of_the_package(case):
    ours, model, tokenizer, x, _ = case
    with torch.no_grad():
        z, h = model.encode_image(x, normalize=True), model.encode_text(tokenizer(SENTENCES), True)
        wanted = model.logit_scale.exp() * z @ h.T
        found = build_method("ZeroshotCLIP", {}, ours, NAMES)(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def closed_to(name, expected):
    """Return True if a method needs the inside of a side that is closed."""
    needed = {"ZeroshotCLIP": (), "TaskRes": (), "CLIPAdapter": ()}.get(
        name, (WHERE[name],) if name in WHERE else ("image", "text")
    )
    return "closed" in [expected[side == "text"] for side in needed]


@pytest.mark.parametrize("name", NODES)
def test_methods_learn_or_are_refused(case, name, monkeypatch):
    monkeypatch.setattr(config, "methods_on", lambda clip_model: {})  # for time
    ours, _, _, x, expected = case
    if name == "MMRL" and expected[0] == "attention":
        with pytest.raises(UserError, match="reads the class token or tokens next to it"):
            build_method(name, NODES[name], ours, NAMES)
        return
    if closed_to(name, expected):
        with pytest.raises(ClosedSide, match="side of this backbone is closed"):
            build_method(name, NODES[name], ours, NAMES)
        return
    method = build_method(name, NODES[name], ours, NAMES)
    if method.trains:
        learns(method, x)


def test_how_images_are_prepared_and_sentences_end(case):
    ours, _, _, _, expected = case
    family = family_of(ours)
    assert family.causal == (expected[1] == "causal") and family.resize == "shortest"
    assert (family.tokenizer.pad is None) == family.causal


def test_what_a_config_lacks_is_said():
    model = open_clip.model.CLIP(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT)
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    given = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    for key in given:
        rest = {k: v for k, v in given.items() if k != key}
        with pytest.raises(UserError, match=f"of mine needs embed_dim, vision_cfg .*{key}"):
            from_module(model, rest, tokenizer, {}, "mine")
    odd = given | {"vision_cfg": VISION | {"image_size": [32, 64]}}
    with pytest.raises(UserError, match=r"images of mine are \[32, 64\], not square"):
        from_module(model, odd, tokenizer, {}, "mine")
    del model.visual
    with pytest.raises(UserError, match="mine has no `visual`"):
        from_module(model, given, tokenizer, {}, "mine")
