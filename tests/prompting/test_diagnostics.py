"""Diagnostics: the distance of transport plans from the uniform plan."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import run
from trainers.prompting.diagnostics import (
    Problem,
    TransportSample,
    departure,
    has_plans,
    mean_cosine,
    plans,
    remark,
)
from trainers.prompting.scores import score

from trainers.prompting import build_method

NAMES = ["forest", "sea or lake", "annual crop land"]


def build(tiny_clip, name="ALIGN", **node):
    depth = {"DEPTH": 2} if name == "ALIGN" else {}
    method = build_method(name, depth | node, tiny_clip, NAMES)
    with torch.no_grad():
        for p in method.model.trained().parameters():
            p.add_(torch.randn_like(p))
    return method.eval()


def test_departure_by_hand():
    a = b = torch.tensor([0.5, 0.5])
    T = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.25, 0.25], [0.25, 0.25]]])
    half, none = (departure(Problem(x, a, b)) for x in T)
    assert half == pytest.approx({"entropy": 0.5, "total_variation": 0.5})  # log 2 of log 4
    assert none == pytest.approx({"entropy": 1.0, "total_variation": 0.0})
    both = departure(Problem(T, a.expand(2, 2), b.expand(2, 2)))
    assert both == pytest.approx({"entropy": 0.75, "total_variation": 0.25})


def test_mean_cosine_by_hand():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]])
    assert mean_cosine(x) == pytest.approx((0 + 2 * math.sqrt(0.5)) / 3)
    assert mean_cosine(x[:, :1]) is None


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("ALIGN", {}),
        ("ALIGN", {"BETA_FORM": "convex", "BETA": 0.3}),
        ("ALIGN", {"BETA": 0.0}),
        ("ALIGN", {"FORM": "released"}),
        ("PLOT", {}),
    ],
)
def test_the_plans_reproduce_the_logits(tiny_clip, name, node):
    """Takes one image at a time, because the released forms stop for a whole batch."""
    model = build(tiny_clip, name, **node).model
    spec, scale = model.spec, model.logit_scale
    for picture in torch.randn(2, 1, 3, 32, 32):
        output = model.output(picture)
        z, r, text = output.image.z, output.image.r, output.text
        for k in range(len(NAMES)):
            alone = text._replace(h=text.h[:, [k]], raw=text.raw[:, [k]])
            if text.s is not None:
                weights = type(text.s_weights)(text.s_weights.mass[:, [k]])
                alone = alone._replace(s=text.s[:, [k]], s_weights=weights)
            expected = score(spec, output.image, alone, scale, 1 << 28) / scale
            found = plans(spec, output.image, alone, torch.tensor([0]))
            h = text.h[:, k][None]
            if name == "PLOT":
                value = (found["prompts"].T * (r[:, 0] @ h.mT)).sum()
            else:
                S = z @ h.mT
                if spec.beta_form == "convex":
                    S = spec.beta + (1 - spec.beta) * S
                if spec.beta and node.get("FORM") != "released":
                    C = 1 - torch.einsum("bmpd,bnld->bmnpl", r, text.s[:, k][None])
                    S = S - spec.beta * (found["tokens"].T * C).sum((-2, -1))
                value = (found["prompts"].T * S).sum()
            assert value.item() == pytest.approx(expected.item(), abs=1e-5)
            for T, a, b in found.values():
                assert torch.allclose(T.sum(-1), a, atol=2e-2)
                assert torch.allclose(T.sum(-2), b.expand_as(T[..., 0, :]), atol=2e-2)


def test_a_sample_of_an_evaluation(tiny_clip):
    model = build(tiny_clip, M=2, N=3).model
    images = torch.randn(70, 3, 32, 32)
    sample = TransportSample(model, 70)
    outputs = [model.output(batch) for batch in images.split(9)]
    for output in outputs:
        sample.add(output)
    measured = sample.measure()
    assert measured["images"] == 35  # every second
    z = torch.cat([output.image.z for output in outputs])[::2]
    cosine = F.cosine_similarity(z[:, 0], z[:, 1], dim=-1).mean()
    assert measured["visual_cosine"] == pytest.approx(cosine.item(), abs=1e-5)
    logits = torch.cat([output.logits for output in outputs])[::2]
    r = torch.cat([output.image.r for output in outputs])[::2]
    image = outputs[0].image._replace(z=z, r=r)
    found = plans(model.spec, image, model.text_features(), logits.argmax(1))
    for level in ("tokens", "prompts"):
        assert measured[level] == pytest.approx(departure(found[level]), abs=1e-5)


def test_a_sharp_plan_has_no_remark_and_a_flat_one_has(tiny_clip):
    said = {}
    for reg in (0.001, 100.0):
        model = build(tiny_clip, LAMBDA=reg).model
        sample = TransportSample(model, 4)
        sample.add(model.output(torch.randn(4, 3, 32, 32)))
        said[reg] = remark(sample.measure())
    assert said[0.001] is None
    assert "between tokens (total variation 0.0" in said[100.0]


@pytest.mark.parametrize(
    ("name", "node", "expected"),
    [
        ("ALIGN", {}, True),
        ("ALIGN", {"PLAN": "uniform"}, False),
        ("ALIGN", {"BETA": 0.0, "M": 1, "N": 1}, False),
        ("ALIGN", {"M": 1, "N": 1}, True),
        ("PLOT", {}, True),
        ("CoOp", {}, False),
    ],
)
def test_which_methods_have_plans(tiny_clip, name, node, expected):
    assert has_plans(build(tiny_clip, name, **node).model.spec) is expected


def test_record_and_log_report_transport(tmp_path):
    assert run(tmp_path, "ALIGN", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())["transport"]
    assert record["images"] == 16 and record["tokens"]["total_variation"] < 0.1
    assert 0.9 < record["tokens"]["entropy"] < 1 and -1 < record["visual_cosine"] < 1
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"between tokens (total variation {record['tokens']['total_variation']:.3f})" in log
    assert run(tmp_path, "CoOp", tmp_path / "without") == 0
    assert json.loads((tmp_path / "without" / "results.json").read_text())["transport"] is None
