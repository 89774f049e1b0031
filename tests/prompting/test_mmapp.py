"""MMA++: what its golden file has beside a step, the draws of a training, sentences, mistakes."""

import pytest
import torch
from golden_files import build, fix_draws, near, read
from paths import GOLDEN
from torch import nn

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.encoders.descriptions import Asked

ABOUT = {"cat": ["a cat.", "the cat sat."], "dog": ["a dog.", "one dog", "the dog of a king."]}
SMALL = {"ADAPTER_START": 2, "ADAPTER_END": 3}


@pytest.fixture
def golden():
    return read(GOLDEN / "mmapp.safetensors")


def small(clip_model, sentences=None, **node):
    asked = Asked(sentences) if sentences else None
    return build_method("MMAPP", SMALL | node, clip_model, ["cat", "dog"], sentences=asked)


def step(method, golden):
    """Return the terms of a step, with its gradients."""
    method.train().zero_grad()
    terms = method.losses(golden.tensors["image"], golden.tensors["label"])
    method.backward(terms)
    return terms


def test_features_of_a_test_and_other_classes(golden, tiny_clip, tmp_path):
    method = build(golden, tiny_clip, tmp_path).eval()
    assert near(method.text().h[0], golden.tensors["eval/text"], 1e-5)
    names = golden.meta["new_classnames"]
    node = {k: v for k, v in golden.meta["config"].items() if k != "TEXT_CTX_INIT"}
    about = Asked(golden.meta["sentences"])
    other = build_method("MMAPP", node, tiny_clip, names, "EuroSAT", sentences=about).eval()
    state = {"state_dict": golden.params, "classnames": golden.meta["classnames"]}
    other.load_checkpoint(Saved.of(state), names)
    assert near(other(golden.tensors["image"]), golden.tensors["logits_eval_new"])


def test_three_steps(golden, tiny_clip, tmp_path):
    method, expected = build(golden, tiny_clip, tmp_path), golden.part("steps/")
    how = {"lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(method.learned().values(), **how)
    for sentence, u, loss in zip(*(expected[x] for x in ("sentence", "u", "loss")), strict=True):
        fix_draws(method, sentence, u)
        assert near(step(method, golden)["loss"], loss)
        optimizer.step()
        method.eval()(golden.tensors["image"])  # its scale does not stay
    assert near(method.eval()(golden.tensors["image"]), expected["logits_eval"])


def test_a_second_step_has_the_scale_of_training_again(golden, tiny_clip, tmp_path):
    method = build(golden, tiny_clip, tmp_path)
    fix_draws(method, *(golden.tensors[f"steps/{x}"][0] for x in ("sentence", "u")))
    first = step(method, golden)["loss"]
    images, labels = golden.tensors["image"], golden.tensors["label"]
    assert near(method.losses(images, labels)["loss"], first, 1e-6)  # `train` is not called


def test_public_code_keeps_the_scale_of_a_test(golden, tiny_clip, tmp_path):
    theirs = golden.meta["config"]["ADAPTER_TEST_SCALE"]
    method = build(golden, tiny_clip, tmp_path, ADAPTER_TRAIN_SCALE=theirs)
    terms = step(method, golden)
    for name, value in golden.part("after_eval/loss").items():
        assert near(terms[name.lstrip("/") or "loss"], value), name


class Mask(nn.Module):
    """Multiplies states of whole sentences or images by a mask, (sequence, position, dim)."""

    def __init__(self, main, other, eos):
        super().__init__()
        self.masks, self.eos = [main, other], eos

    def forward(self, x):
        mask = self.masks.pop(0)
        if x.dim() == 3 and x.shape[:2] == (1, len(mask)):  # the last block is read at EOS
            mask = mask[torch.arange(len(mask)), self.eos][None]
        elif len(x) == 1:  # whole sentences, one after another
            mask = mask[:, : x.shape[1] // len(mask)].flatten(0, 1)[None]
        elif x.shape[1] < mask.shape[1]:  # the last block is read at the class token
            mask = mask[:, : x.shape[1]]
        return x * mask.view(x.shape) / 0.75


def test_dropout_has_its_own_masks_in_each_pass(golden, tiny_clip, tmp_path):
    method, of_drop = build(golden, tiny_clip, tmp_path, ADAPTER_DROP=0.25), golden.part("dropout/")
    fix_draws(method, of_drop["sentence"], of_drop["u"])
    encoder = method.text_encoder
    encoder.packs_on = ()  # so that no position is shared
    encoder.draw()
    eos = torch.tensor([sentence.eos for sentence in encoder.sentences[0]])
    for side in ("text", "visual"):
        for j in ("2", "3", "4"):
            masks = [of_drop[f"mask/{of}/{side}/{j}"] for of in ("main", "reg")]
            i = int(j) - 1
            bypass = method.blocks("image" if side == "visual" else "text")[i].beside
            shared = bypass.shared
            bypass.shared = nn.Sequential(shared[0], shared[1], Mask(*masks, eos))
    terms = step(method, golden)
    for name, value in golden.part("dropout/loss").items():
        assert near(terms[name.lstrip("/") or "loss"], value), name
    norm = torch.stack([p.grad.norm() for p in method.learned().values()]).norm()
    assert abs(norm / of_drop["grad_norm_all"] - 1) < 1e-3


def test_draws_reach_every_sentence_and_no_step_repeats_them(tiny_clip):
    method, seen = small(tiny_clip, ABOUT).train(), set()
    for _ in range(40):
        method.text_encoder.draw()
        seen |= {(k, tuple(s.ids)) for k, s in enumerate(method.text_encoder.sentences[0])}
    assert len(seen) == 5
    scales = {method.draw_scale() for _ in range(20)}
    assert len(scales) == 20 and min(scales) >= 0 and max(scales) < 0.01


def test_lists_of_other_lengths_are_averaged_by_class(tiny_clip):
    method = small(tiny_clip, ABOUT).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.mul_(0) if parameter.requires_grad else None
    plain = build_method("ZeroshotCLIP", {}, tiny_clip, ["cat", "dog"], sentences=Asked(ABOUT))
    assert near(method.text().h, plain.eval().text().h, 1e-5)


@pytest.mark.parametrize(
    "sentences, node, said",
    [
        (None, {"INPUT_PROMPTS": "cupl"}, "INPUT_PROMPTS is cupl but there are no sentences"),
        ({"cat": ["a cat"]}, {}, "no list of sentences for the class 'dog'"),
    ],
)
def test_mistakes(tiny_clip, sentences, node, said):
    with pytest.raises(UserError, match=said):
        small(tiny_clip, sentences, **node)
