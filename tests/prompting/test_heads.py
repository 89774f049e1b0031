"""Adapters and caches on features (Tip-Adapter, CLIP-Adapter, CLAP), beyond test_golden.py."""

import numpy as np
import pytest
import tiny
import torch
from models import saved
from paths import GOLDEN
from test_golden import check_step, read

from trainers.prompting import UserError, build_method, load_run
from trainers.prompting.capabilities.earlier import settings_of
from trainers.prompting.checkpoint.identity import Identity
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS
from trainers.prompting.methods.tip_adapter import KeyValueCache
from trainers.prompting.record.predictions import read_predictions

FILES = {
    "TipAdapter": "tip_adapter_f",
    "TipAdapterF": "tip_adapter_f",
    "CLIPAdapter": "clip_adapter",
    "CLAP": "clap",
    "LinearProbe": "linear_probe",
    "LPPlusPlus": "lpplusplus",
    "CrossModal": "crossmodal_linear",
}
ADAPTED = {"CLASSIFIER_HEAD": "adapter", "ITERS": 3}  # settings of CrossModal


def made(name, clip_model, dataset=None, support=True, names=None, **node):
    """Return a method with the settings of its golden file, untrained, and the file."""
    golden = read(GOLDEN / f"{FILES[name]}.safetensors")
    meta = golden.meta
    own = {key.upper(): value for key, value in meta["config"].items()}
    config = {key: value for key, value in own.items() if key in METHODS[name].defaults} | node
    if name.startswith("TipAdapter"):
        config = {"SCALE": 100.0} | config  # a constant of the public code
    place = clip_model, names or meta["classnames"], dataset or meta["dataset"]
    return build_method(name, config, *place, golden.support if support else None), golden


def load(method, golden):
    method.load_public_state_dict(golden.params)
    return method.eval()


def near(found, expected, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


# ------------------------------------------------------------------ Tip-Adapter


def test_the_cache_and_its_logits(tiny_clip):
    method, golden = made("TipAdapter", tiny_clip)
    cache, tensors, images = method.adapter, golden.tensors, golden.tensors["image"]
    near(cache.keys.T, tensors["cache/keys"])
    assert torch.equal(cache.values, tensors["cache/values"])
    near(method.eval()(images), tensors["tip/logits"], atol=1e-4)
    near(method(tensors["val/image"]), tensors["tip/val_logits"], atol=1e-4)
    assert not list(method.learned().values())
    cache.alpha.fill_(0)
    near(method(images), tensors["zeroshot/logits"], atol=1e-4)
    near(method.text().h[0], tensors["frozen/text_features"])


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_alpha_and_beta_are_searched_on_validation_images(tiny_clip, name, capsys):
    method, golden = made(name, tiny_clip)
    plain, _ = made(name, tiny_clip, SEARCH_HP=False)
    assert method.searches and not plain.searches
    tensors = golden.tensors
    trained = name == "TipAdapterF"
    if trained:
        near(method.adapter.weight, golden.tensors["init/adapter.weight"])
        load(method, golden)
    features = method.clip_features(tensors["val/image"])
    method.take_validation(features, tensors["val/label"])
    beta, alpha = tensors["search/tip_f" if trained else "search/tip"].tolist()
    assert float(method.adapter.beta) == pytest.approx(beta)
    assert float(method.adapter.alpha) == pytest.approx(alpha)
    assert "Search: beta" in capsys.readouterr().out
    expected = tensors["logits_searched" if trained else "tip/logits_searched"]
    near(method.eval()(tensors["image"]), expected, atol=1e-4)
    other, _ = made(name, tiny_clip, support=False)  # what was chosen is loaded
    names = golden.meta["classnames"]
    other.load_checkpoint(saved(method, names), names)
    assert torch.equal(other.eval()(tensors["image"]), method(tensors["image"]))


def test_steps_of_the_keys(tiny_clip):
    method, golden = made("TipAdapterF", tiny_clip)
    load(method, golden)
    tensors = golden.tensors
    optimizer = torch.optim.AdamW(method.learned().values(), lr=0.001, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for expected in tensors["steps/logits"]:
        terms = method.train().losses(tensors["image"], tensors["label"])
        optimizer.zero_grad()
        method.backward(terms)
        optimizer.step()
        schedule.step()
        near(method.eval()(tensors["image"]), expected, atol=1e-4)


def test_several_sentences_of_imagenet(tiny_clip):
    method, golden = made("TipAdapter", tiny_clip, dataset="ImageNetV2")
    near(method.text().h[0], golden.tensors["ensemble/text_features"])
    for name in ("LPPlusPlus", "ProLIP"):
        same = build_method(name, {}, tiny_clip, golden.meta["classnames"], "ImageNetV2")
        near(same.text().h[0], golden.tensors["ensemble/text_features"])
    clap, golden = made("CLAP", tiny_clip, dataset="ImageNet", CONSTRAINT="none")
    clap.text()
    near(clap.adapter.prototypes, golden.tensors["imagenet/base_text_features"])


# ------------------------------------------------------------------ CLIP-Adapter


def test_the_adapter(tiny_clip):
    method, golden = made("CLIPAdapter", tiny_clip, support=False)
    shapes = {name: value.shape for name, value in method.public_state_dict().items()}
    assert shapes == {name: value.shape for name, value in golden.part("init/").items()}
    load(method, golden)
    z = golden.tensors["frozen/image_features"]
    near(method.adapter.fc(method.clip_features(golden.tensors["image"])),
         golden.tensors["adapter_output"])  # fmt: skip
    plain, _ = made("CLIPAdapter", tiny_clip, support=False, RATIO=0)
    near(plain.output(golden.tensors["image"]).image.z[:, 0], z)


# ------------------------------------------------------------------ CLAP


@pytest.mark.parametrize("weights", ["", "_corrected", "_constant", "_balanced"])
def test_weights_of_the_constraint(tiny_clip, weights):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT="l2" + weights)
    near(method.adapter.alpha, golden.tensors["alpha/l2" + weights])
    near(method.teacher.raw, golden.tensors["frozen/base_text_features"])
    method.text()
    near(method.adapter.prototypes, golden.tensors["init/adapter.prototypes"])


@pytest.mark.parametrize(("constraint", "block"), [("cosine", "cosine/"), ("none", "zslp/")])
def test_other_constraints(tiny_clip, constraint, block):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT=constraint)
    check_step(load(method, golden), golden, block)


def test_adaptive_weights(tiny_clip):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT="l2_adaptative")
    load(method, golden)
    for epoch in (1, 2):
        method.after_epoch(epoch, 2)
    near(method.adapter.alpha, golden.tensors["adaptative/alpha_after_2"])


def test_steps_on_features_are_those_on_images(tiny_clip):
    method, golden = made("CLAP", tiny_clip)
    load(method, golden).train()
    images, labels = golden.tensors["image"], golden.tensors["label"]
    x = method.clip_features(images)
    near(x, golden.tensors["image_features"], atol=1e-4)
    for terms in (method.losses(images, labels), method.losses(x, labels)):
        near(terms["loss"], golden.tensors["loss"][0])


@pytest.mark.parametrize(
    ("name", "file"),
    [("CLAP", "adapter/model.pth.tar-300"), ("CLIPAdapter", "clip_adapter/model.pth.tar-200")],
)
def test_public_checkpoints(tiny_clip, name, file):
    method, golden = made(name, tiny_clip, support=False)
    checkpoint = torch.load(GOLDEN / f"{FILES[name]}_checkpoint" / file, weights_only=True)
    method.load_checkpoint(Saved.of(checkpoint), golden.meta["classnames"])
    near(method.eval()(golden.tensors["image"]), golden.tensors["logits_eval"], atol=1e-4)
    if name == "CLAP":
        few = golden.meta["classnames"][:4]
        other = build_method(name, {}, tiny_clip, few)
        with pytest.raises(UserError, match="is of 6 classes, but there are 4"):
            other.load_checkpoint(Saved.of(checkpoint), few)


@pytest.mark.parametrize("name", [name for name in FILES if name != "CLIPAdapter"])
def test_some_of_the_classes(tiny_clip, name):
    """Some variants of ImageNet have 200 of its classes."""
    node = ADAPTED if name == "CrossModal" else {}
    method, golden = made(name, tiny_clip, **node)
    names, images = golden.meta["classnames"], golden.tensors["image"]
    few = [names[4], names[1]]
    other, _ = made(name, tiny_clip, support=False, names=few, **node)
    state = saved(method, names)
    other.load_checkpoint(state, few)
    with torch.no_grad():
        expected = method.eval()(images)[:, [4, 1]]
        near(other.eval()(images), expected, atol=1e-4)
        twice = [*names[:3], names[1], *names[4:]]
        other.load_checkpoint(saved(method, twice), few)
        near(other(images), expected, atol=1e-4)
    assert all(len(few) in buffer.shape for key, buffer in other.own_state().items()
               if key.rpartition(".")[2] in ("values", "rho"))  # fmt: skip
    with pytest.raises(UserError, match="has parameters for each class of its training"):
        build_method(name, {}, tiny_clip, ["moon", names[1]]).load_checkpoint(
            state, ["moon", names[1]]
        )


def test_a_checkpoint_of_a_subclass_keeps_the_order_of_classes(tiny_clip):
    """Buffers of another method are not read, but each prototype stays with its class."""
    names = ["cat", "dog", "fish"]
    images = torch.randn(2, 3, 32, 32)
    trained = build_method("CLAP", {}, tiny_clip, names).eval()
    trained.start()
    trained.adapter.prototypes.data.normal_()
    other = build_method("CLAP", {}, tiny_clip, names[::-1]).eval()
    other.load_checkpoint(saved(trained, names, trainer="Derived", class_buffers=None), names[::-1])
    near(other(images).flip(1), trained(images), atol=1e-4)


# ------------------------------------------------------------------ bad input


def test_classifiers_that_do_not_fit(tiny_clip):
    state = {"classifier.weight": torch.zeros(4, 64), "classifier.bias": torch.zeros(4)}
    for name, more in (("LinearProbe", {}), ("LPPlusPlus", {"alpha_vec": torch.zeros(1, 4)})):
        with pytest.raises(UserError, match="is of 4 classes, but there are 2"):
            place = tiny_clip, ["cat", "dog"]
            build_method(name, {}, *place).load_checkpoint(Saved.of(state | more), place[1])


@pytest.mark.parametrize("name", ["CLAP", "GDA", "LPPlusPlus", "TipAdapter", "TransCLIP"])
def test_methods_without_training_images(tiny_clip, name):
    node = {"FEW_SHOT": True} if name == "TransCLIP" else {}
    method, images = build_method(name, node, tiny_clip, ["cat", "dog"]), torch.zeros(2, 3, 32, 32)
    with pytest.raises(UserError, match=f"{name} has seen no training images: train it"):
        method.losses(images, torch.tensor([0, 1])) if name == "CLAP" else method.predict(images)


FEW = [
    ("CLAP", {}, 1, "dog"), ("LPPlusPlus", {}, 1, "dog"), ("GDA", {}, 1, "dog"),
    ("GDA", {"FORM": "base2new"}, 2, "cat"), ("TransCLIP", {"FEW_SHOT": True}, 1, "dog"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "node", "classes", "lacks"), FEW)
def test_classes_with_too_few_images(tiny_clip, name, node, classes, lacks):
    support = {"images": torch.eye(2, 64), "labels": torch.arange(2) % classes}
    with pytest.raises(UserError, match=f"The class '{lacks}' has too few training images for"):
        build_method(name, node, tiny_clip, ["cat", "dog"], support=support)


# ------------------------------------------------------------------ runs


INIT_RANDOM = ["TRAINER.ADAPTER.INIT", "RANDOM", "TRAINER.ADAPTER.CONSTRAINT", "none"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("TipAdapterF", ["TRAINER.TIP_ADAPTER.SEARCH_HP", "True"]),
        ("CLAP", ["TRAINER.ADAPTER.CONSTRAINT", "l2_adaptative"]),
        ("GDA", ["TRAINER.GDA.FORM", "base2new"]),
        ("CrossModal", ["TRAINER.CROSS_MODAL.ITERS", "9"]),
        pytest.param("CLAP", INIT_RANDOM, marks=pytest.mark.slow),
        pytest.param("LinearProbe", [], marks=pytest.mark.slow),
        pytest.param("LPPlusPlus", [], marks=pytest.mark.slow),
        pytest.param("ProLIP", ["TRAINER.PROLIP.AUG_VIEWS", "2"], marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_repeats_the_result_of_the_run(tmp_path, name, keys):
    data, ran, again = (tmp_path / name for name in ("data", "ran", "again"))
    tiny.write_halves(data)
    extra = [*tiny.OF_HALVES, "all", "DATASET.NUM_SHOTS", "2", *keys]
    assert tiny.run(data, name, ran, 2, extra=extra) == 0
    flags = ("--eval-only", "--model-dir", str(ran))
    assert tiny.run(data, name, again, 2, *flags, extra=extra) == 0
    said = [read_predictions(folder) for folder in (ran, again)]
    for key in said[0]:
        np.testing.assert_array_equal(*(found[key] for found in said), err_msg=key)
    run = load_run(ran)
    assert run.classnames == tiny.HALVES and run.model.num_classes == 5
    assert run.model(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_as_many_likeliest_classes_as_there_are_select_no_patch(tiny_clip):
    build_method("LoCoOp", {"TOPK": 2}, tiny_clip, ["cat", "dog", "owl"]).begin_stage(0)
    method = build_method("LoCoOp", {"TOPK": 3}, tiny_clip, ["cat", "dog", "owl"])
    with pytest.raises(UserError, match="topk is 3 of 3 classes, .* no patch is selected"):
        method.begin_stage(0)


def test_labels_take_the_place_of_a_product_of_values():
    cache = KeyValueCache(4, 3, trained=True)
    cache.weight.data = torch.randn(5, 4)
    a = torch.rand(2, 5)

    def labels(values):
        cache.values = values
        near(cache.likeness(a, 2.0), torch.exp(2 * a - 2) @ values)
        return cache.labels()

    one_hot = torch.eye(3)[[0, 2, 2, 1, 0]] * torch.rand(5, 1)
    assert labels(one_hot)[0].tolist() == [0, 2, 2, 1, 0]
    assert cache.labels()[1] is cache.labels()[1]
    cache.values[0] = torch.tensor([0.0, 3.0, 0.0])  # in place, as a checkpoint is loaded
    assert cache.labels()[0].tolist() == [1, 2, 2, 1, 0]
    assert labels(one_hot[:, 1:])[1][4] == 0  # of no class that is kept
    assert labels(torch.rand(5, 3)) is None
    with torch.inference_mode():
        assert labels(one_hot.clone()) is not None


def test_an_earlier_run_has_its_own_sentences_and_their_rule(tmp_path):
    asked = {"DATASET.SENTENCES": "a {}|the {}", "DATASET.SENTENCES_RULE": "mean"}
    saved = Saved(place=str(tmp_path), identity=Identity("CoOp", data=asked), several=False)
    found = settings_of(saved, METHODS["ZeroshotCLIP"], "DTD").sentences
    assert (found.source, found.rule) == ("a {}|the {}", "mean")
