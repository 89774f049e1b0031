"""HiCroPL: every number of its golden file, both forms, mistakes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from golden_files import near
from models import NAMES, settings
from test_golden import check_other_classes

from trainers.prompting import build_method


def logits_of(method, golden):
    with torch.no_grad():
        return method.eval()(golden.tensors["image"])


def pass_once(method):
    """Write the prompts as a forward of the public code does."""
    learner = method.prompt_learner
    with torch.no_grad():
        for side, after in zip(learner.prompts, learner.flow(), strict=True):
            for p, new in zip(side, after, strict=True):
                p.copy_(new)


def steps(method, golden, count=3, overwrite=None):
    """Take steps of Adam, and return the parameters."""
    learned = method.train().learned().values()
    optimizer = torch.optim.Adam(learned, lr=0.0025, eps=1e-3, weight_decay=5e-4)
    for _ in range(count):
        optimizer.zero_grad()
        if overwrite:
            overwrite(method)
        method.backward(method.losses(golden.tensors["image"], golden.tensors["label"]))
        optimizer.step()
    return method.public_state_dict()


# ------------------------------------------------------------------ the released form


def test_flow_and_features(of):
    golden, method = of("hicropl")
    tensors, learner = golden.tensors, method.prompt_learner
    (y, x), (text, vision) = learner.proxies(), learner.flow()
    k, found = learner.k, {"text_proxy": y, "visual_proxy": x}
    found |= {"text": torch.stack(text[k:]), "visual": torch.stack(vision[:k])}
    assert set(found) == set(golden.part("flow/"))
    for name, value in found.items():
        assert near(value, tensors[f"flow/{name}"], 1e-5), name
    image, features = tensors["image"], method.output(tensors["image"])[1:]
    for side, feature in zip(("image", "text"), features, strict=True):
        own = feature.z[:, 0] if side == "image" else feature.h[0]
        assert near(own, tensors[f"{side}_features"], 1e-5)
    contexts = method.contexts()
    plain = method.text_encoder(contexts.text).h[0]
    assert near(plain, tensors["prompted/text_features"], 1e-5)
    plain = method.image_encoder(image, contexts.vision).z[:, 0]
    assert near(plain, tensors["prompted/image_features"], 1e-5)
    check = "new_classnames", "logits_eval_new"
    check_other_classes(golden, *check, method.teacher.clip_model, "EuroSAT")


def test_a_step_overwrites_the_prompts_and_an_evaluation_does_not(of):
    golden, method = of("hicropl")
    before = copy.deepcopy(method.public_state_dict())
    first = logits_of(method, golden)
    assert torch.equal(first, logits_of(method, golden))
    terms = method.train().losses(golden.tensors["image"], golden.tensors["label"])
    assert all(torch.equal(value, before[n]) for n, value in method.public_state_dict().items())
    method.backward(terms)
    after, found = golden.part("after/"), method.public_state_dict()
    moved = {name for name, value in found.items() if not torch.equal(value, before[name])}
    assert moved == set(after) == set(golden.meta["extra"]["overwritten"])
    assert all(near(found[name], value, 1e-5) for name, value in after.items())
    method.backward(method.losses(golden.tensors["image"], golden.tensors["label"]))
    assert not near(method.public_state_dict()[min(moved)], after[min(moved)], 1e-2)


@pytest.mark.parametrize(("name", "passes"), [("second", 2), ("twentieth", 21)])
def test_later_passes_of_the_public_code(of, name, passes):
    """What the file calls the twentieth is the twentieth after the first."""
    golden, method = of("hicropl")
    for _ in range(passes - 1):
        pass_once(method)
    assert near(logits_of(method, golden), golden.tensors[f"{name}/logits_eval"])


def test_steps_of_the_prompts_alone(of):
    golden, method = of("hicropl")
    expected = golden.part("steps/")
    logits = expected.pop("logits_eval")
    learned = {name: p.clone() for name, p in method.learned().items()}
    assert set(learned) == set(golden.part("grad/")) == set(expected)
    found = steps(method, golden)
    assert all(near(found[name], value, 2e-5) for name, value in expected.items())
    for name in set(found) - set(expected):
        assert torch.equal(found[name], golden.params[name]), name
    assert near(logits_of(method, golden), logits, 2e-4)


def test_steps_are_those_of_a_code_that_overwrites(of):
    """The reference writes the flow before each forward, and differentiates at the new prompts."""
    golden, method = of("hicropl")
    _, other = of("hicropl")
    other.prompt_learner.flow_of = other.prompt_learner.flow

    def overwrite(method):
        method.prompt_learner.flow = method.prompt_learner.flow_of
        pass_once(method)
        method.prompt_learner.flow = lambda: method.prompt_learner.prompts

    found, wanted = steps(method, golden, 5), steps(other, golden, 5, overwrite)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


# ------------------------------------------------------------------ the form of the paper


def test_the_flow_inside_the_graph(of):
    golden, method = of("hicropl", FORM="paper")
    tensors = golden.tensors
    terms = method.train().losses(tensors["image"], tensors["label"])
    assert near(terms["loss"], tensors["paper/loss"])
    assert near(method.output(tensors["image"]).logits, tensors["logits"])
    before = copy.deepcopy(method.public_state_dict())
    method.backward(terms)
    own = method.public_parameters()
    assert all(torch.equal(p, before[name]) for name, p in own.items())
    whole, rows = golden.part("paper/grad/"), golden.part("paper/grad_rows/")
    zero = golden.part("paper/grad_zero/")
    assert {*whole, *rows, *zero} == set(own)
    for name, value in whole.items():
        assert (own[name].grad - value).norm() < 1e-3 * value.norm() + 1e-7, name
    for name, value in rows.items():
        norm = tensors[f"paper/grad_norm/{name}"]
        assert (own[name].grad[::16] - value).norm() < 1e-3 * value.norm(), name
        assert own[name].grad.norm() == pytest.approx(norm.item(), rel=1e-3)
    method.zero_grad()
    steps(method, golden)
    assert near(logits_of(method, golden), tensors["paper/steps/logits_eval"], 2e-4)


# ------------------------------------------------------------------ without a file


def test_lists_of_different_lengths_are_averaged_by_class(tiny_clip):
    about = {"forest": ["a forest.", "many trees."], "*": ["a {}."]}

    def features(sentences, names):
        node = settings("HiCroPL") | {"SENTENCES": sentences}
        return build_method("HiCroPL", node, tiny_clip, names).teacher.h

    alone = [features({"*": [text]}, ["x"])[0] for text in about["forest"]]
    mean = F.normalize(torch.stack(alone).mean(0), dim=-1)
    assert near(features(about, NAMES)[1], mean, 1e-6)


def test_prompts_start_as_in_the_public_code(tiny_clip):
    node = {"PROMPT_DEPTH": 3, "CROSS_LAYER": 1, "N_CTX": 5}
    learner = build_method("HiCroPL", node, tiny_clip, NAMES).prompt_learner
    text, vision = learner.prompts
    assert text[0] is learner.ctx and not torch.equal(text[1], text[2])
    assert torch.equal(vision[0], vision[2]) and vision[0].data_ptr() != vision[2].data_ptr()
    assert learner.ctx.std().item() == pytest.approx(0.02, rel=0.2)
    assert learner.visual_proxy_token[0].data_ptr() != learner.visual_proxy_token[1].data_ptr()
