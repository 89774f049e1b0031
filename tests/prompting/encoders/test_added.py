"""Additions inside the encoders, compared with a plain CLIP in training and evaluation; mistakes.

The file is long because each place of an addition is compared with a plain CLIP.
"""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from models import NAMES, RESNET, clip_of, images
from torch import nn

from trainers.prompting import (
    Added,
    Contexts,
    ImageEncoder,
    LowRank,
    Method,
    Teacher,
    TextEncoder,
    UserError,
    blocks_of,
    build_method,
    tuned_norm,
    write_sentences,
)
from trainers.prompting.backbones.openai import clip
from trainers.prompting.encoders.added import MATRICES, merge
from trainers.prompting.node import read_node
from trainers.prompting.running.memory import LEVELS
from trainers.prompting.use.export import Program

W = 128  # of both encoders of the tiny CLIP


def method_with(sides, clip_model, names=NAMES, contexts=None, encoders=None):
    """Return a zero-shot method with these additions for each side.

    Args:
        contexts: what the method's `contexts` returns.
        encoders: what its `encoders` returns.
    """

    class Mine(Method):
        node = "MINE"

        @dataclass(frozen=True)
        class Settings(Method.Settings):
            PREC: str = "fp32"

        def encoders(self, clip_model, classnames, dataset):
            return encoders or super().encoders(clip_model, classnames, "")

        def build(self, clip_model, classnames, dataset):
            found = [
                (*x.weights.values(), *x.norms.values(), x.beside, x.before)
                for blocks in sides.values()
                for x in blocks.values()
            ]
            self.added = nn.ModuleList(m for of in found for m in of if m is not None)
            self.given = contexts

        def contexts(self):
            return self.given or Contexts()

        def blocks(self, side):
            return sides.get(side, {})

    return Mine(read_node(Mine, {}), clip_model, names)


def updates(rank=2, dropout=0.0):
    """Return low-rank updates of every matrix that are not 0."""
    found = {name: LowRank.of(name, W, rank, 0.7, dropout) for name in MATRICES}
    for update in found.values():
        nn.init.normal_(update.w_lora_B, std=0.02)
    return found


class Whole(nn.Module):
    """Any update of a matrix."""

    def __init__(self, weight, bias):
        super().__init__()
        self.own = nn.Parameter(0.02 * torch.randn_like(weight))

    def forward(self, y):
        return F.linear(y, self.own)

    def merged(self, weight):
        return weight + self.own


class DoRA(LowRank):
    """The length of each row and its direction, apart (arXiv:2402.09353)."""

    def __init__(self, weight, bias):
        super().__init__(*weight.shape[::-1], rank=2, scale=1.0)
        nn.init.normal_(self.w_lora_B, std=0.02)
        self.register_buffer("frozen", weight.detach().clone(), persistent=False)
        self.length = nn.Parameter(self.frozen.norm(dim=1) * (1 + 0.1 * torch.rand(len(weight))))

    def forward(self, y):
        return F.linear(y, self.merged(self.frozen) - self.frozen)

    def merged(self, weight):
        return self.length[:, None] * F.normalize(super().merged(weight), dim=1)


class Bias(nn.Module):
    """Only the bias (BitFit)."""

    def __init__(self, weight, bias):
        super().__init__()
        self.own = nn.Parameter(0.1 * torch.randn_like(bias))

    def forward(self, y):
        return self.own.expand(*y.shape[:-1], -1)

    def merged(self, weight):
        return weight

    def merged_bias(self, bias):
        return bias + self.own


@pytest.mark.parametrize("kind", [LowRank, Whole, DoRA, Bias])
def test_updates_equal_changed_matrices(tiny_clip, kind):
    """In training a branch, in evaluation and in a program merged, with the same gradients."""
    torch.manual_seed(0)
    added = {}
    for side in ("text", "image"):
        if kind is LowRank:
            added[side] = {1: Added(updates()), 3: Added(updates())}
            continue
        block = blocks_of(tiny_clip, side)[2]
        attn, mlp = block.attn, block.mlp
        v = attn.in_proj_weight[2 * W :], attn.in_proj_bias[2 * W :]
        layers = {"o": attn.out_proj, "fc": mlp.c_fc, "proj": mlp.c_proj}
        own = {"v": kind(*v)} | {n: kind(x.weight, x.bias) for n, x in layers.items()}
        added[side] = {2: Added(own)}
    model, changed = method_with(added, tiny_clip), copy.deepcopy(tiny_clip)
    for side, blocks in added.items():
        merge(blocks, blocks_of(changed, side))
    plain = method_with({}, changed)
    wanted = plain(images())
    assert (method_with({}, tiny_clip)(images()) - wanted).abs().max() > 0.1
    gradients = []
    for mode in (True, False):
        found = model.train(mode)(images())
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
        model.zero_grad()
        F.cross_entropy(found, torch.tensor([0, 1, 2])).backward()
        gradients.append([p.grad for p in model.learned().values()])
    assert all(p is not None and p.any() for p in gradients[0])
    for branch, merged in zip(*gradients, strict=True):
        assert (branch - merged).norm() < 1e-3 * merged.norm()
    program = Program(model)
    assert not program.method.added.state_dict()
    with torch.no_grad():
        torch.testing.assert_close(program(images()), wanted, rtol=1e-5, atol=1e-4)


def test_dropout_is_on_only_in_training(tiny_clip):
    torch.manual_seed(0)
    model = method_with({"image": {0: Added(updates(dropout=0.5))}}, tiny_clip)
    model.train()
    first, second = (model(images()) for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("random", [False, True])
def test_recomputed_blocks_have_the_same_gradients(tiny_clip, random):
    """Dropout has the same masks both times."""
    torch.manual_seed(0)
    beside = Beside(dropout=0.5 * random)
    added = {
        "text": {1: Added(updates(dropout=0.5 * random), beside=beside)},
        "image": {0: Added(updates(dropout=0.5 * random)), 2: Added(beside=beside)},
    }
    model = method_with(added, tiny_clip).train()
    found = []
    for level in LEVELS:
        model.text_encoder.recompute, model.image_encoder.recompute = level
        model.zero_grad()
        torch.manual_seed(1)
        F.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
        found.append([p.grad.clone() for p in model.learned().values()])
    assert all(
        torch.equal(a, b) for grads in found[1:] for a, b in zip(found[0], grads, strict=True)
    )


class Beside(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.of_x, self.of_y = (nn.Parameter(0.1 * torch.randn(W)) for _ in range(2))

    def forward(self, x, y):
        return self.drop(x.sin() * self.of_x + y * self.of_y)


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
    templates, names = ["a photo of a", "a photo of the old"], ["sea", "annual crop"]
    text = TextEncoder(tiny_clip, write_sentences(tiny_clip, templates, names, 4))
    encoders = text, ImageEncoder(tiny_clip.visual)
    h = method_with({"text": added}, tiny_clip, names, Contexts(contexts), encoders).text().h
    for n, template in enumerate(templates):
        for k, name in enumerate(names):
            own = [context[n] for context in contexts]
            expected = reference_text(tiny_clip, added, own, f"{template} {name}.")
            torch.testing.assert_close(h[n, k], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_images_with_tokens_that_enter(tiny_clip):
    """Together with visual prompts; r has patches and prompts, but not the tokens that entered."""
    torch.manual_seed(0)
    prompts = [0.3 * torch.randn(2, 2, W) for _ in range(2)]
    added = {i: Added(enter=0.3 * torch.randn(3, W), beside=Beside()) for i in (1, 3)}
    sentences = write_sentences(tiny_clip, ["a photo of a {}."], NAMES)
    image = ImageEncoder(tiny_clip.visual, patches=True, states=3, values=True)
    encoders = TextEncoder(tiny_clip, sentences), image
    contexts = Contexts(vision=prompts)
    model = method_with({"image": added}, tiny_clip, NAMES, contexts, encoders)
    z, r, states, values, *_ = model.output(images()).image
    visual = tiny_clip.visual
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
        torch.testing.assert_close(states[:, m], last[:, : 1 + n], rtol=1e-5, atol=1e-4)
        v = F.linear(y, block.attn.in_proj_weight[2 * W :], block.attn.in_proj_bias[2 * W :])
        u = before + block.attn.out_proj(v)
        u = u + block.mlp(block.ln_2(u)) + added[3].beside(before, y)
        patches = visual.ln_post(u)[:, 1 + n : 1 + n + 16]
        torch.testing.assert_close(values[:, m], patches, rtol=1e-5, atol=1e-4)


def test_text_before_the_first_addition_is_kept_from_step_to_step(tiny_clip, monkeypatch):
    clip_model = copy.deepcopy(tiny_clip)
    model = method_with({"text": {2: Added(updates())}}, clip_model).train()
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


def moved(norm):
    """Return a tuned LayerNorm that is no longer the CLIP's."""
    tuned = tuned_norm(norm)
    with torch.no_grad():
        tuned.weight.mul_(1 + 0.2 * torch.randn(tuned.weight.shape))
        tuned.bias.add_(0.2 * torch.randn(tuned.bias.shape))
    return tuned


UNTOUCHED = {
    "nothing": lambda visual: {},
    "updates": lambda visual: {0: Added(updates())},
    "tokens": lambda visual: {2: Added(enter=torch.ones(3, W))},
    "norms": lambda visual: {0: Added(norms={"pre": moved(visual.ln_pre)})},
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_untouched_features_are_those_of_a_teacher(tiny_clip, case):
    added = UNTOUCHED[case](tiny_clip.visual)
    sentences = write_sentences(tiny_clip, ["a photo of a {}."], NAMES)
    image = ImageEncoder(tiny_clip.visual, states=1, untouched=True)
    encoders = TextEncoder(tiny_clip, sentences), image
    model = method_with({"image": added}, tiny_clip, encoders=encoders)
    image = model.train().output(images()).image
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    assert torch.equal(image.untouched[:, 0], teacher.z(images()))
    assert not image.untouched.requires_grad
    assert torch.allclose(image.z, image.untouched, atol=1e-3) == (not added)
    with torch.no_grad():
        assert model.output(images()).image.untouched is None


@pytest.mark.parametrize("training", [False, True])
def test_tuned_norms_equal_changed_ones(tiny_clip, training):
    """In both encoders: before and inside blocks, and after them; the CLIP stays as it is."""
    changed, before = copy.deepcopy(tiny_clip), copy.deepcopy(tiny_clip.state_dict())
    places = {"text": {1: ["ln_1"], 3: ["ln_1", "ln_2", "post"]},
              "image": {0: ["pre", "ln_2"], 2: ["ln_1"], 3: ["ln_1", "post"]}}  # fmt: skip
    ends = {"text": {"post": "ln_final"}, "image": {"pre": "ln_pre", "post": "ln_post"}}
    added = {}
    for side, blocks in places.items():
        tower = changed if side == "text" else changed.visual
        added[side] = {}
        for i, names in blocks.items():
            norms = {}
            for name in names:
                owner = tower if name in ends[side] else tower.transformer.resblocks[i]
                key = ends[side].get(name, name)
                norms[name] = moved(getattr(owner, key))
                setattr(owner, key, norms[name])
            added[side][i] = Added(norms=norms)
    model = method_with(added, tiny_clip).train(training)
    expected = method_with({}, copy.deepcopy(changed)).train(training)(images())
    torch.testing.assert_close(model(images()), expected, rtol=1e-5, atol=1e-4)
    assert (method_with({}, tiny_clip)(images()) - expected).abs().max() > 0.1
    F.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad.any() for p in model.learned().values()) and len(model.learned()) == 18
    assert all(torch.equal(value, before[key]) for key, value in tiny_clip.state_dict().items())
    with torch.no_grad():
        program = Program(model.eval())(images())
    torch.testing.assert_close(program, expected.detach(), rtol=1e-5, atol=1e-4)


MISTAKES = {  # what is said, and additions to places that no encoder has
    "to block 4 of the text encoder, which has blocks 0 to 3": {"text": {4: Added()}},
    "before to block 1 of the image": {"image": {1: Added(before=nn.Identity())}},
    "pre to block 0 of the text encoder": {"text": {0: Added(norms={"pre": nn.LayerNorm(W)})}},
    "post to block 2 of the image": {"image": {2: Added(norms={"post": nn.LayerNorm(W)})}},
    "query to block 0 of the text": {"text": {0: Added({"query": LowRank(W, W, 2, 1.0)})}},
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_additions_that_would_have_no_effect(tiny_clip, sentence):
    with pytest.raises(UserError, match=f"^Mine adds {sentence}"):
        method_with(MISTAKES[sentence], tiny_clip)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("CLIPLoRA", {}),
        ("MultiModalAdapter", {"ADAPTER_START": 1, "ADAPTER_END": 2}),
        ("MMRL", {"REP_LAYERS": [1]}),
    ],
)
def test_a_resnet_has_no_blocks(name, node):
    resnet = clip_of(**RESNET | {"vision_width": 8})
    with pytest.raises(UserError, match="The backbone has a ResNet .* choose a ViT"):
        build_method(name, node, resnet, NAMES)
    gallop = build_method("GalLoP", {"TOPK": [9]}, resnet, NAMES)  # more than its one patch
    assert gallop.eval()(images()).shape == (3, len(NAMES))
