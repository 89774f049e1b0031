"""CrossModal: parity with a whole public training, the samples, what is refused."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import node_of, read
from paths import GOLDEN

from trainers.prompting import build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.encoders.class_text import ClassText
from trainers.prompting.methods import crossmodal
from trainers.prompting.trainer.loaders import SeededImages

BLOCKS = {
    "": {},
    "adapter/": {"CLASSIFIER_HEAD": "adapter"},
    "uni_modal/": {"MODALITY": "uni_modal", "CLASSIFIER_INIT": "random", "BATCH_SIZE": 4},
}


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "crossmodal_linear.safetensors")


def untrained(golden, clip_model, monkeypatch, block="", **more):
    """Return a method at the start of the file, which draws as the file does."""
    meta, tensors = golden.meta, golden.tensors
    node = node_of(golden, **BLOCKS[block] | more)
    method = build_method("CrossModal", node, clip_model, meta["classnames"], meta["dataset"])
    method.validation_follows = True
    method.make_room(len(golden.support["labels"]))
    method.take_support(golden.support["images"], golden.support["labels"])
    assert alike(method.teacher.h, tensors["zero_shot/weight"])
    method.begin = {name: tensors[f"{block}init/{name}"] for name in method.begin}
    drawn = iter([tensors["steps/image_index"], tensors["steps/text_index"]])
    monkeypatch.setattr(crossmodal, "draw_batches", lambda n, size: iter(next(drawn)))
    return method.eval()


def alike(found, expected):
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_whole_training(tiny_clip, golden, monkeypatch, capsys, block, share):
    method = untrained(golden, tiny_clip, monkeypatch, block, WISEFT=share)
    tensors = golden.tensors
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
def test_a_batch(tiny_clip, golden, monkeypatch, block):
    """The loss of the first step, from the file's parameters, and its gradients."""
    method = untrained(golden, tiny_clip, monkeypatch, block, ITERS=1, LR=1e-30)
    state = golden.part(f"{block}param/")
    method.load_public_state_dict(state)
    method.begin, grads = state, {}
    for name, p in method.learned().items():
        p.register_hook(lambda grad, name=name: grads.update({name: grad}))
    losses, cross_entropy = [], F.cross_entropy
    monkeypatch.setattr(
        F, "cross_entropy", lambda *given: losses.append(cross_entropy(*given)) or losses[-1]
    )
    assert [*method.steps()] == [1]
    assert alike(losses[0].detach(), golden.tensors[f"{block}loss"][0])
    expected = golden.part(f"{block}grad/")
    assert grads.keys() == expected.keys()
    assert all(alike(grads[name], value) for name, value in expected.items())


def test_the_rates(tiny_clip, golden, monkeypatch):
    method = untrained(golden, tiny_clip, monkeypatch)
    made, schedule = [], torch.optim.lr_scheduler.LambdaLR
    monkeypatch.setattr(
        torch.optim.lr_scheduler,
        "LambdaLR",
        lambda *given: made.append(schedule(*given)) or made[0],
    )
    rates = []
    for _ in method.steps():
        rates += made[0].get_last_lr()  # of the next step
    expected = golden.tensors["steps/lr"]
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


def test_some_of_the_classes(tiny_clip, golden):
    names, image = golden.meta["classnames"], golden.tensors["image"]
    node = node_of(golden, ITERS=3, CLASSIFIER_HEAD="adapter")
    method = build_method("CrossModal", node, tiny_clip, names, "EuroSAT", golden.support).eval()
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    state |= {"trainer": "CrossModal", "classnames": names, "class_buffers": {}}
    two = [names[4], names[1]]
    other = build_method("CrossModal", node, tiny_clip, two, "EuroSAT").eval()
    other.load_checkpoint(Saved.of(state), two)
    with torch.no_grad():
        assert alike(other(image), method(image)[:, [4, 1]])
