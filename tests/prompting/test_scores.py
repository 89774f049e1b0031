"""Scores: their needs, and registering one."""

import pytest
import torch
from models import images

from trainers.prompting import PromptedCLIP, PromptSpec, UserError, scores
from trainers.prompting.scores import Needs, needs, register_score
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
