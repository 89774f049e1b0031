"""The output of methods: agreement with stock CLIP, kept text, gradients, checkpoints, exports."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from models import NAMES, RESNET, align, clip_of, images, model_of, settings, support_of
from torch import nn

from trainers.prompting import Added, Contexts, UserError, build_method
from trainers.prompting.backbones.openai import clip
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node
from trainers.prompting.running.precision import Precision
from trainers.prompting.use import export

LABELS = torch.tensor([0, 1, 2])


def encoded(method) -> list:
    """Return a list that grows by 1 with each later call of a method's text encoder."""
    calls = []
    method.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    return calls


def test_logits_agree_with_stock_clip(tiny_clip):
    """Compares zero-shot logits with CLIP's own forward pass on 77 positions."""
    names = [n.replace("_", " ") for n in NAMES]
    tokens = clip.tokenize([f"a centered satellite photo of {n}." for n in names])
    expected = tiny_clip(images(), tokens)[0]
    assert torch.allclose(
        model_of(tiny_clip, "ZeroshotCLIP", {})(images()), expected, rtol=1e-4, atol=1e-4
    )


def test_prompted_text_agrees_with_stock_clip_on_77_positions(tiny_clip):
    """Compares our packed text encoder with CLIP's, for the same embeddings."""
    model = model_of(tiny_clip, "CoOp", {"N_CTX": 4, "CTX_INIT": "a photo of a"})
    tokens = clip.tokenize([f"a photo of a {n.replace('_', ' ')}." for n in NAMES])
    x = tiny_clip.token_embedding(tokens).detach()
    ctx = torch.randn(4, x.shape[-1])
    model.load_public_state_dict({"ctx": ctx})
    x[:, 1:5] = ctx
    x = tiny_clip.transformer((x + tiny_clip.positional_embedding).transpose(0, 1)).transpose(0, 1)
    x = tiny_clip.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)] @ tiny_clip.text_projection
    assert torch.allclose(model.text().raw[0], x, atol=1e-4)


# ------------------------------------------------------------------ kept text, and gradients


@torch.no_grad()
def test_features_under_dropout_are_not_kept(tiny_clip):
    node = {"ENCODER": "text", "DROPOUT_RATE": 0.5}
    method = model_of(tiny_clip, "CLIPLoRA", node).eval()
    for name, p in method.learned().items():
        p.copy_(torch.randn(p.shape) if name.endswith("B") else p)
    exact = method(images())
    first, second = (method.train()(images()) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(method.eval()(images()), exact)


def test_nothing_is_kept_while_gradients_are_on(tiny_clip):
    model = align(tiny_clip, 2, 2).eval()
    with torch.no_grad():
        kept = model(images())
    made = encoded(model)
    for count in (1, 2):
        found = model(images())
        assert found.requires_grad and len(made) == count
        torch.testing.assert_close(found.detach(), kept, rtol=1e-5, atol=1e-4)
    with torch.no_grad():  # what was kept before is gone, too
        model(images())
    assert len(made) == 3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["CoOp", "CoCoOp", "VPT", "MaPLe", "ALIGN"])
def test_gradients_follow_grad_mode_alone(tiny_clip, name, training):
    node = {key: 2 for key in METHODS[name].defaults if "DEPTH" in key}
    model = model_of(tiny_clip, name, node).train(training)
    with torch.no_grad():
        without = model(images())
    assert not without.requires_grad
    assert not model.text().h.requires_grad
    found = model(images())
    torch.testing.assert_close(found.detach(), without, rtol=1e-5, atol=1e-4)
    F.cross_entropy(found, LABELS).backward()
    assert all(p.grad.isfinite().all() for p in model.learned().values())
    assert any(p.grad.any() for p in model.learned().values())
    frozen = [p for e in (model.text_encoder, model.image_encoder) for p in e.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_fixed_text_is_encoded_once_even_if_later_steps_are_trained(tiny_clip):
    class Shifted(METHODS["ZeroshotCLIP"]):
        def build(self, clip_model, classnames, dataset):
            self.by = torch.nn.Parameter(torch.zeros(self.width))

        def text_features(self, contexts):
            features = super().text_features(contexts)
            return features._replace(h=F.normalize(features.h + self.by, dim=-1))

    method = Shifted(read_node(Shifted, {}), copy.deepcopy(tiny_clip), NAMES)
    made = encoded(method)
    with torch.inference_mode():  # training must be able to use the features kept here
        method.eval()(images())
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.1)
    seen = []
    for _ in range(3):
        logits = method.train()(images())
        optimizer.zero_grad()
        F.cross_entropy(logits, LABELS).backward()
        optimizer.step()
        seen.append(logits.detach())
        torch.testing.assert_close(method.eval()(images()), method.train()(images()))
    assert len(made) == 1 and not torch.allclose(seen[1], seen[2])
    with torch.no_grad():
        method.text_encoder.text_projection.mul_(1.5)
    method(images())
    assert len(made) == 2


def test_weights_held_in_half_precision_equal_autocasts(tiny_clip):
    how = Precision("amp", torch.device("cpu"))
    found = []
    for held in (False, True):
        clip_model = copy.deepcopy(tiny_clip)
        torch.manual_seed(0)
        model = align(clip_model, 2, 2).eval()
        if held:
            how.place(model, clip_model)
        else:
            exact = model(images())
        with how.autocast():
            found.append(model(images()))
    assert torch.equal(*found)
    assert 0 < (found[1] - exact).abs().max() < 0.1 * exact.std()


# ------------------------------------------------------------------ checkpoints and backbones


def test_resnet_takes_the_methods_without_visual_prompts():
    torch.manual_seed(0)
    resnet = clip_of(**RESNET, embed_dim=64, image_resolution=64)
    x = torch.randn(2, 3, 64, 64)
    for method, node in (("CoOp", {"N_CTX": 4}), ("PLOT", {}), ("ZeroshotCLIP", {}),
                         ("CLIPLoRA", {"ENCODER": "text"}),
                         ("ALIGN", {"M": 0, "DEPTH": 2})):  # fmt: skip
        assert model_of(resnet, method, node)(x).isfinite().all()
    frozen = resnet.visual.bn1.running_mean.clone()
    model_of(resnet, "CoOp", {}).train()(x)
    assert torch.equal(resnet.visual.bn1.running_mean, frozen)
    expected = F.normalize(resnet.encode_image(x), dim=-1)
    local = model_of(resnet, "PLOT", {}).image_encoder.eval()(x)
    assert torch.allclose(local.z[:, 0], expected, atol=1e-5)
    for method, node in (("MaPLe", {"PROMPT_DEPTH": 1}), ("TextRefiner", {})):
        with pytest.raises(UserError, match="ResNet"):
            model_of(resnet, method, node)


# ------------------------------------------------------------------ mistakes


def test_an_unknown_method_names_the_nearest(tiny_clip):
    with pytest.raises(UserError, match="did you mean 'MaPLe'"):
        model_of(tiny_clip, "Maple", {})


# ------------------------------------------------------------------ what kept text follows

PAIR, IMAGES = ["forest", "sea"], torch.randn(2, 3, 32, 32)


RAMP = torch.linspace(-1, 1, 128)  # which a LayerNorm does not remove


class Moved(METHODS["CoOp"]):
    """Contexts that are moved by something that is saved, or neither learned nor saved."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.register_buffer("saved", torch.zeros(128))
        self.register_buffer("passing", torch.zeros(128), persistent=False)
        self.plain, self.numbers = torch.zeros(128), [0.0] * 128

    def contexts(self):
        by = self.saved + self.passing + self.plain + torch.tensor(self.numbers)
        return Contexts([context + by for context in super().contexts().text])


class Entering(METHODS["CoOp"]):
    """Tokens that enter a block, and a module beside it."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.tokens, self.beside = torch.zeros(2, 128), Shift()

    def blocks(self, side):
        return {1: Added(enter=self.tokens, beside=self.beside)} if side == "text" else {}


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("by", torch.zeros(128), persistent=False)

    def forward(self, x, y):
        return torch.zeros_like(x) + self.by


CHANGES = {
    "prompt": (Moved, lambda method: method.prompt_learner.ctx.add_(RAMP)),
    "saved buffer": (Moved, lambda method: method.load_own_state({"saved": RAMP})),
    "buffer": (Moved, lambda method: method.passing.add_(RAMP)),
    "buffer through data": (Moved, lambda method: method.passing.data.add_(RAMP)),
    "tensor": (Moved, lambda method: setattr(method, "plain", RAMP)),
    "tensor in place": (Moved, lambda method: method.plain.add_(RAMP)),
    "attribute": (Moved, lambda method: setattr(method, "numbers", RAMP.tolist())),
    "tokens": (Entering, lambda method: method.tokens.add_(RAMP)),
    "module": (Entering, lambda method: method.beside.by.add_(RAMP)),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CHANGES)
def test_kept_features_follow_what_enters(tiny_clip, case):
    kind, change = CHANGES[case]
    method = kind(read_node(kind, {"N_CTX": 4}), tiny_clip, PAIR).eval()
    made = []
    method.text_encoder.register_forward_hook(lambda *given: made.append(1))
    before = method(IMAGES)
    assert torch.equal(method(IMAGES), before) and len(made) == 1
    change(method)
    after = method(IMAGES)
    assert len(made) == 2 and not torch.allclose(after, before)
    method._text_cache.forget()
    assert torch.equal(method(IMAGES), after)


@torch.no_grad()
def test_inserted_tokens_are_compared_too(tiny_clip):
    method = build_method("TCP", {"INSERT_BLOCK": 2}, tiny_clip, PAIR).eval()
    before = method(IMAGES)
    method.prompt_learner.meta_net.linear2.bias.data.add_(RAMP.repeat(4))
    assert not torch.allclose(method(IMAGES), before)


def test_features_kept_in_inference_mode(tiny_clip):
    method = build_method("CoOp", {"N_CTX": 4}, tiny_clip, PAIR).eval()
    with torch.inference_mode():
        kept = method(IMAGES)
    made = []
    method.text_encoder.register_forward_hook(lambda *given: made.append(1))
    with torch.no_grad():
        assert torch.equal(method(IMAGES), kept) and not made


# ------------------------------------------------------------------ exported programs

# With updates of weights, a cache, tokens and LayerNorms in the blocks.
QUICK = ("CLIPLoRA", "TipAdapterF")
OURS = [name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")]
AT_TEST_TIME = ("TPT", "TDA", "MTA", "ZERO", "TPS", "CTPT", "OTPT", "TransCLIP", "StatA",
                "BoostAdapter", "DPE", "TTC", "RTPT", "AWT", "AWTFewShot", "SPARC")  # fmt: skip
EXPORTED = slow_but([n for n in OURS if n not in AT_TEST_TIME], *QUICK)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_program_of_every_method(tiny_clip, name):
    node = settings(name)
    method = build_method(name, node, tiny_clip, NAMES, support=support_of(name)).eval()
    with torch.no_grad():  # as if trained
        for parameter in method.learned().values():
            parameter += 0.02 * torch.randn_like(parameter)
    made = export.program(method, 32)
    with torch.no_grad():
        for count in (1, 6):
            found, expected = made.module()(images(count)), method(images(count))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    if name != "CoCoOp":
        text = tiny_clip.transformer.resblocks[0].mlp.c_fc.weight
        held = [*made.state_dict.values(), *made.constants.values()]
        assert not any(value.data_ptr() == text.data_ptr() for value in held)
        assert sum(value.numel() for value in held if value.shape[:1] == (49408,)) == 0


@pytest.mark.parametrize("name", AT_TEST_TIME)
def test_what_adapts_to_the_images_is_refused(tiny_clip, name):
    method = build_method(name, settings(name), tiny_clip, NAMES).eval()
    for call in (lambda: export.program(method, 32), lambda: export.text_classifier(method)):
        with pytest.raises(UserError, match=f"{name} adapts to the images that it classifies"):
            call()
