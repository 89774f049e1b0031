"""The text encoder, compared with CLIP's own modules on whole sentences, and its blocks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models import clip_of
from torch import nn

from benchmark.measure.counting import launches, operations
from trainers.prompting import (
    Added,
    TextEncoder,
    UserError,
    build_method,
    write_sentences,
)
from trainers.prompting.backbones.openai import clip
from trainers.prompting.encoders import blocks, text
from trainers.prompting.encoders.added import NONE
from trainers.prompting.encoders.class_text import encode_sentences

NAMES = ["annual crop land", "forest", "sea_or_lake", "annual meadow", "highway or road"]


def encoder_of(clip_model, *templates, names=NAMES, words=False, block=0) -> TextEncoder:
    """Return an encoder with 4 learned tokens in each sentence."""
    sentences = write_sentences(clip_model, templates, names, 4)
    spans = [[range(1, sentence.end) for sentence in row] for row in sentences]
    return TextEncoder(clip_model, sentences, spans if words else None, insert_block=block)


def whole(clip_model, template, ctx, block=None, inserted=None):
    """Return states (K, 77, W) of all classes from CLIP's modules, and the positions of EOS."""
    ids = clip.tokenize([template.format(name.replace("_", " ")) for name in NAMES])
    x = clip_model.token_embedding(ids)
    x = torch.cat([x[:, :1], ctx.expand(len(x), -1, -1), x[:, 5:]], dim=1)
    x = (x + clip_model.positional_embedding).transpose(0, 1)
    for i, layer in enumerate(clip_model.transformer.resblocks):
        if i == block:
            x = torch.cat([x[:1], inserted.transpose(0, 1), x[5:]])
        x = layer(x)
    x = clip_model.ln_final(x.transpose(0, 1)) @ clip_model.text_projection
    return x, ids.argmax(-1)


def gradients(features, *leaves):
    """Return the gradients of a weighted sum of the features."""
    weights = torch.linspace(-1, 1, features.numel()).reshape(features.shape)
    return torch.autograd.grad((features * weights).sum(), leaves)


def leaves():
    return (
        torch.randn(1, 4, 128, requires_grad=True),
        torch.randn(len(NAMES), 4, 128, requires_grad=True),
    )


@pytest.mark.parametrize(
    ("template", "block", "recompute"),
    [
        ("X X X X {}.", 1, 0),
        ("X X X X {}.", 3, 2),
        ("a photo of a person doing {}.", 1, 2),
        ("X X X X {}, a type of pet", 3, 0),
    ],
)
def test_states_of_each_class_enter_in_the_middle(tiny_clip, template, block, recompute):
    tiny_clip.requires_grad_(False)
    ctx, inserted = leaves()
    encoder = encoder_of(tiny_clip, template, block=block)
    encoder.recompute = recompute
    raw = encoder([ctx], inserted).raw[0]
    x, eos = whole(tiny_clip, template, ctx[0], block, inserted)
    expected = x[torch.arange(len(x)), eos]
    torch.testing.assert_close(raw, expected, atol=1e-4, rtol=1e-4)
    own = gradients(raw, ctx, inserted)
    for grad, wanted in zip(own, gradients(expected, ctx, inserted), strict=True):
        assert (grad - wanted).norm() < 1e-4 * wanted.norm()
    without = encoder([ctx]).raw[0]  # without `inserted` the encoder is the plain one
    plain = encoder_of(tiny_clip, template)([ctx]).raw[0]
    assert torch.equal(without, plain) and (without - raw).abs().max() > 1e-2


def test_states_of_each_class_enter_before_the_first_addition(tiny_clip):
    """They are not taken from the states that are kept because nothing before it is trained."""
    tiny_clip.requires_grad_(False)
    encoder, (_, inserted) = encoder_of(tiny_clip, "X X X X {}.", block=1), leaves()
    added = {2: Added(norms={"ln_1": tiny_clip.transformer.resblocks[2].ln_1})}
    raw = encoder(None, inserted, added).raw
    with torch.no_grad():
        expected = encoder(None, inserted).raw
    assert raw.requires_grad and (raw - expected).abs().max() < 1e-5


def test_states_of_each_class_after_tokens_that_entered(tiny_clip):
    encoder, (ctx, inserted) = encoder_of(tiny_clip, "X X X X {}.", block=2), leaves()
    with pytest.raises(UserError, match="cannot be combined with `inserted` ones: let none enter"):
        encoder([ctx], inserted, {1: Added(enter=torch.zeros(2, 128))})


def random(*shape):
    return torch.randn(*shape, 128, generator=torch.Generator().manual_seed(1), requires_grad=True)


# templates, contexts by depth, what is inserted, and the block whose ln_1 is trained
WAYS = {
    "contexts": (2, [random(2, 4)], None, None),
    "deep": (2, [random(2, 4), random(2, 4), random(2, 2)], None, None),
    "of images": (1, [random(3, 4)], None, None),
    "of classes": (1, [random(1, len(NAMES), 4)], None, None),
    "inserted": (1, [random(1, 4)], random(len(NAMES), 4), None),
    "trained late": (2, None, None, 2),
}


@pytest.mark.parametrize(
    ("way", "recompute"), [*((way, 0) for way in WAYS), ("deep", 2), ("trained late", 2)]
)
def test_few_sentences_on_an_accelerator_are_whole(tiny_clip, way, recompute):
    """The features and gradients are those of packed ones, in fewer launches."""
    tiny_clip.requires_grad_(False)
    count, contexts, inserted, trained = WAYS[way]
    sentences = write_sentences(tiny_clip, ["X X X X {}.", "X X X X {} on paper"][:count], NAMES, 4)
    encoder = TextEncoder(
        tiny_clip, sentences, class_specific=way == "of classes", inner={0} if contexts else (),
        insert_block=2 if inserted is not None else 0,
    )  # fmt: skip
    encoder.recompute = recompute
    added, leaves = {}, [*(contexts or []), *([] if inserted is None else [inserted])]
    if trained is not None:
        norm = copy.deepcopy(tiny_clip.transformer.resblocks[trained].ln_1).requires_grad_()
        added, leaves = {trained: Added(norms={"ln_1": norm})}, [*norm.parameters()]

    def outputs():
        features = encoder(contexts, inserted, added)
        return [features.raw, *features.inner.values(), *gradients(features.raw, *leaves)]

    packed, before = outputs(), launches(outputs)
    encoder.packs_on = ()  # as on an accelerator
    whole, after = outputs(), launches(outputs)
    for a, b in zip(packed, whole, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()
    assert after < 0.8 * before


def test_which_sentences_are_whole_depends_on_sizes_and_the_device(tiny_clip, monkeypatch):
    """Up to WHOLE positions, without tokens that enter a prefix or are features of their own."""
    seen, ctx = [], torch.zeros(2, 4, 128)
    attend = blocks.attend
    monkeypatch.setattr(blocks, "attend", lambda *a, **kw: seen.append(0) or attend(*a, **kw))

    def is_whole(encoder, contexts=(ctx,), added=NONE):
        seen.clear()
        encoder([x.to(encoder.text_projection.device) for x in contexts], added=added)
        return len(seen) == len(tiny_clip.transformer.resblocks)

    encoder, with_words = (
        encoder_of(copy.deepcopy(tiny_clip), "X X X X {}.", words=words) for words in (False, True)
    )
    assert not is_whole(encoder)
    encoder.to("meta"), with_words.to("meta")  # not a CPU
    assert is_whole(encoder) and not is_whole(with_words)
    assert not is_whole(encoder, added={1: Added(enter=torch.zeros(2, 128, device="meta"))})
    positions = 2 * len(NAMES) * 10  # SOS, 4 learned tokens, `highway or road`, full stop, EOS
    monkeypatch.setattr(text, "WHOLE", positions)
    assert is_whole(encoder)
    monkeypatch.setattr(text, "WHOLE", positions - 1)
    assert not is_whole(encoder)


def test_words_of_classes_whose_states_entered_in_the_middle(tiny_clip):
    tiny_clip.requires_grad_(False)
    ctx, inserted = leaves()
    template = "X X X X {}, a type of pet"
    encoder = encoder_of(tiny_clip, template, words=True, block=2)
    features = encoder([ctx], inserted)
    x, eos = whole(tiny_clip, template, ctx[0], 2, inserted)
    for k, end in enumerate(eos.tolist()):
        words = F.normalize(x[k, 1:end], dim=-1)  # to the last word: no full stop follows
        torch.testing.assert_close(features.s[0, k, : len(words)], words, atol=1e-4, rtol=1e-4)
        mass = features.s_weights.mass[0, k]
        assert torch.equal(mass > 0, torch.arange(len(mass)) < len(words))
        assert len(encoder.words(k, 0)) == len(words)
    assert encoder.words(1, 0)[3:7] == ["context 4", "forest", ",", "a"]
    assert features.s_weights.shared == 0


def test_shared_positions_are_computed_once_up_to_the_insertion(tiny_clip):
    """A forward pass has the operations that are counted here by hand, and hardly any more."""
    names = [f"red {a} {b}" for a in ("fox", "cat", "dog", "cow") for b in ("cub", "tail", "ear")]
    template = "a bad blurry photo of a person doing {}."
    encoder = encoder_of(tiny_clip, template, names=names, block=2)
    contexts = [torch.randn(1, 4, 128)], torch.randn(len(names), 4, 128)
    with torch.no_grad():
        counted = operations(lambda: encoder(*contexts))
    prefix, length = 10, 14  # `red` is shared; a sentence is 10 + 2 words, full stop and EOS
    shared = prefix + len(names) * (length - prefix)
    own = 1 + len(names) * (length - 1)
    block = 24 * 128**2
    necessary = (2 * shared + own) * block + own * block // 6 + len(names) * block * 5 // 6
    necessary += 2 * len(names) * 128 * 64
    attention = 4 * 128 * len(names) * length * length * 3  # an upper bound, without sharing
    assert necessary < counted < 1.1 * necessary + attention


@pytest.mark.parametrize("block", [4, -1])
def test_an_insertion_that_does_not_fit(tiny_clip, block):
    with pytest.raises(UserError, match=f"INSERT_BLOCK is {block} .* has blocks 0 to 3"):
        encoder_of(tiny_clip, "X X X X", block=block)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("ends", [(", a type of pet.", ", a kind of pet."), (".", " texture.", "")])
def test_ends_of_prompts(tiny_clip, ends, words):
    templates = [f"{start} {{}}{end}" for start, end in zip(
        ("a photo of a", "a bad photo of a", "X X X X"), ends, strict=False)]  # fmt: skip
    encoder = encoder_of(tiny_clip, *templates, words=words)
    ctx = torch.randn(len(ends), 4, 128)
    features = encoder([ctx])
    for n, template in enumerate(templates):
        x, eos = whole(tiny_clip, template, ctx[n])
        expected = x[torch.arange(len(x)), eos]
        torch.testing.assert_close(features.raw[n], expected, atol=1e-4, rtol=1e-4)
        if words:
            own = F.normalize(x[2, 1 : encoder.sentences[n][2].end], dim=-1)
            torch.testing.assert_close(features.s[n, 2, : len(own)], own, atol=1e-4, rtol=1e-4)


def test_several_contexts_of_each_class(tiny_clip):
    templates = ["X X X X {}."] * 2
    sentences = write_sentences(tiny_clip, templates, NAMES, 4)
    encoder = TextEncoder(tiny_clip, sentences, class_specific=True)
    ctx = torch.randn(2, len(NAMES), 4, 128)
    raw = encoder([ctx]).raw
    for n, template in enumerate(templates):
        x, eos = whole(tiny_clip, template, ctx[n])
        expected = x[torch.arange(len(x)), eos]
        torch.testing.assert_close(raw[n], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [2, 100])
def test_whole_sentences_equal_clips(tiny_clip, chunk, monkeypatch):
    monkeypatch.setattr("trainers.prompting.encoders.sentence_features.CHUNK", chunk)
    sentences = [
        template.format(name)
        for template in ("a photo of a {}.", "itap of my {}", "{}")
        for name in ("forest", "sea or lake", "annual crop land")
    ]
    features = encode_sentences(tiny_clip, sentences)
    expected = tiny_clip.encode_text(clip.tokenize(sentences))
    torch.testing.assert_close(features, expected.detach(), atol=1e-4, rtol=1e-4)
    assert not features.requires_grad


def test_a_sentence_that_is_too_long(tiny_clip):
    with pytest.raises(UserError, match=r"^'word .*' has 82 tokens"):
        encode_sentences(tiny_clip, ["a forest.", "word " * 80])


def plain_mlp(x, up, up_bias, down, down_bias):
    hidden = nn.functional.linear(x, up, up_bias)
    return nn.functional.linear(hidden * torch.sigmoid(1.702 * hidden), down, down_bias)


def test_the_frozen_mlp_equals_clips():
    shapes = (2, 3, 4), (16, 4), (16,), (4, 16), (4,)
    x, *weights = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    x.requires_grad_(True)
    torch.testing.assert_close(blocks.FrozenMLP.apply(x, *weights), plain_mlp(x, *weights))
    assert torch.autograd.gradcheck(lambda x: blocks.FrozenMLP.apply(x, *weights), x)
    with torch.no_grad():
        torch.testing.assert_close(blocks.FrozenMLP.apply(x, *weights), plain_mlp(x, *weights))


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_another_activation_is_used(activation):
    model = clip_of()
    for tower in (model.transformer, model.visual.transformer):
        for block in tower.resblocks:
            block.mlp.gelu = activation()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images, clip.tokenize(["a photo of a cat.", "a photo of a dog."]))[0]
    prompted = build_method("ZeroshotCLIP", {}, model, ["cat", "dog"])
    assert torch.allclose(prompted(images), expected, rtol=1e-4, atol=1e-4)
