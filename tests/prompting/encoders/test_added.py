"""Additions inside the encoders, compared with a plain CLIP in training and evaluation; mistakes.

The file is long because each place of an addition is compared with a plain CLIP.
"""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from models import NAMES, images
from torch import nn

from trainers.prompting import (
    Added,
    Contexts,
    LowRank,
    Method,
    Parts,
    PromptSpec,
    Teacher,
    UserError,
    blocks_of,
    build_clip,
)
from trainers.prompting.backbones.openai import clip
from trainers.prompting.encoders.added import MATRICES, merge
from trainers.prompting.trainer.config import build_method, read_node
from trainers.prompting.use.export import Program

FIXED = PromptSpec(M=0, N=0, beta=0, score="cosine", sentence="a photo of a {}.")
W = 128  # of both encoders of the tiny CLIP


class Given(Parts):
    """Parts with given additions for each side."""

    def __init__(self, **sides):
        super().__init__()
        self.sides = sides
        modules = [
            m
            for blocks in sides.values()
            for x in blocks.values()
            for m in (*x.weights.values(), x.beside, x.before)
            if m is not None
        ]
        self.modules_of = nn.ModuleList(modules)

    def blocks(self, side):
        return self.sides.get(side, {})


def method_with(parts, clip_model, spec=FIXED, names=NAMES):
    class Mine(Method):
        node = "MINE"

        @dataclass(frozen=True)
        class Settings(Method.Settings):
            PREC: str = "fp32"

        @staticmethod
        def point(settings):
            return spec

        def setup(self, clip_model, classnames, dataset):
            self.model.parts = parts

    return Mine(read_node(Mine, {}), clip_model, names)


def updates(rank=2, dropout=0.0):
    """Return low-rank updates of every matrix that are not 0."""
    found = {name: LowRank.of(name, W, rank, 0.7, dropout) for name in MATRICES}
    for update in found.values():
        nn.init.normal_(update.w_lora_B, std=0.02)
    return found


def test_updates_equal_changed_matrices(tiny_clip):
    torch.manual_seed(0)
    added = {side: {1: Added(updates()), 3: Added(updates())} for side in ("text", "image")}
    model = method_with(Given(**added), tiny_clip).model
    changed = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        for side, blocks in added.items():
            merge(blocks, blocks_of(changed, side))
    plain = method_with(Parts(), changed).model
    assert (method_with(Parts(), tiny_clip).model(images()) - plain(images())).abs().max() > 0.1
    for mode in (True, False):  # a branch, and merged
        found = model.train(mode)(images())
        torch.testing.assert_close(found, plain.train(mode)(images()), rtol=0, atol=1e-4)
        assert found.requires_grad == mode
    program = Program(model)
    torch.testing.assert_close(program(images()), model(images()), rtol=0, atol=1e-4)
    assert not list(program.parts.parameters())


def test_dropout_is_on_only_in_training(tiny_clip):
    torch.manual_seed(0)
    model = method_with(Given(image={0: Added(updates(dropout=0.5))}), tiny_clip).model
    model.train()
    first, second = (model(images()) for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("random", [False, True])
def test_recomputed_blocks_have_the_same_gradients(tiny_clip, random):
    """Dropout has the same masks both times."""
    torch.manual_seed(0)
    beside = Beside()
    added = {
        "text": {1: Added(updates(dropout=0.5 * random), beside=beside)},
        "image": {0: Added(updates(dropout=0.5 * random)), 2: Added(beside=beside)},
    }
    model = method_with(Given(**added), tiny_clip).model.train()
    found = []
    for recompute in (False, True):
        model.text_encoder.recompute = model.image_encoder.recompute = recompute
        model.zero_grad()
        torch.manual_seed(1)
        F.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
        found.append([p.grad.clone() for p in model.parts.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_x, self.of_y = (nn.Parameter(0.1 * torch.randn(W)) for _ in range(2))

    def forward(self, x, y):
        return x.sin() * self.of_x + y * self.of_y


class Contextual(Given):
    """Given additions, and contexts, which may be shorter at later depths."""

    def __init__(self, contexts, **sides):
        super().__init__(**sides)
        self.of_text = nn.ParameterList(contexts)

    def contexts(self, contexts):
        return Contexts(list(self.of_text), contexts.vision)


def reference_text(model, added, contexts, sentence):
    """Return h (D,) of one prompt and class, from all positions, computed by CLIP's blocks."""
    tokens = clip.tokenize([sentence])[0]
    eos = int(tokens.argmax())
    b = contexts[0].shape[0]
    x = model.token_embedding(tokens)
    x = torch.cat([x[:1], contexts[0], x[1 + b :]]) + model.positional_embedding
    n = 0
    for i, block in enumerate(model.transformer.resblocks):
        if 1 <= i < len(contexts):
            end = 1 + n + b
            x = torch.cat([x[: end - len(contexts[i])], contexts[i], x[end:]])
        here = added.get(i, Added())
        if here.enter is not None:
            x = torch.cat([x[:1], here.enter, x[1 + n :]])
            n = len(here.enter)
        y = block.ln_1(x)[:, None]
        mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
        out = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0][:, 0]
        out = out + block.mlp(block.ln_2(out))
        x = out if here.beside is None else out + here.beside(x, y[:, 0])
    raw = model.ln_final(x)[eos + n] @ model.text_projection
    return F.normalize(raw, dim=-1)


@torch.no_grad()
def test_text_with_tokens_that_enter_and_shorter_deep_contexts(tiny_clip):
    torch.manual_seed(0)
    added = {
        1: Added(enter=0.3 * torch.randn(3, W), beside=Beside()),
        2: Added(enter=0.3 * torch.randn(3, W)),
        3: Added(beside=Beside()),  # read at EOS only
    }
    contexts = [0.3 * torch.randn(2, b, W) for b in (4, 2, 4)]
    spec = PromptSpec(
        M=0, N=2, beta=0, score="ot", own_contexts=True, text_length=4, text_depth=3,
        templates=("a photo of a", "a photo of the old"),
    )  # fmt: skip
    parts = Contextual(contexts, text=added)
    h = method_with(parts, tiny_clip, spec, ["sea", "annual crop"]).model.eval().text_features().h
    for n, template in enumerate(spec.templates):
        for k, name in enumerate(("sea", "annual crop")):
            own = [context[n] for context in contexts]
            expected = reference_text(tiny_clip, added, own, f"{template} {name}.")
            torch.testing.assert_close(h[n, k], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_images_with_tokens_that_enter(tiny_clip):
    """Together with visual prompts; r has patches and prompts, but not the tokens that entered."""
    torch.manual_seed(0)
    spec = PromptSpec(
        M=2, N=0, beta=1, score="ot", vision_length=2, vision_depth=2, states=3, values=True,
        sentence="a photo of a {}.",
    )  # fmt: skip
    added = {i: Added(enter=0.3 * torch.randn(3, W), beside=Beside()) for i in (1, 3)}
    model = method_with(Given(image=added), tiny_clip, spec).model.eval()
    z, r, states, values, _ = model.output(images()).image
    visual, prompts = tiny_clip.visual, model.contexts().vision
    for m in range(2):
        x = visual.conv1(images()).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
        x = x + visual.positional_embedding
        x = visual.ln_pre(torch.cat([x, prompts[0][m].expand(len(x), -1, -1)], 1))
        n = 0
        for i, block in enumerate(visual.transformer.resblocks):
            if i == 1:
                x = torch.cat([x[:, :-2], prompts[1][m].expand(len(x), -1, -1)], 1)
            if i in added:
                x = torch.cat([x[:, :1], added[i].enter.expand(len(x), -1, -1), x[:, 1 + n :]], 1)
                n = 3
            before, y = x, block.ln_1(x)
            x = block(x.transpose(0, 1)).transpose(0, 1)
            x = x + added[i].beside(before, y) if i in added else x
        last = visual.ln_post(x)
        features = F.normalize(last @ visual.proj, dim=-1)
        torch.testing.assert_close(z[:, m], features[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(r[:, m], features[:, 1 + n :], rtol=0, atol=1e-5)
        torch.testing.assert_close(states[:, m], last[:, : 1 + n], rtol=0, atol=1e-4)
        v = F.linear(y, block.attn.in_proj_weight[2 * W :], block.attn.in_proj_bias[2 * W :])
        u = before + block.attn.out_proj(v)
        u = u + block.mlp(block.ln_2(u)) + added[3].beside(before, y)
        patches = visual.ln_post(u)[:, 1 + n : 1 + n + 16]
        torch.testing.assert_close(values[:, m], patches, rtol=0, atol=1e-4)


def test_text_before_the_first_addition_is_kept_from_step_to_step(tiny_clip, monkeypatch):
    clip_model = copy.deepcopy(tiny_clip)
    model = method_with(Given(text={2: Added(updates())}), clip_model).model.train()
    computed = []
    block_of = model.text_encoder._block

    def block(block, *args, **kwargs):
        computed.append(list(clip_model.transformer.resblocks).index(block))
        return block_of(block, *args, **kwargs)

    monkeypatch.setattr(model.text_encoder, "_block", block)
    first, second = (model.output(images()).text.h for _ in range(2))
    assert computed == [0, 1, 2, 2] and torch.equal(first, second) and second.requires_grad
    with torch.no_grad():
        clip_model.transformer.resblocks[0].mlp.c_proj.bias.add_(torch.randn(W))
    changed = model.output(images()).text.h
    assert computed[4:] == [0, 1, 2] and not torch.allclose(changed, first, atol=1e-3)
    expected = model.eval().output(images()).text.h
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("added", [{}, {0: Added(updates())}, {2: Added(enter=torch.ones(3, W))}])
def test_untouched_features_are_those_of_a_teacher(tiny_clip, added):
    spec = FIXED.with_(untouched=True, states=1)
    model = method_with(Given(image=added), tiny_clip, spec).model
    image = model.train().output(images()).image
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    assert torch.equal(image.untouched[:, 0], teacher.z(images()))
    assert not image.untouched.requires_grad
    assert torch.allclose(image.z, image.untouched, atol=1e-3) == (not added)
    assert model.eval().output(images()).image.untouched is None


TOKENS = torch.zeros(2, W)
MISTAKES = {
    "adds to block 4 of the text encoder, which has blocks 0 to 3": {"text": {4: Added()}},
    r"lets \[2, 3\] tokens enter the image encoder: give one number": {
        "image": {0: Added(enter=TOKENS), 1: Added(enter=torch.zeros(3, W))}
    },
    rf"lets \(2, 64\) enter at block 0 of the text encoder: give tokens \(n, {W}\)": {
        "text": {0: Added(enter=TOKENS[:, :64])}
    },
    "has `before` at block 1 of the image encoder: only block 0": {
        "image": {1: Added(before=nn.Identity())}
    },
    "updates 'query' of block 0 of the text encoder: name one of q, k": {
        "text": {0: Added({"query": LowRank(W, W, 2, 1.0)})}
    },
    r"updates 'fc' of block 0 of the text encoder by \(128, 128\), but it has \(128, 512\)": {
        "text": {0: Added({"fc": LowRank(W, W, 2, 1.0)})}
    },
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_additions_that_do_not_fit(tiny_clip, sentence):
    with pytest.raises(UserError, match=f"^Mine {sentence}"):
        method_with(Given(**MISTAKES[sentence]), tiny_clip)


SETTINGS = {
    "CLIPLoRA": [
        ({"R": 0}, "R is 0 but must be from 1 to 128"),
        ({"R": 129}, "R is 129 but must be from 1 to 128"),
        ({"PARAMS": ["q", "x"]}, "no matrix in PARAMS 'x'"),
        ({"POSITION": "top"}, "no POSITION 'top'"),
        ({"ENCODER": "image"}, "no ENCODER 'image'"),
        ({"DROPOUT_RATE": 1.0}, "DROPOUT_RATE is 1.0"),
        ({"SCALE": -1.0}, "SCALE is -1.0 but must be positive"),
    ],
    "MultiModalAdapter": [
        ({}, "ADAPTER_END is 12 but the text encoder has 4 blocks"),
        ({"ADAPTER_START": 3, "ADAPTER_END": 2}, "give 0 <= ADAPTER_START <= ADAPTER_END"),
        ({"ADAPTER_DIM": 0}, "ADAPTER_DIM is 0"),
        ({"ADAPTER_SCALE": 0.0}, "ADAPTER_SCALE is 0.0 but must be positive"),
    ],
    "MMRL": [
        ({}, "REP_LAYERS has 12 but the text encoder has 4 blocks"),
        ({"REP_LAYERS": []}, r"REP_LAYERS is \[\] but"),
        ({"REP_LAYERS": [2, 2]}, r"REP_LAYERS is \[2, 2\] but"),
        ({"REP_LAYERS": [0, 1]}, r"REP_LAYERS is \[0, 1\] but"),
        ({"REP_LAYERS": [2], "N_REP_TOKENS": 0}, "N_REP_TOKENS is 0"),
        ({"REP_LAYERS": [2], "ALPHA": 1.5}, "ALPHA is 1.5 but must be in"),
        ({"REP_LAYERS": [2], "TASK": "XD"}, "no TASK 'XD'"),
    ],
    "GalLoP": [
        (
            {"TOPK": [5, 10]},
            r"TOPK is \[5, 10\] but must be one number of patches, or one",
        ),
        ({"TOPK": [0]}, r"TOPK is \[0\]"),
        ({"N_LOCAL_PROMPTS": 0}, "N_LOCAL_PROMPTS is 0"),
        ({"GLOBAL_DROPOUT_P": -0.1}, "GLOBAL_DROPOUT_P is -0.1"),
        ({"USE_GLOBAL_LOSS": False, "USE_LOCAL_LOSS": False}, "are False: set one to True"),
    ],
}


@pytest.mark.parametrize(
    ("name", "node", "sentence"), [(name, *case) for name, of in SETTINGS.items() for case in of]
)
def test_invalid_settings_are_refused(tiny_clip, name, node, sentence):
    with pytest.raises(UserError, match=sentence):
        build_method(name, node, tiny_clip, NAMES)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("CLIPLoRA", {}),
        ("MultiModalAdapter", {"ADAPTER_START": 1, "ADAPTER_END": 2}),
        ("MMRL", {"REP_LAYERS": [1]}),
    ],
)
def test_a_resnet_has_no_blocks(name, node):
    resnet = build_clip(
        {
            "embed_dim": 32, "image_resolution": 32, "vision_layers": (1, 1, 1, 1),
            "vision_width": 8, "vision_patch_size": None, "context_length": 77,
            "vocab_size": 49408, "transformer_width": 64, "transformer_heads": 1,
            "transformer_layers": 2,
        }
    )  # fmt: skip
    with pytest.raises(UserError, match="The backbone has a ResNet .* choose a ViT"):
        build_method(name, node, resnet, NAMES)
    gallop = build_method("GalLoP", {"TOPK": [9]}, resnet, NAMES)  # more than its one patch
    assert gallop.model.eval()(images()).shape == (3, len(NAMES))
