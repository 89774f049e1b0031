"""TCPT's terms: what their golden file has beside a step, other methods, precision, refusals."""

from copy import deepcopy

import pytest
import torch
from golden_files import build, near, read
from models import NAMES, images, settings
from paths import GOLDEN

from trainers.prompting import UserError, build_method
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step

CPU = torch.device("cpu")
CTX = "prompt_learner.ctx"
TERMS = {"margin_mean", "margin_variance", "moments"}
LABELS = torch.tensor([0, 3, 1])


@pytest.fixture
def golden():
    return read(GOLDEN / "tcpt_coop.safetensors")


def small(name, clip_model, **node):
    return build_method(name, settings(name) | {"CALIBRATE": True} | node, clip_model, NAMES)


@pytest.mark.parametrize("group", [("margin_mean", "margin_variance"), ("moments",)])
def test_the_gradient_of_each_term(golden, tiny_clip, tmp_path, group):
    method = build(golden, tiny_clip, tmp_path).train()
    terms = method.losses(golden.tensors["image"], golden.tensors["label"])
    sum(terms[name] for name in group).backward()
    expected = golden.tensors[f"{group[0].partition('_')[0]}/grad/{CTX}"]
    found = method.public_parameters()[CTX].grad
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_three_steps(golden, tiny_clip, tmp_path):
    method, expected = build(golden, tiny_clip, tmp_path).train(), golden.part("steps/")
    learned, how = [*method.learned().values()], {"momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(learned, lr=0.02, **how)
    batch = method.batch(golden.tensors["image"], golden.tensors["label"])
    for loss in expected["loss"]:
        _, terms = training_step(method, batch, optimizer, Precision("fp32", CPU))
        assert near(terms["loss"], loss)
    assert near(method.public_parameters()[CTX], expected[CTX])
    assert near(method.eval()(golden.tensors["image"]), expected["logits_eval"])


def test_features_of_the_untouched_clip(golden, tiny_clip, tmp_path):
    method = build(golden, tiny_clip, tmp_path)
    assert near(method.untouched.h, golden.tensors["frozen/text_features"], 1e-5)


@pytest.mark.parametrize("name", ["MaPLe", "PromptSRC", "KgCoOp", "CLIPLoRA", "TaskRes", "TCP"])
def test_a_plain_sum_with_the_methods_own_loss(tiny_clip, name):
    made = []
    for on in (False, True):
        torch.manual_seed(0)
        made.append(small(name, tiny_clip, CALIBRATE=on).train())
        made[-1].load_public_state_dict(made[0].public_state_dict())
    torch.manual_seed(0)
    plain = made[0].losses([images(3)] * made[0].views, LABELS)
    torch.manual_seed(0)
    terms = made[1].losses([images(3)] * made[0].views, LABELS)
    assert TERMS | {"loss"} <= terms.keys() and not TERMS & plain.keys()
    assert near(terms["loss"], plain["loss"] + sum(terms[name] for name in TERMS), 1e-5)


@pytest.mark.parametrize("precision", ["amp", "fp16", "bf16"])
def test_half_precision_has_the_terms_in_float32(golden, tiny_clip, tmp_path, precision):
    """The public code leaves them out with amp."""
    clip_model, how = deepcopy(tiny_clip), Precision(precision, CPU, half_on_cpu=True)
    method = build(golden, clip_model, tmp_path).train()
    how.place(method, clip_model)
    batch = method.batch(golden.tensors["image"], golden.tensors["label"])
    with how.autocast():
        terms = method.terms(method.output(batch.images), batch)
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        assert near(terms[name], golden.tensors[f"loss/{name}"], 0.05), name


@pytest.mark.parametrize(
    "name, node, said",
    [
        ("CoCoOp", {}, "a text for each image"),
        ("PLOT", {}, "it has 2 prompts a class"),
        ("SkipTuning", {"TOP_RATIO": 0.2}, "compare images with some classes only"),
        ("VPT", {}, "its text does not learn"),
        ("CLIPAdapter", {}, "its text does not learn"),
        ("PromptKD", {}, "its text does not learn"),
        ("ProGrad", {}, "projects gradients"),
    ],
)
def test_refusals(tiny_clip, name, node, said):
    with pytest.raises(UserError, match=f"CALIBRATE is True, but .*{said}"):
        method = small(name, tiny_clip, **node).train()
        method.losses(images(3), torch.empty(0).long() if name == "PromptKD" else LABELS)


def test_images_without_labels_and_single_classes(golden, tiny_clip, tmp_path):
    method, image = build(golden, tiny_clip, tmp_path).train(), golden.tensors["image"]
    batch = method.batch(image, golden.tensors["label"])
    method.loss = lambda output, batch: output.logits.mean()
    with pytest.raises(UserError, match="its images have no label"):
        method.terms(method.output(image), batch._replace(labels=torch.empty(0).long()))
    one = build_method("CoOp", {"CALIBRATE": True}, tiny_clip, ["cat"]).train()
    with pytest.raises(UserError, match="there is no other class"):
        one.losses(images(2), torch.zeros(2).long())


def test_the_key_is_of_methods_that_train():
    assert {name for name, kind in METHODS.items() if "CALIBRATE" in kind.defaults} == {
        name for name, kind in METHODS.items() if kind.trains
    }
    with pytest.raises(UserError, match="TRAINER.ZERO has no key 'CALIBRATE'"):
        read_node(METHODS["ZERO"], {"CALIBRATE": True})
