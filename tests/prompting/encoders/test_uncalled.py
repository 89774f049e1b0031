"""Parts of CLIP that run as functions: hooks on them, exchanged layers, and states of blocks."""

import copy

import pytest
import torch
from test_method import IMAGES, LABELS, NAMES, Mine, build
from torch import nn

from trainers.prompting import ImageEncoder, TextEncoder, UserError, write_sentences
from trainers.prompting.backbones.openai import clip
from trainers.prompting.trainer.checks import check_first_step
from trainers.prompting.use.export import Program


class Wrapped(nn.Module):
    """A layer with an update next to it, as PEFT makes it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    weight = property(lambda self: self.layer.weight)
    bias = property(lambda self: self.layer.bias)

    def forward(self, x):
        return 2 * self.layer(x)


def block(clip_model, side="image"):
    return (clip_model if side == "text" else clip_model.visual).transformer.resblocks[1]


def hook(*_):
    return None


UNCALLED = {
    "a block": (lambda c: block(c).register_forward_hook(hook), "hook on 'visual.transformer.res"),
    "its attention": (
        lambda c: block(c, "text").attn.register_forward_pre_hook(hook),
        "hook on 'transformer.resblocks.1.attn', but the encoders run blocks as functions",
    ),
    "a layer of its MLP": (
        lambda c: block(c).mlp.c_fc.register_full_backward_hook(hook), "resblocks.1.mlp.c_fc', but",
    ),
    "an encoder": (lambda c: c.visual.register_forward_hook(hook), "hook on 'visual'"),
    "the whole": (lambda c: c.register_forward_hook(hook), "hook on the CLIP"),
    "a layer by PEFT": (
        lambda c: setattr(block(c).mlp, "c_fc", Wrapped(block(c).mlp.c_fc)),
        "put a Wrapped in the place of 'visual.transformer.resblocks.1.mlp.c_fc'",
    ),
    "a projection": (
        lambda c: setattr(block(c).attn, "out_proj", Wrapped(block(c).attn.out_proj)),
        "in the place of 'visual.transformer.resblocks.1.attn.out_proj'",
    ),
    "an MLP": (lambda c: setattr(block(c), "mlp", nn.Linear(128, 128)), "resblocks.1.mlp', but"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCALLED)
def test_what_has_no_effect_is_refused(tiny_clip, case):
    """In `build`, before it, or later."""
    change, said = UNCALLED[case]

    class Hooked(Mine):
        def build(self, clip_model, *given):
            super().build(clip_model, *given)
            change(clip_model)

    with pytest.raises(UserError, match=said):
        build(Hooked, copy.deepcopy(tiny_clip))
    own = copy.deepcopy(tiny_clip)
    method = build(Mine, own)
    terms = method.losses(IMAGES, LABELS)
    method.backward(terms)
    check_first_step(method, terms)
    change(own)
    with pytest.raises(UserError, match=said):
        check_first_step(method, terms)
    if case != "an MLP":  # of which nothing is left
        with pytest.raises(UserError, match=said):
            build(Mine, own)


def test_what_has_an_effect_stays(tiny_clip):
    own, seen = copy.deepcopy(tiny_clip), set()
    own.visual.conv1.register_forward_hook(lambda *_: seen.add("conv1"))
    block(own, "text").ln_2.register_forward_hook(lambda *_: seen.add("ln_2"))
    own.token_embedding.register_forward_hook(lambda *_: seen.add("embedding"))
    block(own).mlp.gelu = nn.GELU()
    block(own).mlp.register_forward_hook(lambda *_: seen.add("mlp"))
    build(Mine, own)(IMAGES)
    assert seen == {"conv1", "ln_2", "embedding", "mlp"}


# ------------------------------------------------------------------ states of inner blocks


def test_states_of_inner_blocks_are_those_of_clip(tiny_clip):
    sentences = write_sentences(tiny_clip, ["a photo of a {}."], NAMES)
    text = TextEncoder(tiny_clip, sentences, inner=(0, 2))
    image = ImageEncoder(tiny_clip.visual, inner=[1])
    plain, states = copy.deepcopy(tiny_clip), {}
    for side, i in (("text", 0), ("text", 2), ("image", 1)):
        layer = (plain if side == "text" else plain.visual).transformer.resblocks[i]
        layer.register_forward_hook(lambda m, x, out, key=(side, i): states.update({key: out}))
    ids = clip.tokenize([f"a photo of a {name}." for name in NAMES], plain.context_length)
    with torch.no_grad():
        plain.encode_text(ids), plain.encode_image(IMAGES)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            h, z = text(), image(IMAGES)
        assert h.inner.keys() == {0, 2} and z.inner.keys() == {1}
        for i, x in h.inner.items():
            wanted = states["text", i].transpose(0, 1)[range(len(ids)), ids.argmax(1)]
            torch.testing.assert_close(x[0], wanted, rtol=1e-4, atol=1e-4)
        wanted = states["image", 1].transpose(0, 1)
        torch.testing.assert_close(z.inner[1][:, 0], wanted, rtol=1e-4, atol=1e-4)


def test_a_method_that_reads_inner_states(tiny_clip):
    """Gradients reach its contexts, and a program of it has its logits."""

    class Inner(Mine):
        def encoders(self, clip_model, classnames, dataset):
            sentences = write_sentences(clip_model, ["X X"], classnames, 2)
            visual = clip_model.visual
            return TextEncoder(clip_model, sentences, inner=[0]), ImageEncoder(visual, inner=[1])

        def logits(self, image, text):
            return image.inner[1][:, 0, 0].float() @ text.inner[0][0].T

    method = build(Inner, tiny_clip)
    method.backward(method.losses(IMAGES, LABELS))
    assert method.prompt_learner.ctx.grad.any()
    with torch.no_grad():
        torch.testing.assert_close(Program(method.eval())(IMAGES), method(IMAGES))
