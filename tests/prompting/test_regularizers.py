"""ALIGN with the regularisers of other methods."""

import pytest
import torch
from golden_files import read
from newer import IMAGES, LABELS, NAMES, build
from paths import GOLDEN

from trainers.prompting import Teacher, build_method
from trainers.prompting.encoders.templates import KGCOOP, template_of
from trainers.prompting.methods import align
from trainers.prompting.regularizers import PUBLISHED, REGULARIZERS


def test_align_takes_the_regularisers_of_promptsrc(tiny_clip):
    """With settings that make ALIGN the same as IVLP, its terms are those of PromptSRC."""
    golden = read(GOLDEN / "promptsrc.safetensors")
    node = {"M": 1, "N": 1, "BETA": 0, "COUPLING": "independent", "N_CTX": 4, "DEPTH": 3}
    names = ["scl_text", "scl_image", "scl_logits"]
    method = build_method(
        "ALIGN",
        node | {"REGULARIZERS": names},
        tiny_clip,
        golden.meta["classnames"],
        golden.meta["dataset"],
    )
    with torch.no_grad():
        own = method.public_parameters()
        for name, value in golden.params.items():
            own[name].copy_(value.reshape(own[name].shape))
    terms = method.train().losses(golden.tensors["image"], golden.tensors["label"])
    assert set(terms) == {"loss", "ce", *names}
    for name, value in golden.part("loss/").items():
        assert terms[name].item() == pytest.approx(value.item(), abs=2e-4)


def test_align_takes_kgcoops_regulariser_with_any_number_of_prompts(tiny_clip):
    node = {"M": 2, "N": 3, "REGULARIZERS": ["kg", "scl_image"]}
    method = build("ALIGN", tiny_clip, **node, REGULARIZER_WEIGHTS=[2.0, 0.5])
    terms = method.train().losses(IMAGES, LABELS)
    method.backward(terms)
    grads = {name: p.grad for name, p in method.public_parameters().items()}
    output = method.output(IMAGES)
    h0 = Teacher(tiny_clip, NAMES, [template_of(KGCOOP, "EuroSAT")]).h
    z0 = Teacher(tiny_clip, NAMES, []).z(IMAGES)
    kg = 2 * (1 - (output.text.h * h0).sum(-1).mean())
    assert terms["kg"].item() == pytest.approx(kg.item(), abs=1e-5)
    image = 0.5 * (output.image.z - z0[:, None]).abs().mean()
    assert terms["scl_image"].item() == pytest.approx(image.item(), abs=1e-5)
    assert all(grad.isfinite().all() and grad.any() for grad in grads.values())
    plain = build("ALIGN", tiny_clip, M=2, N=3)
    assert set(plain.train().losses(IMAGES, LABELS)) == {"loss"}
    assert set(PUBLISHED) == set(REGULARIZERS)


def test_align_without_regularisers_has_no_teacher(tiny_clip, monkeypatch):
    def refuse(*args):
        raise AssertionError("a teacher, or a regulariser, without need")

    monkeypatch.setattr(align, "Teacher", refuse)
    monkeypatch.setattr(align, "regularize", refuse)
    assert set(build("ALIGN", tiny_clip, M=2, N=2).losses(IMAGES, LABELS)) == {"loss"}
