"""Tokens that only read: they leave features as they are, and read as a plain loop does."""

import pytest
import torch
import torch.nn.functional as F
from open_golden import package_model, read

from trainers.prompting import ImageEncoder, TextEncoder, UserError, load_clip, write_sentences
from trainers.prompting.backbones.module import from_module
from trainers.prompting.encoders.sentences import append_readers

NAMES, B = ["cat", "red panda", "dog"], 3


@pytest.fixture(params=["causal", "both", "mean"])
def clip_model(request, tmp_path):
    if request.param == "causal":
        return load_clip("emoji")
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    name = {"both": "coop_biomed", "mean": "coop_xlm_mean"}[request.param]
    model, tokenizer, config = package_model(*read(name), tmp_path)
    return from_module(model, config, tokenizer, {})


def halves(block, x, readers, causal):
    """Return the outputs of a block for positions (L, W), and for tokens (b, W) that read them."""
    post = getattr(block, "post_norm", False)
    ln_1, ln_2 = block.ln_1, block.ln_2
    done = []
    for query in (x, readers):
        keys = x if post else ln_1(x)
        mask = torch.ones(len(x), len(x)).triu(1).bool() if causal and query is x else None
        own = query if post else ln_1(query)
        seen = block.attn(own, keys, keys, attn_mask=mask, need_weights=False)[0]
        y = query + seen
        if post:
            y = ln_1(y)
            done.append(ln_2(y + block.mlp(y)))
        else:
            done.append(y + block.mlp(ln_2(y)))
    return done


@torch.no_grad()
def test_sentences(clip_model):
    plain = write_sentences(clip_model, ["a photo of a {}."], NAMES)
    sentences = append_readers(clip_model, plain, B)
    words = [[range(len(s.ids) - B, len(s.ids)) for s in row] for row in sentences]
    ctx = torch.randn(1, B, clip_model.token_embedding.weight.shape[1])
    encoder = TextEncoder(clip_model, sentences, words)
    text, without = encoder([ctx]), TextEncoder(clip_model, plain)().h
    whole = TextEncoder(clip_model, sentences)
    whole.packs_on = ()  # as on an accelerator
    for h in (text.h, whole([ctx]).h):
        torch.testing.assert_close(h, without, atol=1e-6, rtol=0)
    for k, sentence in enumerate(plain[0]):
        ids, L = torch.tensor(sentence.ids), len(sentence.ids)
        norm = getattr(clip_model, "ln_embed", torch.nn.Identity())
        x = norm(clip_model.token_embedding(ids) + clip_model.positional_embedding[:L])
        readers = norm(ctx[0] + clip_model.positional_embedding[L : L + B])
        for block in clip_model.transformer.resblocks:
            x, readers = halves(block, x, readers, encoder.causal)
        s = F.normalize(encoder._project(readers, type("No", (), {"norms": {}})), dim=-1)
        torch.testing.assert_close(text.s[0, k], s, atol=1e-5, rtol=0)


@torch.no_grad()
def test_images(clip_model):
    visual = clip_model.visual
    x = torch.randn(2, 3, visual.input_resolution, visual.input_resolution)
    if hasattr(visual, "shape") and not visual.shape.reads:
        with pytest.raises(UserError, match="all positions make the feature of an image"):
            ImageEncoder(visual, unseen=True)
        return
    ctx = torch.randn(1, B, visual.ln_post.weight.shape[0])
    image = ImageEncoder(visual, patches=True, unseen=True)(x, [ctx])
    plain = ImageEncoder(visual, patches=True)(x)
    few = ImageEncoder(visual, unseen=True)(x, [ctx])
    for z in (image.z, few.z):
        torch.testing.assert_close(z, plain.z, atol=1e-6, rtol=0)
    torch.testing.assert_close(image.r[:, :, :-B], plain.r, atol=1e-6, rtol=0)
    for one in range(2):
        states = visual.conv1(x[one : one + 1]).flatten(2)[0].T
        states = torch.cat([visual.class_embedding.reshape(1, -1), states])
        states = visual.ln_pre(states + visual.positional_embedding)
        readers = visual.ln_pre(ctx[0])
        for block in visual.transformer.resblocks:
            states, readers = halves(block, states, readers, False)
        r = F.normalize(visual.ln_post(readers) @ visual.proj, dim=-1)
        torch.testing.assert_close(image.r[one, 0, -B:], r, atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused():
    clip_model = load_clip("emoji")
    two = write_sentences(clip_model, ["a {}.", "the {}."], NAMES)
    with pytest.raises(UserError, match="2 prompts are given, but only one can have readers"):
        append_readers(clip_model, two, 1)
    with pytest.raises(UserError, match=r"have \d+ positions, but the text encoder reads"):
        append_readers(clip_model, two[:1], 75)
