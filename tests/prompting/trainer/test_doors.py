"""Methods that are not trained, adapt to test images, or cannot name other classes."""

import json
from dataclasses import dataclass

import pytest
import torch
from dassl.utils import read_image
from tiny import HALVES, OF_HALVES, learned, results, run, write_halves

import trainers.prompting.trainer.evaluation as evaluation
from benchmark.__main__ import main
from trainers.prompting import AtTestTime, Method, load_clip, load_run, register, word_embeddings
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.record.predictions import ARRAYS, read_predictions

WORDS = ["TRAINER.COOP.CTX_INIT", "a photo of a"]


class Still(CoOp):
    """A CoOp whose context is not trained."""

    trains = False


class Relative(CoOp):
    """A CoOp that returns log-probabilities."""

    joint = False

    def logits(self, image, text):
        return super().logits(image, text).log_softmax(-1)


class Streamed(AtTestTime):
    """Compares an image with the mean of those before it, too."""

    node = "STREAMED"
    trains = False

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        PREC: str = "fp32"

    def build(self, clip_model, classnames, dataset):
        self.register_buffer("seen", torch.empty(0, self.width), persistent=False)
        self.begun = []  # the length of the state whenever it was emptied: twice by a check

    def predict(self, images):
        output = self.output(images)
        self.seen = torch.cat([self.seen, output.image.z[:, 0]])
        shift = (output.image.z[:, 0] * self.seen.mean(0)).sum(-1, keepdim=True)
        weights = torch.arange(self.num_classes).add(1).to(shift)
        return output._replace(logits=output.logits + 9 * weights * shift)

    def reset(self):
        self.begun.append(len(self.seen))
        self.seen = self.seen[:0]


class Redone(CoOp):
    """A CoOp with an `output` of its own."""

    def output(self, images):
        output = super().output(images)
        return output._replace(logits=output.logits * 2)


@pytest.fixture(autouse=True)
def registered():
    for kind in (Still, Relative, Streamed, Redone):
        register(kind)


@pytest.fixture
def built(monkeypatch):
    """The methods that are built in a test."""
    found, before = [], Method.__init__

    def init(self, *args):
        before(self, *args)
        found.append(self)

    monkeypatch.setattr(Method, "__init__", init)
    return found


def test_what_a_method_learns_is_not_trained_if_it_says_so(tmp_path, capsys):
    out, plain = tmp_path / "out", tmp_path / "plain"
    assert run(tmp_path, "Still", out, extra=WORDS) == 0
    assert "Still has nothing to train: evaluating" in capsys.readouterr().out
    backbone = results(out)["backbone"]
    assert torch.equal(learned(out, 0)["ctx"], word_embeddings(load_clip(backbone), "a photo of a"))
    assert run(tmp_path, "CoOp", plain, 1, "--eval-only", extra=WORDS) == 0
    assert results(out)["accuracy"] == results(plain)["accuracy"]
    assert torch.equal(load_run(out).model.prompt_learner.ctx, learned(out, 0)["ctx"])


def test_such_a_method_starts_from_given_weights(tmp_path):
    trained, out = tmp_path / "trained", tmp_path / "out"
    assert run(tmp_path, "CoOp", trained, 1, extra=WORDS) == 0
    given = trained / "prompt_learner" / "model.pth.tar-1"
    start = ["MODEL.INIT_WEIGHTS", str(given)]
    assert run(tmp_path, "Still", out, extra=[*WORDS, *start]) == 0
    assert torch.equal(learned(out, 0)["ctx"], learned(trained, 1)["ctx"])
    assert results(out)["accuracy"] == results(trained)["accuracy"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Relative", "depend on all classes, or it cannot name others"),
        ("Streamed", "depend on the test images of its own classes (`predict`)"),
        ("Redone", "are computed by an `output` of its own, without `from_features`"),
    ],
)
def test_the_union_is_left_out_with_its_reason(tmp_path, capsys, name, reason):
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    assert run(data, name, out, 1, extra=[*OF_HALVES, "base"]) == 0
    note = results(out)["joint_note"]
    assert note == f"the logits of {name} {reason}"
    said = capsys.readouterr().out
    assert f"Base and new classes together are left out: {note}" in said
    assert results(out)["temperature"] and "joint_accuracy" not in results(out)


def test_validation_images_leave_no_trace(tmp_path, monkeypatch, built):
    """Every evaluation starts with an empty state, which is not saved."""
    data, out, plain = write_halves(tmp_path / "data"), tmp_path / "out", tmp_path / "plain"
    base = [*OF_HALVES, "base"]
    assert run(data, "Streamed", out, extra=base) == 0
    (method,) = built
    assert method.begun == [0, 6, 0] and len(method.seen) == 9
    assert "seen" not in method.own_state()
    monkeypatch.setattr(evaluation, "_temperature", lambda *args: None)
    assert run(data, "Streamed", plain, extra=base) == 0
    said, same = read_predictions(out), read_predictions(plain)
    assert all((said[name] == same[name]).all() for name in ARRAYS)


def test_images_of_other_data_are_another_stream(tmp_path, built):
    assert run(tmp_path, "Streamed", extra=["TEST.OOD", "['TinyOthers']"]) == 0
    assert built[0].begun == [0, 16] and len(built[0].seen) == 12


def test_a_method_that_adapts_to_images_predicts_but_is_not_exported(tmp_path, capsys):
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    assert run(data, "Streamed", out, extra=[*OF_HALVES, "all"]) == 0
    capsys.readouterr()
    images = sorted(data.rglob("*.png"))[:5]
    words = ["predict", "--model-dir", str(out), "--format", "json", *map(str, images)]
    assert main([*words, "--top", "1", "--batch-size", "2"]) == 0
    found = [answer["classes"][0]["class"] for answer in json.loads(capsys.readouterr().out)]
    loaded = load_run(out)
    x = torch.stack([loaded.preprocess(read_image(str(path))) for path in images])
    with torch.no_grad():
        logits = torch.cat([loaded.model.predict(part).logits for part in x.split(2)])
    assert found == [loaded.classnames[k] for k in logits.argmax(1)]
    assert set(loaded.classnames) == set(HALVES)
    for suffix in ("pt2", "safetensors"):
        file = tmp_path / f"x.{suffix}"
        assert main(["export", "--model-dir", str(out), "--output", str(file)]) == 2
        assert "adapts to the images that it classifies" in capsys.readouterr().err
        assert not file.exists()
