"""Buffers of a method are saved and loaded with its trained parameters."""

import shutil
import sys
from dataclasses import dataclass

import pytest
import tiny
import torch
from torch import nn

from trainers.prompting import Added, Method, Staged, Teacher, UserError, load_run, register
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.node import read_node
from trainers.prompting.trainer.trainer import PromptTrainer

NAMES = sorted(tiny.COLOURS)
OTHERS = ["river", "pasture land", "industrial", "residential"]


class Mine(CoOp):
    """A CoOp with a context of two words."""

    node = "MINE"
    class_bound = False
    start = ""
    position = "end"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        N_CTX: int = 2
        PREC: str = "fp32"


class Kept(Mine):
    """With a BatchNorm, a count of steps, and a cache whose length is not known in advance."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.norm = nn.BatchNorm1d(self.width)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("cache", torch.empty(0, self.width))

    def image_features(self, images, contexts):
        features = super().image_features(images, contexts)
        return features._replace(z=self.norm(features.z[:, 0])[:, None])

    def loss(self, output, batch):
        self.steps += 1
        self.cache = torch.cat([self.cache, output.image.z[:, 0].detach()])
        return super().loss(output, batch)


class Odd(Staged, Mine):
    """With buffers of every type, and a module with extra state."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        kinds = [torch.bfloat16, torch.complex64, torch.bool, torch.long]
        for i, kind in enumerate(kinds):
            self.register_buffer(f"of_kind_{i}", torch.zeros(4, dtype=kind))
        self.register_buffer("sparse", torch.eye(4).to_sparse())
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1).T)
        self.register_buffer("none", None)
        self.counter = Counter()

    def after_epoch(self, epoch, last):
        self.counter.number = epoch


class Counter(nn.Module):
    number = 0

    def get_extra_state(self):
        return {"number": self.number}

    def set_extra_state(self, state):
        self.number = state["number"]


class Taught(Mine):
    """With features of a frozen teacher, made from the class names and not saved."""

    persistent = False

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        h = Teacher(clip_model, classnames, ["a photo of a {}."]).h
        self.register_buffer("h0", h, persistent=self.persistent)


class Saved(Taught):
    """The same, but saved: loading them for other classes would be wrong."""

    persistent = True


class Bound(Staged, Mine):
    """With a prototype for each class, learned in training."""

    class_bound = True

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.register_buffer("prototypes", torch.zeros(len(classnames), 3))

    def after_epoch(self, epoch, last):
        self.prototypes += 1


class Headed(Mine):
    """With a trained row for each class, but without `class_bound`."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.head = nn.Linear(1, len(classnames), bias=False)

    def text_features(self, contexts):
        features = super().text_features(contexts)
        return features._replace(h=features.h * self.head.weight)


KINDS = Kept, Odd, Taught, Saved, Bound, Headed


@pytest.fixture(scope="module", autouse=True)
def registered():
    for kind in KINDS:
        register(kind)
    yield
    for kind in KINDS:
        del METHODS[kind.__name__]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each method: of two epochs where a test resumes it, else of one."""
    root, streams = tmp_path_factory.mktemp("runs"), (sys.stdout, sys.stderr)
    for kind in KINDS:
        epochs = 2 if kind in (Kept, Odd) else 1
        assert tiny.run(root, kind.__name__, root / kind.__name__, epochs) == 0
        sys.stdout, sys.stderr = streams
    return root


def checkpoint(folder, epoch=2):
    path = folder / "prompt_learner" / f"model.pth.tar-{epoch}"
    return path, torch.load(path, weights_only=True)


@pytest.fixture
def built(monkeypatch):
    """The methods of the runs in a test, each after its evaluation."""
    found, test = [], PromptTrainer.test

    def seen(self, *args):
        result = test(self, *args)
        found.append(self.method)
        return result

    monkeypatch.setattr(PromptTrainer, "test", seen)
    return found


@pytest.mark.slow
def test_an_evaluation_and_load_run_have_the_buffers(runs, built, tmp_path, capsys):
    _, saved = checkpoint(runs / "Kept")
    assert "norm.running_mean" not in str(saved["state_dict"].keys())  # the public layout
    own = saved["method"]
    assert own["steps"] == 8 and len(own["cache"]) == 32
    assert own["norm.running_mean"].abs().sum() > 0
    flags = "--eval-only", "--model-dir", str(runs / "Kept")
    assert tiny.run(runs, "Kept", tmp_path / "eval", 2, *flags) == 0
    state = built[0].own_state()
    assert state.keys() == own.keys() and all(torch.equal(state[k], own[k]) for k in own)
    loaded = load_run(runs / "Kept")
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(loaded.model(x), built[0](x))
    norm = loaded.model.norm
    assert torch.equal(norm.running_mean, own["norm.running_mean"])


def test_buffers_of_every_kind(runs, built, tmp_path):
    flags = "--eval-only", "--model-dir", str(runs / "Odd")
    assert tiny.run(runs, "Odd", tmp_path / "eval", 2, *flags) == 0
    assert built[0].counter.number == 2
    assert load_run(runs / "Odd", classnames=OTHERS[:3]).classnames == OTHERS[:3]


def test_a_resumed_run_has_the_buffers(runs, tmp_path):
    with tiny.killed_after(epoch=1):
        assert tiny.run(runs, "Kept", tmp_path / "parts") == 130
    assert tiny.run(runs, "Kept", tmp_path / "parts") == 0
    whole, parts = (checkpoint(f)[1]["method"] for f in (runs / "Kept", tmp_path / "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


def test_buffers_under_other_classes(runs, capsys):
    x = torch.randn(2, 3, 32, 32)
    other = load_run(runs / "Kept", classnames=OTHERS)
    assert other.model.norm.running_mean.abs().sum() > 0
    assert load_run(runs / "Taught", classnames=OTHERS[:3]).model(x).shape == (2, 3)
    for names in (OTHERS, OTHERS[:3]):  # as many classes as it was trained on, and fewer
        with pytest.raises(UserError, match=r"'h0' .* depends on the classes.*persistent=False"):
            load_run(runs / "Saved", classnames=names)
        with pytest.raises(UserError, match="Bound .* use it only on those classes"):
            load_run(runs / "Bound", classnames=names)
    for name in ("Saved", "Bound"):
        assert load_run(runs / name).classnames == list(tiny.COLOURS)


def test_contexts_of_each_class_are_not_those_of_others(tmp_path, capsys):
    pairs = ["TRAINER.COOP.CSC", "True"]
    assert tiny.run(tmp_path, "CoOp", tmp_path / "out", 1, extra=pairs) == 0
    flags = "--eval-only", "--model-dir", str(tmp_path / "out")
    pairs += ["DATASET.NAME", "TinyOthers"]
    assert tiny.run(tmp_path, "CoOp", tmp_path / "eval", 1, *flags, extra=pairs) == 2
    assert "for each class of its training" in capsys.readouterr().err.splitlines()[-1]


def changed(runs, folder, saved, **entries):
    """Write a checkpoint with other entries into a folder, as that of a run."""
    shutil.copy(runs / saved["trainer"] / "run.json", folder)
    (folder / "prompt_learner").mkdir()
    torch.save(saved | entries, folder / "prompt_learner" / "model.pth.tar-2")


@pytest.mark.parametrize(("group", "key"), [("training", "SEED"), ("settings", "N_CTX")])
def test_a_checkpoint_beside_the_run_json_of_another_run(runs, tmp_path, group, key):
    _, saved = checkpoint(runs / "Kept")
    own = saved["identity"]
    place = next(place for place in own[group] if place.endswith(key))
    changed(runs, tmp_path, saved, identity=own | {group: own[group] | {place: 99}})
    there = own[group][place]
    with pytest.raises(UserError, match=rf"\({place} is 99 here and {there} there\): give a whole"):
        load_run(tmp_path)


BROKEN = {
    "no mapping": (lambda own: 7, "has no valid 'method'"),
    "no tensor": (lambda own: own | {"steps": "x"}, "'steps' is a str"),
    "shape": (lambda own: own | {"steps": torch.zeros(3)}, "'steps' has shape (3,)"),
    "nan": (lambda own: own | {"cache": own["cache"] * torch.nan}, "'cache' holds"),
    "missing": (lambda own: {k: v for k, v in own.items() if k != "steps"}, "of another method"),
    "unknown": (lambda own: own | {"more": torch.zeros(3)}, "of another method"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_state_that_does_not_fit(runs, tmp_path, case):
    change, said = BROKEN[case]
    _, saved = checkpoint(runs / "Kept")
    changed(runs, tmp_path, saved, method=change(saved["method"]))
    with pytest.raises(UserError) as error:
        load_run(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_that_does_not_say_what_depends_on_its_classes(runs, tmp_path):
    _, saved = checkpoint(runs / "Taught", epoch=1)
    changed(runs, tmp_path, saved, class_buffers=None)
    assert load_run(tmp_path).classnames == list(tiny.COLOURS)
    with pytest.raises(UserError, match="does not say which buffers depend on its classes"):
        load_run(tmp_path, classnames=OTHERS)


def test_kept_text_features_follow_the_buffers(tiny_clip):
    """Those that change what `text_features` returns, and those inside of the encoder."""

    class Shifted(Method):
        node = "SHIFTED"
        Settings = Mine.Settings

        def build(self, clip_model, classnames, dataset):
            self.register_buffer("by", torch.zeros(()))

        def text_features(self, contexts):
            features = super().text_features(contexts)
            return features._replace(h=features.h + self.by)

    class Entering(Shifted):
        def blocks(self, side):
            tokens = self.by * torch.arange(256.0).reshape(2, 128).sin()
            return {1: Added(enter=tokens)} if side == "text" else {}

        text_features = Method.text_features

    for kind in (Shifted, Entering):
        method = kind(read_node(kind, {}), tiny_clip, NAMES).eval()
        before = method.text().h
        assert torch.equal(method.text().h, before)
        method.by += 1
        if kind is Shifted:
            assert torch.equal(method.text().h, before + 1)
        else:
            assert (method.text().h - before).abs().max() > 1e-3


def test_a_head_that_does_not_fit_other_classes(runs):
    said = "'head.weight' has something for each of the 4 classes of .*`class_bound = True`"
    with pytest.raises(UserError, match=said) as error:
        load_run(runs / "Headed", classnames=OTHERS[:3])
    assert "N_CTX" not in str(error.value)
