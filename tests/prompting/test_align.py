"""ALIGN: the methods of Table 1 as its settings, its equations, and any number of prompts."""

import itertools

import pytest
import torch
from golden_files import near
from models import NAMES, align, clip_of, images, model_of, outcome
from naive import naive

from trainers.prompting import sinkhorn

# ------------------------------------------------------------------ the family

ONE = {"M": 1, "N": 1, "BETA": 0}
# The settings of ALIGN that are each method at its defaults.
SAME = {
    "CoOp": {"M": 0, "N": 1, "BETA": 0, "N_CTX": 16, "DEPTH": 1, "CTX_INIT": ""},
    "VPT": {"M": 1, "N": 0, "BETA": 0, "N_CTX": 8, "DEPTH": 12},
    "IVLP": ONE | {"COUPLING": "independent"},
    "MaPLe": ONE,
    "UPT": ONE | {"COUPLING": "unified", "N_CTX": 4},
}


@pytest.fixture(scope="module")
def twelve_blocks():
    """Return a CLIP with the depth of ViT-B/16, into which the defaults fit."""
    return clip_of(vision_layers=12, transformer_layers=12)


@pytest.mark.parametrize("name", SAME)
def test_a_method_of_table_1_is_a_point_of_align(twelve_blocks, name):
    """It says so, starts with the same bits, and logits and gradients differ by exactly 0."""
    made = []
    for of, node in ((name, {}), ("ALIGN", SAME[name])):
        torch.manual_seed(3)
        made.append(model_of(twelve_blocks, of, node))
    method, same = made
    assert method.point == same.point
    start = same.public_state_dict()
    for key, value in method.public_state_dict().items():
        assert torch.equal(value, start[key].view_as(value)), key
    for parameter in method.learned().values():  # UPT's layer starts as the identity
        parameter.data += 0.02 * torch.randn(parameter.shape)
    logits, gradients = outcome(method)
    same_logits, same_gradients = outcome(same, method.public_state_dict())
    assert torch.equal(logits, same_logits)
    assert set(gradients) == set(same_gradients)
    for key, gradient in gradients.items():
        assert gradient.any() and torch.equal(gradient, same_gradients[key].view_as(gradient)), key
    with torch.no_grad():
        assert torch.equal(method.eval()(images()), same.eval()(images()))


def test_align_without_prompts_is_zero_shot_clip(tiny_clip):
    model, zero_shot = align(tiny_clip, 0, 0, BETA=0), model_of(tiny_clip, "ZeroshotCLIP", {})
    assert not model.public_parameters()
    assert torch.allclose(model(images()), zero_shot(images()), atol=1e-4)


# ------------------------------------------------------------------ the equations


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("form", ["additive", "convex"])
def test_transport_on_both_levels(tiny_clip, beta, form):
    """Computes Eq. 4 to 6 from the features, with a plan for each image and class."""
    model = align(tiny_clip, 2, 3, BETA=beta, BETA_FORM=form).eval()
    how = {"reg": 0.1, "tol": 1e-6, "max_iter": 500}
    with torch.no_grad():
        logits, image, text = model.output(images())
    C = 1 - torch.einsum("bmd,nkd->bkmn", image.z, text.h)
    if form == "convex":
        C = (1 - beta) * C
    if beta:
        tokens = 1 - torch.einsum("bmpd,nkld->bkmnpl", image.r, text.s)
        mass = text.s_weights.mass.transpose(0, 1)[:, None]  # (K, 1, N, L)
        C = C + beta * sinkhorn(tokens, b=mass, **how).distance
    else:
        assert image.r is None and text.s is None
    expected = 1 - sinkhorn(C, **how).distance
    torch.testing.assert_close(logits / model.logit_scale, expected, rtol=0, atol=1e-5)
    model.train()(images()).sum().backward()
    assert model.prompt_learner.ctx.grad.isfinite().all()


@pytest.mark.parametrize(
    ("method", "node", "patches", "words"),
    [
        ("CoOp", {}, False, False),
        ("PLOT", {}, True, False),
        ("ALIGN", {"DEPTH": 2}, True, True),
        ("ALIGN", {"DEPTH": 2, "BETA": 0.0}, False, False),
        ("MMP", {"TEXT_PROMPT_DEPTH": 2}, True, True),
        ("MMP", {"TEXT_PROMPT_DEPTH": 2, "HIERARCHICAL": False}, False, False),
    ],
)
def test_only_what_the_equation_reads_is_computed(tiny_clip, method, node, patches, words):
    _, image, text = model_of(tiny_clip, method, node).output(images())
    assert (image.r is not None, text.s is not None) == (patches, words)


def test_results_depend_neither_on_chunks_nor_on_the_batch(tiny_clip):
    model = align(tiny_clip, 2, 3).eval()
    whole = model(images())
    model.chunk_bytes = 1  # one image and class at a time
    assert torch.allclose(model(images()), whole, atol=1e-4)
    assert torch.allclose(model(images()[1:2]), whole[1:2], atol=1e-4)


# ------------------------------------------------------------------ prompts and classes


@pytest.mark.parametrize("M, N", [(0, 3), (3, 0), (2, 4), (4, 2), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_every_number_of_prompts_trains(tiny_clip, M, N, beta):
    model = align(tiny_clip, M, N, BETA=beta)
    logits, grads = outcome(model)
    assert logits.shape == (3, 5) and logits.isfinite().all()
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads.values())
    frozen = [p for e in (model.text_encoder, model.image_encoder) for p in e.parameters()]
    assert not any(p.requires_grad for p in frozen)


@pytest.mark.parametrize("M, N", [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_one_prompt_on_a_side_against_the_naive_form(tiny_clip, M, N, beta):
    """Only one prompt on both sides and no token level leave nothing to transport."""
    model = align(tiny_clip, M, N, BETA=beta).eval()
    with torch.no_grad():
        assert near(model(images()), naive(tiny_clip, NAMES, model)(images()), 1e-3)


def test_prompts_never_start_equal(tiny_clip):
    for words in (None, ["a photo of a"] * 4, ""):
        ctx = align(tiny_clip, 4, 4, CTX_INIT=words).prompt_learner.ctx
        for i, j in itertools.combinations(range(4), 2):
            assert (ctx[i] - ctx[j]).abs().max() > 1e-3


def test_one_template_in_a_list_is_that_of_all_prompts(tiny_clip):
    starts = []
    for words in (["a photo of a"], ["a photo of a"] * 3):
        torch.manual_seed(0)
        starts.append(align(tiny_clip, 2, 3, CTX_INIT=words).prompt_learner.ctx)
    assert torch.equal(*starts)


def test_templates_of_different_lengths_share_one_batch(tiny_clip):
    words = ["a photo of a", "a bad blurry photo of the"]
    both = align(tiny_clip, 0, 2, CTX_INIT=words, DEPTH=1).eval()
    h = both.text().h
    for n, template in enumerate(words):
        alone = align(tiny_clip, 0, 1, CTX_INIT=template, DEPTH=1)
        alone.load_public_state_dict({"ctx": both.prompt_learner.ctx[n : n + 1]})
        assert torch.allclose(alone.eval().text().h[0], h[n], atol=1e-5)


def test_a_single_class_and_names_with_a_common_start(tiny_clip):
    for names in (["forest"], ["red fox", "red fox cub"], ["é", "日本 (old)"]):
        for beta in (0.0, 1.0):
            logits = align(tiny_clip, 2, 2, names, BETA=beta)(images())
            assert logits.shape == (3, len(names)) and logits.isfinite().all()


def test_the_columns_of_the_logits_follow_the_names(tiny_clip):
    model = align(tiny_clip, 2, 2)
    other = align(tiny_clip, 2, 2, NAMES[::-1])
    other.load_public_state_dict(model.public_state_dict())
    torch.testing.assert_close(other(images()), model(images()).flip(1), rtol=0, atol=1e-3)
