"""Scores: their needs, registering one, and ALIGN's scores with other plans."""

import pytest
import torch
from models import align, images
from trainers.prompting.scores import Needs, needs, register_score

from trainers.prompting import PromptedCLIP, PromptSpec, UserError, scores
from trainers.prompting.trainer.config import prompt_spec


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))


@pytest.mark.parametrize(
    ("method", "node", "expected"),
    [
        ("CoOp", {}, Needs(False, False)),
        ("PLOT", {}, Needs(True, False)),
        ("ALIGN", {}, Needs(True, True)),
        ("ALIGN", {"BETA": 0.0}, Needs(False, False)),
        ("MMP", {}, Needs(True, True)),
        ("MMP", {"HIERARCHICAL": False}, Needs(False, False)),
    ],
)
def test_what_a_score_needs(method, node, expected):
    assert needs(prompt_spec(method, node)) == expected


def spec_of(score):
    return PromptSpec(M=1, N=2, beta=0, score=score, templates=("X X a", "X X of"), text_depth=1,
                      vision_depth=1)  # fmt: skip


@pytest.mark.parametrize(("patches", "words"), [(True, True), (True, False), (False, True)])
def test_a_registered_score(registry, tiny_clip, patches, words):
    seen = []

    @register_score("late interaction", patches=patches, words=words)
    def late_interaction(spec, image, text, chunk_bytes):
        seen.append((image.r, text.s))
        if not (patches and words):
            return image.z.mean(1) @ text.h.mean(0).T
        cos = torch.einsum("bmpd,nkld->bkmnpl", image.r, text.s).amax(-2)
        return (cos * text.s_weights.mass.transpose(0, 1)[:, None]).sum(-1).mean((2, 3))

    model = PromptedCLIP(tiny_clip, ["dog", "hot dog", "fire truck"], spec_of("late interaction"))
    logits = model(images())
    assert logits.shape == (len(images()), 3)
    logits.sum().backward()
    assert model.prompt_learner.ctx.grad.abs().sum() > 0
    (r, s), *_ = seen
    assert (r is not None, s is not None) == (patches, words)


def test_an_unknown_score_names_the_nearest(tiny_clip):
    with pytest.raises(UserError, match="no score 'cosin': did you mean 'cosine'") as error:
        PromptedCLIP(tiny_clip, ["dog"], spec_of("cosin"))
    assert "\n" not in str(error.value)


def test_a_score_name_is_registered_once(registry):
    with pytest.raises(ValueError, match="score 'cosine' already"):
        register_score("cosine")(print)


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("form", ["additive", "convex"])
def test_plans_of_both_levels(tiny_clip, beta, form):
    """The uniform plan takes means over all pairs; with `nearest` each column takes its minimum."""
    model = align(tiny_clip, 2, 3, BETA=beta, BETA_FORM=form, PLAN="uniform").eval()
    with torch.no_grad():
        image = model.image_encoder(images(), model.prompt_learner().vision)
        text = model.text_features()
    C = 1 - torch.einsum("bmd,nkd->bkmn", image.z, text.h)
    weight = 1 - beta if form == "convex" else 1.0

    def logits(plan):
        model.spec = model.spec.with_(plan=plan)
        return 1 - model(images()) / model.logit_scale

    if not beta:
        torch.testing.assert_close(logits("uniform"), C.mean((-2, -1)), rtol=0, atol=1e-5)
        torch.testing.assert_close(logits("nearest"), C.amin(-2).mean(-1), rtol=0, atol=1e-5)
        return
    tokens = 1 - torch.einsum("bmpd,nkld->bkmnpl", image.r, text.s)
    mass = text.s_weights.mass.transpose(0, 1)[:, None]  # (K, 1, N, L)
    d = (mass * tokens.mean(-2)).sum(-1)
    expected = (weight * C + beta * d).mean((-2, -1))
    torch.testing.assert_close(logits("uniform"), expected, rtol=0, atol=1e-5)
    d = (mass * tokens.amin(-2)).sum(-1)
    expected = (weight * C + beta * d).amin(-2).mean(-1)
    torch.testing.assert_close(logits("nearest"), expected, rtol=0, atol=1e-5)
    model.train()(images()).sum().backward()
    assert model.prompt_learner.ctx.grad.isfinite().all()


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"PLAN": "sinkorn"}, "PLAN is 'sinkorn' but must be one of sinkhorn, uniform, nearest"),
        ({"PLAN": "uniform", "FORM": "released"}, "PLAN 'uniform' needs the score of ALIGN's FORM"),
    ],
)
def test_an_invalid_plan_is_refused(node, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        prompt_spec("ALIGN", node)
    assert "\n" not in str(error.value)
