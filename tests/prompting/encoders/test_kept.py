"""Kept text features follow everything that enters the text encoder."""

import pytest
import torch
from torch import nn

from trainers.prompting import Added, Contexts, build_method
from trainers.prompting.building.config import read_node
from trainers.prompting.methods.coop import CoOp

NAMES, IMAGES = ["forest", "sea"], torch.randn(2, 3, 32, 32)
RAMP = torch.linspace(-1, 1, 128)  # which a LayerNorm does not remove


class Moved(CoOp):
    """Contexts that are moved by something that is neither learned nor saved."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.register_buffer("passing", torch.zeros(128), persistent=False)
        self.plain, self.numbers = torch.zeros(128), [0.0] * 128

    def contexts(self):
        by = self.passing + self.plain + torch.tensor(self.numbers)
        return Contexts([context + by for context in super().contexts().text])


class Entering(CoOp):
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
    method = kind(read_node(kind, {"N_CTX": 4}), tiny_clip, NAMES).eval()
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
    method = build_method("TCP", {"INSERT_BLOCK": 2}, tiny_clip, NAMES).eval()
    before = method(IMAGES)
    method.prompt_learner.meta_net.linear2.bias.data.add_(RAMP.repeat(4))
    assert not torch.allclose(method(IMAGES), before)


def test_features_kept_in_inference_mode(tiny_clip):
    method = build_method("CoOp", {"N_CTX": 4}, tiny_clip, NAMES).eval()
    with torch.inference_mode():
        kept = method(IMAGES)
    made = []
    method.text_encoder.register_forward_hook(lambda *given: made.append(1))
    with torch.no_grad():
        assert torch.equal(method(IMAGES), kept) and not made
