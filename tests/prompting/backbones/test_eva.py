"""EVAs of open_clip, opened: parity with timm's own blocks, with what methods put inside."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from foreign import NAMES, TEXT, images, learns, spread

from trainers.prompting import Added, ImageEncoder, UserError, build_method, from_module
from trainers.prompting.backbones.positions import interpolate_positions
from trainers.prompting.encoders.added import LowRank
from trainers.prompting.encoders.sides import kinds
from trainers.prompting.running.precision import Precision

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")

W, D, P = 48, 24, 16
SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": W, "depth": 3, "num_heads": 4}
TURNS = {"ref_feat_shape": (4, 4)}
KINDS = {  # an architecture of timm, sizes beside SIZE
    "EVA01-g": ("eva_giant_patch14_clip_224", {"mlp_ratio": 3.0}),
    "EVA02-B-16": ("eva02_base_patch16_clip_224", TURNS),
    "EVA02-L-14": ("eva02_large_patch14_clip_224", TURNS),
    "other grid": ("eva02_large_patch14_clip_224", {"ref_feat_shape": (3, 3)}),
    "EVA02-E-14": ("eva02_enormous_patch14_clip_224", {"mlp_ratio": 3.0}),
}
OPEN = [kind for kind in KINDS if kind != "EVA02-E-14"]
TOKENIZER = open_clip.SimpleTokenizer(context_length=24)


def make(kind):
    """Return a small random CLIP of open_clip with an EVA, and ours of it."""
    arch, more = KINDS[kind]

    def build(pretrained=False, **kwargs):
        given = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
        return timm.create_model(arch, **{**SIZE, **more, **given})

    timm.models._registry._model_entrypoints["eva_case"] = build
    vision = {"timm_model_name": "eva_case", "timm_pool": "token", "timm_proj": None,
              "timm_model_pretrained": False, "image_size": 32}  # fmt: skip
    torch.manual_seed(0)
    model = spread(open_clip.CustomTextCLIP(embed_dim=D, vision_cfg=vision, text_cfg=TEXT))
    with torch.no_grad():  # as timm starts, attention would be alike everywhere
        for p in model.visual.trunk.parameters():
            p.normal_(std=2 / p[0].numel() ** 0.5) if p.dim() > 1 else None
    config = {"embed_dim": D, "vision_cfg": vision, "text_cfg": TEXT}
    return model, from_module(model, config, TOKENIZER, {})


@pytest.fixture(scope="module", params=OPEN)
def pair(request):
    return make(request.param)


def timms(trunk, x, tokens=(), block=0):
    """Return states (B, R, W) after timm's blocks, with tokens for the end of each first block.

    A table gets rows of angle 0 for them.
    """
    rope = None if trunk.rope is None else trunk.rope.get_embed()
    b = len(tokens[0]) if tokens else 0
    if rope is not None and b:
        none = torch.cat([torch.zeros(b, rope.shape[1] // 2), torch.ones(b, rope.shape[1] // 2)], 1)
        rope = torch.cat([rope, none])
    for i, layer in enumerate(trunk.blocks):
        if i < len(tokens):
            x = torch.cat([x[:, : 1 + P], tokens[i].expand(len(x), -1, -1)], 1)
        x = layer(x, rope=rope)
    return x


def entry(trunk, x):
    """Return what enters timm's first block."""
    x = trunk.patch_embed(x)
    return torch.cat([trunk.cls_token.expand(len(x), -1, -1), x], 1) + trunk.pos_embed


def close(found, expected):
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_features_are_those_of_open_clip(pair):
    model, ours = pair
    x, trunk = images(), model.visual.trunk
    expected = model.encode_image(x)
    assert kinds(ours)[0] == "head"
    close(ours.visual(x), expected)
    found = ImageEncoder(ours.visual, patches=True)(x)
    close(found.raw[:, 0], expected)
    states = trunk.head(trunk.norm(timms(trunk, entry(trunk, x))))
    close(found.r[:, 0], F.normalize(states[:, 1:], dim=-1))


@torch.no_grad()
def test_turning_matters():
    model, ours = make("EVA02-B-16")
    x = images()
    expected = model.encode_image(x)
    for block in ours.visual.transformer.resblocks:
        block.attn.rope = None
    assert (ours.visual(x) - expected).abs().max() > 0.1 * expected.abs().max()


def test_prompts_in_three_blocks_and_their_gradients(pair):
    model, ours = pair
    x, trunk = images(), model.visual.trunk
    contexts = [torch.randn(1, 2, W, requires_grad=True) for _ in range(3)]
    found = ImageEncoder(ours.visual)(x, contexts).raw[:, 0]
    states = timms(trunk, entry(trunk, x), [c[0] for c in contexts])
    expected = trunk.head(trunk.norm(states)[:, 0])
    close(found, expected)
    sides = [torch.autograd.grad(y.square().sum(), contexts) for y in (found, expected)]
    for one, other in zip(*sides, strict=True):
        close(one, other)


@torch.no_grad()
def test_tokens_that_enter_are_not_turned(pair):
    model, ours = pair
    x, trunk, token = images(), model.visual.trunk, torch.randn(3, W)
    found = ImageEncoder(ours.visual)(x, None, {1: Added(enter=token)}).raw[:, 0]
    first = trunk.blocks[0](entry(trunk, x), rope=None if trunk.rope is None else
                            trunk.rope.get_embed())  # fmt: skip
    part = deepcopy(trunk)
    part.blocks = trunk.blocks[1:]
    expected = trunk.head(trunk.norm(timms(part, first, [token]))[:, 0])
    close(found, expected)  # attention is a set: where the tokens are does not matter


@torch.no_grad()
def test_updates_of_all_matrices_are_those_of_the_weights(pair):
    _, ours = pair
    blocks, added, x = ours.visual.transformer.resblocks, {}, images()
    for i, block in enumerate(blocks):
        mlp, names = block.mlp, ("q", "k", "v", "o", "fc", "proj")
        hidden = {"fc": len(mlp.c_fc.weight), "proj": mlp.c_proj.weight.shape[1]}
        weights = {n: LowRank.of(n, W, 2, 0.5, hidden=hidden.get(n, 0)) for n in names}
        for update in weights.values():
            update.w_lora_B.normal_()
        added[i] = Added(weights=weights)
    modules = torch.nn.ModuleList(m for a in added.values() for m in a.weights.values())
    encoder = ImageEncoder(ours.visual)
    branch = encoder(x, None, added).raw
    modules.eval()
    merged = encoder(x, None, added).raw
    close(branch, merged)
    assert (merged - encoder(x).raw).abs().max() > 0.01


NODES = {
    "VPT": {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 3}, "MaPLe": {"PROMPT_DEPTH": 2},
    "ALIGN": {"M": 2, "N": 2, "DEPTH": 2}, "CLIPLoRA": {"PARAMS": ["q", "o", "fc", "proj"]},
    "CLIPSVD": {}, "LNOnly": {}, "MMRL": {"REP_LAYERS": [1, 2]}, "GalLoP": {}, "TextRefiner": {},
    "MultiModalAdapter": {"ADAPTER_START": 1, "ADAPTER_END": 2}, "SkipTuning": {"START_LAYER": 1},
    "TipAdapter": {},
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_methods_take_a_step(name):
    _, ours = make("EVA02-B-16")
    support = {"images": images(3), "labels": torch.arange(3)}
    method = build_method(
        name, NODES[name], ours, NAMES, support=support if "Tip" in name else None
    )
    if method.trains:
        learns(method, images())
    assert method.eval()(images()).isfinite().all()


@pytest.mark.parametrize("name, node", [("ProLIP", {}), ("MMRLpp", {"REP_LAYERS": [1, 2]})])
def test_methods_that_a_head_with_a_bias_refuses(name, node):
    with pytest.raises(UserError, match="choose another"):
        build_method(name, node, make("EVA02-B-16")[1], NAMES)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["EVA01-g", "EVA02-B-16"])
def test_half_precision_and_recomputation(kind):
    _, ours = make(kind)
    method, x = build_method("ZeroshotCLIP", {}, ours, NAMES), images()
    expected = method(x)
    half = deepcopy(ours)
    other = build_method("ZeroshotCLIP", {}, half, NAMES)
    how = Precision("amp", torch.device("cpu"), half_on_cpu=True)
    how.place(other, half)
    with how.autocast():
        assert (other(x) - expected).abs().max() < 0.05 * expected.abs().max()


def test_recomputed_blocks_have_the_same_gradients():
    _, ours = make("EVA02-B-16")
    method, x = build_method("VPT", NODES["VPT"], ours, NAMES).train(), images(3)
    grads = []
    for recompute in (False, True):
        method.image_encoder.recompute = recompute
        method.zero_grad()
        method.losses(x, torch.arange(3))["loss"].backward()
        grads.append([p.grad.clone() for p in method.learned().values()])
    for one, other in zip(*grads, strict=True):
        close(one, other)


def test_blocks_that_normalise_sums_stay_closed(capsys):
    model, ours = make("EVA02-E-14")
    assert kinds(ours)[0] == "closed"
    assert "stays closed: its blocks normalise what they add" in capsys.readouterr().out
    with torch.no_grad():
        x = images()
        close(ImageEncoder(ours.visual)(x).raw[:, 0], model.encode_image(x))


def test_tables_of_other_sizes_are_not_interpolated():
    with pytest.raises(UserError, match="turns its patches by a table for images of 32 pixels"):
        interpolate_positions(make("EVA02-B-16")[1].visual, 48)
    visual = make("EVA01-g")[1].visual
    interpolate_positions(visual, 48)
    assert ImageEncoder(visual)(images(2, 48)).raw.isfinite().all()
