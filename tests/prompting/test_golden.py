"""Parity with the published methods: logits, loss and every gradient of each golden file."""

import json
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from paths import GOLDEN
from safetensors import safe_open

from trainers.prompting import PromptedCLIP
from trainers.prompting.config import prompt_spec
from trainers.prompting.method import METHODS

FILES = sorted(p for p in GOLDEN.glob("*.safetensors") if not p.name.startswith("tiny_clip"))


class Golden(NamedTuple):
    meta: dict
    image: torch.Tensor
    label: torch.Tensor
    expected: dict
    params: dict
    grads: dict


def read(path) -> Golden:
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return Golden(
        {k: json.loads(meta[k]) for k in ("classnames", "config")}
        | {k: meta[k] for k in ("method", "dataset")},
        tensors.pop("image"),
        tensors.pop("label"),
        tensors,
        {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")},
        {k.removeprefix("grad/"): v for k, v in tensors.items() if k.startswith("grad/")},
    )


def build(golden: Golden, clip_model) -> PromptedCLIP:
    spec = prompt_spec(golden.meta["method"], golden.meta["config"])
    if spec.score == "ot":  # the golden plans are converged
        spec = spec.with_(tol=1e-7, max_iter=2000)
    model = PromptedCLIP(clip_model, golden.meta["classnames"], spec, golden.meta["dataset"])
    model.load_public_state_dict(golden.params)
    return model


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def golden(request):
    golden = read(request.param)
    if golden.meta["method"] not in METHODS:
        pytest.fail(f"no method is called {golden.meta['method']}")
    return golden


def test_logits_loss_and_gradients(golden, tiny_clip):
    model = build(golden, tiny_clip).train()
    logits = model(golden.image)
    loss = F.cross_entropy(logits, golden.label)
    assert (logits - golden.expected["logits"]).abs().max() < 1e-4
    assert abs(loss.item() - golden.expected["loss"].item()) < 1e-4
    own = model.public_parameters()
    assert set(own) == set(golden.grads) == {n for n, p in own.items() if p.requires_grad}
    if golden.grads:
        loss.backward()
    for name, expected in golden.grads.items():
        error = (own[name].grad.reshape(expected.shape) - expected).norm()
        assert error < 1e-3 * expected.norm() + 1e-7, f"{name}: {error / expected.norm():.2e}"


def test_eval_mode_gives_the_same_logits_from_cached_text_features(golden, tiny_clip):
    model = build(golden, tiny_clip).eval()
    calls = []
    model.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    first, second = model(golden.image), model(golden.image)
    assert (first - golden.expected["logits"]).abs().max() < 1e-4
    assert torch.equal(first, second)
    assert not first.requires_grad
    if not model.spec.image_conditional:
        assert len(calls) == 1


def test_public_names_and_shapes_survive_a_round_trip(golden, tiny_clip):
    state = build(golden, tiny_clip).public_state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in golden.params.items()}
    assert all(torch.equal(state[k], v) for k, v in golden.params.items())


def test_transport_distances(tiny_clip):
    """`token_ot` and `distance` of the paper form, beside its logits."""
    from trainers.prompting.scores import token_distance

    files = [p for p in FILES if p.name.startswith("align_paper") and "beta0" not in p.name]
    assert files
    for path in files:
        golden = read(path)
        model = build(golden, tiny_clip).eval()
        contexts = model.prompt_learner()
        with torch.no_grad():
            image = model.image_encoder(golden.image, contexts.vision)
            text = model.text_features()
            d = token_distance(model.spec, image, text, 1 << 20)
        assert (d - golden.expected["token_ot"]).abs().max() < 1e-5
        distance = 1 - model(golden.image) / model.logit_scale
        assert (distance - golden.expected["distance"]).abs().max() < 1e-5
