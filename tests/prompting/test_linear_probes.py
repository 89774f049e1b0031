"""Classifiers on features (LinearProbe, LP++, GDA, CrossModal), beyond test_golden.py.

The file is long because four methods share the same features.
"""

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from golden_files import near, node_of, read
from models import saved
from paths import GOLDEN
from sklearn.linear_model import LogisticRegression

from trainers.prompting import UserError, build_method
from trainers.prompting.encoders.class_text import ClassText
from trainers.prompting.method import METHODS
from trainers.prompting.methods import crossmodal
from trainers.prompting.methods.linear_probe import solve_regression
from trainers.prompting.trainer.loaders import SeededImages


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
    started, kind = [], METHODS["LPPlusPlus"]
    steps = kind.steps
    monkeypatch.setattr(kind, "steps", lambda self: started.append(1) or steps(self))
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


# ------------------------------------------------------------------ GDA

PREFIX = {"shrunk": "", "base2new": "base2new/"}


@pytest.fixture(scope="module")
def of_gda():
    return read(GOLDEN / "gda_closed_form.safetensors")


def fit_gda(of_gda, clip_model, dataset="EuroSAT", support=None, **node):
    place = clip_model, of_gda.meta["classnames"], dataset
    return build_method("GDA", node_of(of_gda, **node), *place, support or of_gda.support).eval()


def alike(found, expected):
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("form", PREFIX)
def test_the_gaussians_and_the_search(tiny_clip, of_gda, form, capsys):
    method, tensors, prefix = fit_gda(of_gda, tiny_clip, FORM=form), of_gda.tensors, PREFIX[form]
    method.take_validation(tensors["val/features"], tensors["val/label"])
    n = len(tensors["val/label"])
    right = round(n * float(tensors[f"{prefix}val/best"]) / 100)
    assert f"alpha 10 classifies {right} of {n} validation" in capsys.readouterr().out
    for name in ("W", "b", "alpha"):
        assert alike(getattr(method, name), tensors[prefix + name]), name
    assert alike(method(tensors["image"]), tensors[f"{prefix}logits_eval"])


@torch.no_grad()
def test_each_alpha_and_the_sentences_of_imagenet(tiny_clip, of_gda):
    method, tensors = fit_gda(of_gda, tiny_clip), of_gda.tensors
    for a in ("0.0001", "0.1", "100"):
        method.alpha.fill_(float(a))
        assert alike(method(tensors["image"]), tensors[f"alpha_{a}/logits_eval"])
    method = fit_gda(of_gda, tiny_clip, "ImageNet")
    method.take_validation(tensors["val/features"], tensors["val/label"])
    assert method.alpha == tensors["seven/alpha"]
    assert alike(method(tensors["image"]), tensors["seven/logits_eval"])
    method.take_validation(tensors["val/features"][:2], torch.tensor([-1, -1]))
    assert method.alpha == torch.tensor(0.1)  # none is right


@torch.no_grad()
@pytest.mark.parametrize("least", [1e-4, 0.01, 100.0])
def test_the_least_of_equally_good_alphas_is_taken(tiny_clip, of_gda, least, capsys):
    """W is 0, and b lets one class win from `least` on."""
    method, z = fit_gda(of_gda, tiny_clip), of_gda.tensors["val/features"][:3]
    x, h = torch.nn.functional.normalize(z, dim=-1), method.text().h[0]
    plain = method.logit_scale * x @ h.T
    label = int(plain.sum(0).argmin())
    method.W.zero_()
    method.b.zero_()
    method.b[label] = (plain.amax() - plain[:, label].amin() + 1) / (0.9 * least)
    method.take_validation(z, torch.full((3,), label))
    assert float(method.alpha) == pytest.approx(least)
    assert f"alpha {least:g} classifies 3 of 3 validation" in capsys.readouterr().out


@torch.no_grad()
def test_new_classes(tiny_clip, of_gda):
    names, tensors = of_gda.meta["new_classnames"], of_gda.tensors
    base = fit_gda(of_gda, tiny_clip, FORM="base2new")
    checkpoint = saved(base, base.training_classnames)
    new = build_method("GDA", {"FORM": "base2new", "SCALE": 100.0}, tiny_clip, names, "EuroSAT")
    new.eval().load_checkpoint(checkpoint, names)
    assert alike(new(tensors["new/image"]), tensors["base2new/new/logits_eval"])
    assert alike(new.of_new[:-1], tensors["base2new/new/W"])
    few = build_method("GDA", {}, tiny_clip, names)
    with pytest.raises(UserError, match="GDA has parameters for each class of its training"):
        few.load_checkpoint(checkpoint, names)


@torch.no_grad()
def test_variants_have_some_of_the_classes(tiny_clip, of_gda):
    method, tensors = fit_gda(of_gda, tiny_clip, "ImageNet"), of_gda.tensors
    names = [method.training_classnames[k] for k in (4, 1)]
    variant = build_method("GDA", node_of(of_gda), tiny_clip, names, "ImageNetA").eval()
    variant.load_checkpoint(saved(method, method.training_classnames), names)
    assert near(variant(tensors["image"]), method(tensors["image"])[:, [4, 1]])


def test_small_eigenvalues_are_cut_as_in_float32(tiny_clip):
    seeded = torch.Generator().manual_seed(0)
    x, labels = torch.randn(6, 64, generator=seeded), torch.tensor([0, 1] * 3)
    node = {"FORM": "base2new", "ALPHA": 1.0}
    support = {"images": x, "labels": labels}
    method = build_method("GDA", node, tiny_clip, ["cat", "dog"], support=support)
    f = x.double().numpy()
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    mu = np.stack([f[labels == k].mean(0) for k in range(2)])
    S = sum(np.cov(f[labels == k].T) for k in range(2)) / 2
    values, vectors = np.linalg.eigh(S)
    kept = values > values[-1] * 64 * np.finfo(np.float32).eps
    assert kept.sum() == 4
    P = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    assert alike(method.W, torch.from_numpy(P @ mu.T).float())


# ------------------------------------------------------------------ few or no images


def test_one_row_a_class_leaves_the_text(tiny_clip, of_gda):
    x, labels = of_gda.support["images"][:1, ::4], of_gda.support["labels"][::4]
    method = fit_gda(of_gda, tiny_clip, support={"images": x, "labels": labels}, ALPHA=1.0)
    zero_shot = of_gda.tensors["zero_shot/logits"] - torch.tensor(6.0).log()
    with torch.no_grad():
        assert near(method(of_gda.tensors["image"]), zero_shot, 1e-3)


# ------------------------------------------------------------------ CrossModal

BLOCKS = {
    "": {},
    "adapter/": {"CLASSIFIER_HEAD": "adapter"},
    "uni_modal/": {"MODALITY": "uni_modal", "CLASSIFIER_INIT": "random", "BATCH_SIZE": 4},
}


@pytest.fixture(scope="module")
def of_crossmodal():
    return read(GOLDEN / "crossmodal_linear.safetensors")


def untrained(of_crossmodal, clip_model, monkeypatch, block="", **more):
    """Return a method at the start of the file, which draws as the file does."""
    meta, tensors = of_crossmodal.meta, of_crossmodal.tensors
    node = node_of(of_crossmodal, **BLOCKS[block] | more)
    method = build_method("CrossModal", node, clip_model, meta["classnames"], meta["dataset"])
    method.validation_follows = True
    method.make_room(len(of_crossmodal.support["labels"]))
    method.take_support(of_crossmodal.support["images"], of_crossmodal.support["labels"])
    assert alike(method.teacher.h, tensors["zero_shot/weight"])
    method.begin = {name: tensors[f"{block}init/{name}"] for name in method.begin}
    drawn = iter([tensors["steps/image_index"], tensors["steps/text_index"]])
    monkeypatch.setattr(crossmodal, "draw_batches", lambda n, size: iter(next(drawn)))
    return method.eval()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_whole_training(tiny_clip, of_crossmodal, monkeypatch, capsys, block, share):
    method = untrained(of_crossmodal, tiny_clip, monkeypatch, block, WISEFT=share)
    tensors = of_crossmodal.tensors
    method.take_validation(tensors["val/features"], tensors["val/label"])
    best, accuracy = int(tensors[f"{block}best/iter"]), tensors[f"{block}val/accuracy"]
    right = round(float(accuracy.max()) * len(tensors["val/label"]))
    assert f"Search: step {best} classifies {right} of 18" in capsys.readouterr().out
    with torch.no_grad():
        logits = method(tensors["image"])
    assert alike(logits, tensors[f"{block}{'wiseft' if share else 'best'}/logits_eval"])
    if not share:
        found = method.public_state_dict()
        assert all(alike(p, tensors[f"{block}best/{name}"]) for name, p in found.items())


@pytest.mark.parametrize("block", BLOCKS)
def test_a_batch(tiny_clip, of_crossmodal, monkeypatch, block):
    """The loss of the first step, from the file's parameters, and its gradients."""
    method = untrained(of_crossmodal, tiny_clip, monkeypatch, block, ITERS=1, LR=1e-30)
    state = of_crossmodal.part(f"{block}param/")
    method.load_public_state_dict(state)
    method.begin, grads = state, {}
    for name, p in method.learned().items():
        p.register_hook(lambda grad, name=name: grads.update({name: grad}))
    losses, cross_entropy = [], F.cross_entropy
    monkeypatch.setattr(
        F, "cross_entropy", lambda *given: losses.append(cross_entropy(*given)) or losses[-1]
    )
    assert [*method.steps()] == [1]
    assert alike(losses[0].detach(), of_crossmodal.tensors[f"{block}loss"][0])
    expected = of_crossmodal.part(f"{block}grad/")
    assert grads.keys() == expected.keys()
    assert all(alike(grads[name], value) for name, value in expected.items())


def test_the_rates(tiny_clip, of_crossmodal, monkeypatch):
    method = untrained(of_crossmodal, tiny_clip, monkeypatch)
    made, schedule = [], torch.optim.lr_scheduler.LambdaLR
    monkeypatch.setattr(
        torch.optim.lr_scheduler,
        "LambdaLR",
        lambda *given: made.append(schedule(*given)) or made[0],
    )
    rates = []
    for _ in method.steps():
        rates += made[0].get_last_lr()  # of the next step
    expected = of_crossmodal.tensors["steps/lr"]
    torch.testing.assert_close(torch.tensor(rates[:-1]), expected[1:])
    assert made[0].lr_lambdas[0](0) * method.settings.LR == pytest.approx(float(expected[0]))


def test_batches_are_drawn_pass_by_pass():
    draw = crossmodal.draw_batches(7, 3)
    batches = [next(draw) for _ in range(4)]
    assert all(len(rows) == 3 for rows in batches)
    for first, second in (batches[:2], batches[2:]):
        assert len({*first.tolist(), *second.tolist()}) == 6


def test_the_classes_of_sentences():
    assert ClassText(["a {}.", "{}"], ["cat", "dog"]).owners().tolist() == [0, 1, 0, 1]
    lists = ClassText((), ["cat", "dog"], lists=[["a"], ["b", "c"]])
    assert lists.owners().tolist() == [0, 1, 1]


def test_images_of_every_second_pass_are_mirrored():
    class Images(list):
        def __getitem__(self, i):
            return {"img": super().__getitem__(i)}

    images = list(torch.randn(2, 3, 4, 4))
    passes = SeededImages(Images(images), [0, 1] * 3, 1, mirrored=True)
    seen = [passes[i]["img"] for i in range(6)]
    expected = [*images, *(image.flip(-1) for image in images), *images]
    assert all(torch.equal(*pair) for pair in zip(seen, expected, strict=True))
