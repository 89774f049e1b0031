"""GDA, beyond test_golden.py."""

import numpy as np
import pytest
import torch
from golden_files import near, node_of, read
from paths import GOLDEN

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.saved import Saved

PREFIX = {"shrunk": "", "base2new": "base2new/"}


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "gda_closed_form.safetensors")


def fit(golden, clip_model, dataset="EuroSAT", support=None, **node):
    place = clip_model, golden.meta["classnames"], dataset
    return build_method("GDA", node_of(golden, **node), *place, support or golden.support).eval()


def saved(method):
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    names = {"classnames": method.classnames, "class_buffers": method.class_buffers}
    return Saved.of(state | names | {"trainer": "GDA"})


def alike(found, expected):
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("form", PREFIX)
def test_the_gaussians_and_the_search(tiny_clip, golden, form, capsys):
    method, tensors, prefix = fit(golden, tiny_clip, FORM=form), golden.tensors, PREFIX[form]
    method.take_validation(tensors["val/features"], tensors["val/label"])
    n = len(tensors["val/label"])
    right = round(n * float(tensors[f"{prefix}val/best"]) / 100)
    assert f"alpha 10 classifies {right} of {n} validation" in capsys.readouterr().out
    for name in ("W", "b", "alpha"):
        assert alike(getattr(method, name), tensors[prefix + name]), name
    assert alike(method(tensors["image"]), tensors[f"{prefix}logits_eval"])


@torch.no_grad()
def test_each_alpha_and_the_sentences_of_imagenet(tiny_clip, golden):
    method, tensors = fit(golden, tiny_clip), golden.tensors
    for a in ("0.0001", "0.1", "100"):
        method.alpha.fill_(float(a))
        assert alike(method(tensors["image"]), tensors[f"alpha_{a}/logits_eval"])
    method = fit(golden, tiny_clip, "ImageNet")
    method.take_validation(tensors["val/features"], tensors["val/label"])
    assert method.alpha == tensors["seven/alpha"]
    assert alike(method(tensors["image"]), tensors["seven/logits_eval"])
    method.take_validation(tensors["val/features"][:2], torch.tensor([-1, -1]))
    assert method.alpha == torch.tensor(0.1)  # none is right


@torch.no_grad()
@pytest.mark.parametrize("least", [1e-4, 0.01, 100.0])
def test_the_least_of_equally_good_alphas_is_taken(tiny_clip, golden, least, capsys):
    """W is 0, and b lets one class win from `least` on."""
    method, z = fit(golden, tiny_clip), golden.tensors["val/features"][:3]
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
def test_new_classes(tiny_clip, golden):
    names, tensors = golden.meta["new_classnames"], golden.tensors
    checkpoint = saved(fit(golden, tiny_clip, FORM="base2new"))
    new = build_method("GDA", {"FORM": "base2new", "SCALE": 100.0}, tiny_clip, names, "EuroSAT")
    new.eval().load_checkpoint(checkpoint, names)
    assert alike(new(tensors["new/image"]), tensors["base2new/new/logits_eval"])
    assert alike(new.of_new[:-1], tensors["base2new/new/W"])
    few = build_method("GDA", {}, tiny_clip, names)
    with pytest.raises(UserError, match="GDA has parameters for each class of its training"):
        few.load_checkpoint(checkpoint, names)


@torch.no_grad()
def test_variants_have_some_of_the_classes(tiny_clip, golden):
    method, tensors = fit(golden, tiny_clip, "ImageNet"), golden.tensors
    names = [method.classnames[k] for k in (4, 1)]
    variant = build_method("GDA", node_of(golden), tiny_clip, names, "ImageNetA").eval()
    variant.load_checkpoint(saved(method), names)
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


def test_one_row_a_class_leaves_the_text(tiny_clip, golden):
    x, labels = golden.support["images"][:1, ::4], golden.support["labels"][::4]
    method = fit(golden, tiny_clip, support={"images": x, "labels": labels}, ALPHA=1.0)
    zero_shot = golden.tensors["zero_shot/logits"] - torch.tensor(6.0).log()
    with torch.no_grad():
        assert near(method(golden.tensors["image"]), zero_shot, 1e-3)


def test_too_few_images(tiny_clip, golden):
    with pytest.raises(UserError, match="The Gaussians are not fitted: train the method"):
        build_method("GDA", {}, tiny_clip, ["cat", "dog"])(torch.zeros(1, 64))
    for form, labels in (("shrunk", [0, 0]), ("base2new", [0, 1])):
        support = {"images": torch.eye(2, 64), "labels": torch.tensor(labels)}
        with pytest.raises(UserError, match="The class '(cat|dog)' has too few training images"):
            build_method("GDA", {"FORM": form}, tiny_clip, ["cat", "dog"], support=support)
