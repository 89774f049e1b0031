"""Linear probes: LinearProbe and LP++, beyond test_golden.py."""

import pytest
import tiny
import torch
from golden_files import near, read
from paths import GOLDEN
from sklearn.linear_model import LogisticRegression

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.methods.linear_probe import solve_regression
from trainers.prompting.methods.lpplusplus import LPPlusPlus

NAMES = ["cat", "dog", "fish"]


def made(name, clip_model, file, **node):
    golden = read(GOLDEN / f"{file}.safetensors")
    place = clip_model, golden.meta["classnames"], golden.meta["dataset"]
    return build_method(name, node, *place, golden.support).eval(), golden.tensors


@torch.no_grad()
def searched(method, tensors):
    features = method.clip_features(tensors["val/image"])
    method.take_validation(features, tensors["val/label"])
    return method(tensors["image"])


# ------------------------------------------------------------------ LinearProbe


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_the_minimum_is_exact(tiny_clip, C):
    method, tensors = made("LinearProbe", tiny_clip, "linear_probe", C=C)
    weight, logits = (tensors[f"exact/{C}/{name}"] for name in ("weight", "logits_eval"))
    assert near(method.classifier.weight, weight, 1e-5 * float(weight.abs().max()))
    found = method(tensors["image"])
    centred = [x - x.mean(1, keepdim=True) for x in (found, logits)]  # the bias is not unique
    assert near(*centred, 1e-4)


def test_c_is_searched_on_validation_images(tiny_clip, capsys):
    method, tensors = made("LinearProbe", tiny_clip, "linear_probe")
    assert method.searches
    logits = searched(method, tensors)
    assert "Search: C 0.1 classifies 8 of 18 validation images" in capsys.readouterr().out
    assert near(method.classifier.weight, tensors["converged/weight"], 1e-6)
    wanted = tensors["converged/logits_eval"]
    assert near(logits - logits.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True), 1e-5)


@pytest.mark.parametrize("C", [1e-6, 0.1, 1e4])
def test_the_solution_is_that_of_scikit_learn(C):
    seeded = torch.Generator().manual_seed(3)
    labels = torch.arange(40) % 4  # the last classes are rare
    labels[labels == 3] = 2
    z = torch.nn.functional.normalize(torch.randn(40, 8, generator=seeded), dim=1)
    W, b = solve_regression(z, labels, 3, C)
    theirs = LogisticRegression(C=C, tol=1e-12, max_iter=20_000, solver="newton-cg")
    theirs.fit(z.double().numpy(), labels.numpy())
    logits = z.double() @ W.T + b
    probability = torch.from_numpy(theirs.predict_proba(z.double().numpy()))
    assert near(logits.softmax(1), probability, 1e-5)


# ------------------------------------------------------------------ LP++


@pytest.mark.parametrize(("form", "block"), [("released", ""), ("cleared", "reset/")])
def test_the_steps_of_lpplusplus(tiny_clip, form, block):
    method, tensors = made("LPPlusPlus", tiny_clip, "lpplusplus", FORM=form)
    assert near(method.begin["classifier.weight"], tensors["init/classifier.weight"], 1e-5)
    assert near(method.begin["alpha_vec"], tensors["init/alpha_vec"], 1e-5)
    drawn = method.begin["classifier.bias"]
    assert drawn.abs().max() <= 64**-0.5 and drawn.unique().numel() == len(drawn)
    method.begin["classifier.bias"] = tensors["init/classifier.bias"]
    checked = 0
    for step in method.steps():
        if f"{block}steps/{step}/alpha_vec" in tensors:
            wanted = {name: tensors[f"{block}steps/{step}/{name}"]
                      for name in ("classifier.weight", "alpha_vec")}  # fmt: skip
            own = method.learned()
            assert all(near(own[name], value, 1e-4) for name, value in wanted.items())
            with torch.no_grad():
                logits = method(tensors["image"])
            assert near(logits, tensors[f"{block}steps/{step}/logits_eval"])
            checked += 1
    assert (step, checked) == (300, 2 if block else 3)


def test_the_last_of_the_best_steps_counts(tiny_clip, capsys):
    method, tensors = made("LPPlusPlus", tiny_clip, "lpplusplus")
    method.begin["classifier.bias"] = tensors["init/classifier.bias"]
    logits = searched(method, tensors)
    best = int(tensors["best/epoch"]) + 1
    assert f"Search: step {best} classifies 9 of 18 validation" in capsys.readouterr().out
    assert near(logits, tensors["best/logits_eval"])


def test_a_run_with_the_search_does_the_steps_once(tmp_path, monkeypatch):
    started, steps = [], LPPlusPlus.steps
    monkeypatch.setattr(LPPlusPlus, "steps", lambda self: started.append(1) or steps(self))
    extra = [*tiny.OF_HALVES, "all", "DATASET.NUM_SHOTS", "2", "TRAINER.LPPLUSPLUS.TRAIN_EPOCH"]
    data = tiny.write_halves(tmp_path / "data")
    assert tiny.run(data, "LPPlusPlus", tmp_path / "run", 1, extra=[*extra, "9"]) == 0
    assert len(started) == 1


def test_the_loss_is_that_of_the_support(tiny_clip):
    method, tensors = made("LPPlusPlus", tiny_clip, "lpplusplus")
    golden = read(GOLDEN / "lpplusplus.safetensors")
    method.load_public_state_dict(golden.params)
    terms = method.losses(tensors["support/image"], tensors["support/label"])
    method.backward(terms)
    assert near(terms["loss"], tensors["loss"])
    own = method.public_parameters()
    for name, value in golden.part("grad/").items():
        assert (own[name].grad - value).norm() < 1e-3 * value.norm()
    terms = method.losses(tensors["image"], tensors["label"])
    assert near(terms["loss"], tensors["batch/loss"])


def test_sentences_of_imagenet(tiny_clip):
    method = build_method("LPPlusPlus", {}, tiny_clip, NAMES, "ImageNetV2")
    tip = build_method("TipAdapter", {}, tiny_clip, NAMES, "ImageNetV2")
    assert near(method.text().h, tip.text().h, 1e-6)


@pytest.mark.parametrize("name", ["LinearProbe", "LPPlusPlus"])
def test_some_of_the_classes(tiny_clip, name):
    file = {"LinearProbe": "linear_probe"}.get(name, "lpplusplus")
    method, tensors = made(name, tiny_clip, file)
    names = read(GOLDEN / f"{file}.safetensors").meta["classnames"]
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    state |= {"trainer": name, "classnames": names, "class_buffers": method.class_buffers}
    other = build_method(name, {}, tiny_clip, [names[4], names[1]], "EuroSAT").eval()
    other.load_checkpoint(Saved.of(state), [names[4], names[1]])
    with torch.no_grad():
        assert near(other(tensors["image"]), method(tensors["image"])[:, [4, 1]], 1e-5)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("name", ["LinearProbe", "LPPlusPlus"])
def test_a_probe_without_training_images_or_with_other_classes(tiny_clip, name):
    images = torch.zeros(2, 3, 32, 32)
    empty = build_method(name, {}, tiny_clip, NAMES).eval()
    with pytest.raises(UserError, match="The classifier is empty: train the method"):
        empty(images)
    state = {"classifier.weight": torch.zeros(4, 64), "classifier.bias": torch.zeros(4)}
    state |= {"alpha_vec": torch.zeros(1, 4)} if name == "LPPlusPlus" else {}
    with pytest.raises(UserError, match="has a classifier of 4 classes, but there are 3"):
        empty.load_checkpoint(Saved.of(state), NAMES)
    if name == "LPPlusPlus":
        support = {"images": images, "labels": torch.tensor([0, 1])}
        with pytest.raises(UserError, match=r"The class 'fish' has no training image, but LP\+\+"):
            build_method(name, {}, tiny_clip, NAMES, support=support)
