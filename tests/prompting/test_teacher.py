"""Teachers: a CLIP without a method, which is not learned or saved, and moves with the method."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_method import IMAGES, LABELS, NAMES, Mine, build

from trainers.prompting import Teacher, build_method


def test_the_teacher_is_zero_shot_clip(tiny_clip):
    zero_shot = build_method("ZeroshotCLIP", {}, tiny_clip, NAMES).eval()
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    logits = teacher.logits(teacher.z(IMAGES))
    assert torch.allclose(logits, zero_shot(IMAGES), atol=1e-4)
    assert not teacher.h.requires_grad and teacher.h is teacher.h
    several = Teacher(tiny_clip, NAMES, ["a photo of a {}.", "a photo of the {}."])
    assert not torch.allclose(several.h, teacher.h, atol=1e-4)


def test_a_teacher_of_several_sentences(tiny_clip):
    """Features are averaged, then normalised; `h_each` has them for each sentence."""
    templates = ["a photo of a {}.", "a photo of many {}.", "a sculpture of a {}."]
    teacher = Teacher(tiny_clip, NAMES, templates)
    alone = [Teacher(tiny_clip, NAMES, [template]).h for template in templates]
    assert torch.allclose(teacher.h_each, torch.stack(alone), atol=1e-6)
    given = Teacher(tiny_clip, NAMES, [[t.format(n) for n in NAMES] for t in templates])
    assert torch.equal(given.h, teacher.h)


class Student(Mine):
    """Learns from a second CLIP, which has other weights."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        other = copy.deepcopy(clip_model)
        other.text_projection.data.mul_(2)
        self.teacher = Teacher(other, classnames, ["a photo of a {}."])

    def loss(self, output, batch):
        return F.mse_loss(output.text.h[0], self.teacher.h.to(output.text.h))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("to", [torch.float64, "meta"])
def test_a_teacher_with_another_clip_moves_with_the_method(tiny_clip, to, early):
    """Its features, too, if they have been computed before."""
    method = build(Student, copy.deepcopy(tiny_clip))
    other = method.teacher.clip_model
    before = method.teacher.h if early else None
    method.to(to)

    def moved(x):
        return x.device.type == "meta" if to == "meta" else x.dtype == to

    assert all(moved(p) for p in (*other.parameters(), *method.learned().values()))
    if early:
        assert moved(method.teacher.h) and method.teacher.h.shape == before.shape
    assert not any(p.requires_grad for p in other.parameters())


def test_a_teacher_is_neither_learned_nor_saved(tiny_clip):
    method, plain = build(Student, copy.deepcopy(tiny_clip)), build(Mine, tiny_clip)
    before = {name: value.clone() for name, value in method.teacher.clip_model.state_dict().items()}
    method.backward(method.train().losses(IMAGES, LABELS))
    assert method.state_dict().keys() == plain.state_dict().keys()
    assert set(method.learned()) == set(method.public_state_dict()) == {"prompt_learner.ctx"}
    assert not method.own_state() and not list(method.teacher.parameters())
    after = method.teacher.clip_model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("name", "node"),
    [("TCP", {"INSERT_BLOCK": 2}), ("CLAP", {"CONSTRAINT": "none"}), ("ProGrad", {})],
)
def test_a_step_may_follow_an_inference(tiny_clip, name, node):
    """Features that inference mode computes first are kept for training, too."""
    method = build_method(name, node, tiny_clip, NAMES).eval()
    with torch.inference_mode():
        method(IMAGES)
    method.train()
    method.backward(method.losses(IMAGES, LABELS))
    assert any(p.grad is not None for p in method.learned().values())


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("ALIGN", {"DEPTH": 2, "REGULARIZERS": ["kg", "scl_text"]}),
        ("CoPrompt", {"PROMPT_DEPTH": 2, "SENTENCES": {"*": ["a {}."]}}),
    ],
)
def test_kept_features_of_every_teacher_move_with_the_method(tiny_clip, name, node):
    method = build_method(name, node, copy.deepcopy(tiny_clip), NAMES)
    method.losses([IMAGES] * method.views if method.views > 1 else IMAGES, LABELS)
    found = [module for module in method.modules() if isinstance(module, Teacher)]
    assert len(found) == (2 if name == "ALIGN" else 1)
    method.double()
    assert all(value.dtype == torch.float64 for each in found for value in each._text.values())


def test_logits_of_a_teacher_are_not_rounded(tiny_clip):
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    z = teacher.z(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher.logits(z).dtype == torch.float32
