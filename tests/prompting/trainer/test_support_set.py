"""The support of a method: features of training images, given before the first step."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import tiny
import torch
import torch.nn.functional as F
from paths import ROOT
from torch import nn

from trainers.prompting import (
    Method,
    OnSupport,
    PerClass,
    UserError,
    build_method,
    load_run,
    register,
)
from trainers.prompting.building.support import encode_batches
from trainers.prompting.capabilities.at_test_time import reset
from trainers.prompting.method import METHODS
from trainers.prompting.running.precision import Precision
from trainers.prompting.storage.features import read_features
from trainers.prompting.trainer.feature_rows import clip_of
from trainers.prompting.trainer.loaders import SeededImages
from trainers.prompting.trainer.support_set import shuffled_rows

NAMES = ["forest", "sea", "road"]
IMAGES, LABELS = torch.randn(2, 5, 3, 32, 32), torch.tensor([0, 1, 2, 2, 0])


class Head(nn.Module):
    """A weight for each training image, and a prototype for each class."""

    def __init__(self, dim, K):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.register_buffer("means", torch.zeros(K, dim))
        self.register_buffer("shift", torch.zeros(()))


class Prototypes(OnSupport, PerClass):
    """Classifies by class means of training images."""

    node = "PROTO"
    class_bound = True
    support_passes = property(lambda self: self.settings.PASSES)
    searches = property(lambda self: self.settings.SEARCH)
    taken = 0

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        PASSES: int = 2
        SEARCH: bool = False
        PREC: str = "fp32"

    def build(self, clip_model, classnames, dataset):
        self.head = Head(self.width, len(classnames))

    def logits(self, image, text):
        head = self.head
        of_head = image.z[:, 0] @ (head.means + head.weight.mean(0)).T + head.shift
        return super().logits(image, text) + of_head

    def make_room(self, n):
        self.head.weight.data = self.head.means.new_zeros(n, self.width)

    def take_support(self, features, labels):
        self.features, self.labels = features, labels
        type(self).taken += 1
        weights = F.one_hot(labels, self.num_classes).float()
        self.head.means.copy_(weights.T @ features.mean(0) / weights.sum(0)[:, None])
        self.head.weight.data.copy_(features[0])

    def take_validation(self, features, labels):
        self.head.shift.fill_(len(labels))


@pytest.fixture
def kind():
    Prototypes.taken = 0
    register(Prototypes)
    return Prototypes


def test_support_in_memory(tiny_clip, kind):
    support = {"images": IMAGES, "labels": LABELS}
    method = build_method("Prototypes", {}, tiny_clip, NAMES, support=support)
    with torch.no_grad():
        expected = tiny_clip.encode_image(IMAGES.flatten(0, 1)).unflatten(0, (2, 5))
    torch.testing.assert_close(method.features, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(method.labels, LABELS) and method.training
    once = build_method(
        "Prototypes", {}, tiny_clip, NAMES, support={"images": IMAGES[0], "labels": LABELS}
    )
    torch.testing.assert_close(once.features, method.features[:1], atol=1e-4, rtol=1e-4)


BAD = {
    "shapes": ({"images": IMAGES, "labels": LABELS[:4]}, r"images \(2, 5, 3, 32, 32\), .* \(4,\)"),
    "numbers": ({"images": IMAGES, "labels": LABELS.float()}, "torch.float32: give"),
    "classes": ({"images": IMAGES, "labels": LABELS + 1}, "give for n images n whole .* 0 to 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_support(tiny_clip, kind, case):
    support, sentence = BAD[case]
    with pytest.raises(UserError, match=sentence):
        build_method("Prototypes", {}, tiny_clip, NAMES, support=support)
    with pytest.raises(UserError, match="CoOp takes no support"):
        build_method("CoOp", {}, tiny_clip, NAMES, support=support)


def logits_of(folder):
    return load_run(folder).model(IMAGES[0])


def test_a_run_with_support(tmp_path, kind, capsys):
    """It is taken once, and saved with any length; a resumed run ends with the same bits."""
    frequent = ["TRAIN.CHECKPOINT_FREQ", "1"]
    assert tiny.run(tmp_path, "Prototypes", extra=frequent) == 0
    assert "features of 16 training images, each seen 2 times" in capsys.readouterr().out
    folder = tmp_path / "output" / "prompt_learner"
    last = folder / "model.pth.tar-2"
    state = torch.load(last, weights_only=True)
    assert state["state_dict"]["head.weight"].shape == (16, 64) and kind.taken == 1
    expected = logits_of(tmp_path / "output")

    last.unlink()
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    assert tiny.run(tmp_path, "Prototypes", extra=frequent) == 0
    assert kind.taken == 1 and torch.equal(logits_of(tmp_path / "output"), expected)

    capsys.readouterr()
    evaluate = ["--eval-only", "--model-dir", str(tmp_path / "output")]
    few = ["DATASET.NUM_SHOTS", "1"]
    assert tiny.run(tmp_path, "Prototypes", tmp_path / "few", 2, *evaluate, extra=few) == 0
    assert kind.taken == 1 and "features of" not in capsys.readouterr().out
    other = [*evaluate, "--seed", "2"]  # the last flag counts
    assert tiny.run(tmp_path, "Prototypes", tmp_path / "other", 2, *other,
                    extra=["DATASET.NAME", "TinyOthers"]) == 2  # fmt: skip
    assert "has parameters for each class of its training" in capsys.readouterr().err


def test_a_run_keeps_the_weights_that_it_starts_from(tmp_path, kind):
    assert tiny.run(tmp_path, "Prototypes", None, 1) == 0
    file = tmp_path / "output" / "prompt_learner" / "model.pth.tar-1"
    start = ["MODEL.INIT_WEIGHTS", str(file), "OPTIM.LR", "1e-30"]
    assert tiny.run(tmp_path, "Prototypes", tmp_path / "b", 1, extra=start) == 0
    found, given = (tiny.learned(tmp_path / name, 1) for name in ("b", "output"))
    assert torch.equal(found["head.weight"], given["head.weight"])


def test_validation_images_are_seen_after_the_last_step(tmp_path, kind, capsys):
    search = ["TRAINER.PROTO.SEARCH", "True"]
    assert tiny.run(tmp_path, "Prototypes", extra=search) == 2
    assert (
        "has none besides its test images: switch its search off (SEARCH False), or hold training "
        "images out (DATASET.VALIDATION_SHOTS 4)" in capsys.readouterr().err
    )
    halves = [*search, "DATASET.NAME", "ImageFolder", "DATASET.NUM_SHOTS", "2"]
    root = tiny.write_halves(tmp_path / "images")
    assert tiny.run(root, "Prototypes", tmp_path / "b", 1, extra=halves) == 0
    file = tmp_path / "b" / "prompt_learner" / "model.pth.tar-1"
    assert torch.load(file, weights_only=True)["method"]["head.shift"] == 10


def test_steps_on_features(tmp_path, kind, monkeypatch):
    """Batches are of features, and a resumed run ends with the same bits."""
    monkeypatch.setattr(kind, "trains_on_support", True)
    seen = []
    monkeypatch.setattr(
        "trainers.prompting.method.Method.loss",
        lambda self, output, batch: (
            seen.append(batch.images.shape) or F.cross_entropy(output.logits, batch.labels)
        ),
    )
    frequent = ["TRAIN.CHECKPOINT_FREQ", "1"]
    assert tiny.run(tmp_path, "Prototypes", extra=frequent) == 0
    checks = [(4, 64)] * 2  # a plug-in's method, also built again, after both epochs
    assert seen == [(4, 64)] * 4 + checks + [(4, 64)] * 4 + checks
    folder = tmp_path / "output" / "prompt_learner"
    expected = logits_of(tmp_path / "output")
    (folder / "model.pth.tar-2").unlink()
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    assert tiny.run(tmp_path, "Prototypes", extra=frequent) == 0
    assert kind.taken == 1 and torch.equal(logits_of(tmp_path / "output"), expected)


ON_ROWS = {
    "CLAP", "CLIPAdapter", "CoCoOp", "CoOp", "CrossModal", "DPE", "GDA",
    "KgCoOp", "LPPlusPlus", "StatA",
    "LinearProbe", "ProGrad", "TCP", "TDA", "TaskRes", "TipAdapter", "TipAdapterF", "TransCLIP",
    "ZeroshotCLIP",
}  # fmt: skip
READS = dict.fromkeys(["DualCoOp", "GalLoP", "LoCoOp", "PLOT", "SOTGLP", "TaIDPT"], "reads patches")
READS["TextRefiner"] = "reads states of inner blocks"
INSIDE = {
    "ALIGN": {"M": 1, "N": 1, "DEPTH": 2},
    "CLIPLoRA": {},
    "LNOnly": {},
    "MMRL": {"REP_LAYERS": [2, 3]},
    "MaPLe": {"PROMPT_DEPTH": 2},
    "SkipTuning": {"START_LAYER": 2},
    "TwoSFS": {},
    "UPT": {"PROMPT_DEPTH": 2},
}


@pytest.mark.parametrize("name", sorted(ON_ROWS))
def test_features_stand_for_images(tiny_clip, name):
    node = {"TCP": {"INSERT_BLOCK": 2}, "CrossModal": {"ITERS": 9}}.get(name, {})
    support = {"images": IMAGES[0], "labels": LABELS}
    many = issubclass(METHODS[name], OnSupport) and name != "TransCLIP"
    torch.manual_seed(0)
    model = build_method(name, node, tiny_clip, NAMES, support=support if many else None).eval()
    x = model.clip_features(IMAGES[0])
    assert torch.equal(model.clip_features(x), x)
    reset(model)
    expected = model.predict(IMAGES[0]).logits
    reset(model)
    torch.testing.assert_close(model.predict(x).logits, expected)
    if many:
        rows = {**support, "images": x}
        torch.manual_seed(0)  # LP++ has a random start
        other = build_method(name, node, tiny_clip, NAMES, support=rows).eval()
        torch.testing.assert_close(other(x), expected)
    for wrong in (x[:, 1:], x[0]):
        with pytest.raises(ValueError, match=r"must be \(B, 3, 32, 32\)"):
            model.predict(wrong)


@pytest.mark.parametrize("name", [*READS, *INSIDE])
def test_methods_that_need_more_than_features_say_what(tiny_clip, name):
    model = build_method(name, INSIDE.get(name, {}), tiny_clip, NAMES)
    what = READS.get(name, "learns inside the image encoder")
    with pytest.raises(UserError, match=rf"{name} {what}, so it takes images .B, 3, H, W., not ro"):
        model(torch.zeros(2, 64))


def test_passes_depend_only_on_the_seed():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return i + torch.rand(())

    before = torch.get_rng_state()
    rows = [0, 1, 2] * 2
    found = list(SeededImages(Noisy(), rows, seed=1))
    backwards = [SeededImages(Noisy(), rows, seed=1)[i] for i in reversed(range(6))]
    assert torch.equal(torch.get_rng_state(), before)
    assert found == backwards[::-1] and [int(x) for x in found] == [0, 1, 2] * 2
    assert found != list(SeededImages(Noisy(), rows, seed=2)) and found[0] != found[3]


def test_rows():
    features, labels = torch.arange(10.0)[:, None], torch.arange(10)
    rows = shuffled_rows(features, labels, size=4, most=2)
    batches = list(rows)
    assert len(rows) == 2 and [len(batch["label"]) for batch in batches] == [4, 4]
    drawn = torch.cat([batch["label"] for batch in batches])
    assert len(set(drawn.tolist())) == 8
    assert all(torch.equal(b["img"][:, 0], b["label"].float()) for b in batches)
    (short,) = shuffled_rows(features, labels, size=99, most=1)
    assert len(short["label"]) == 10


@pytest.mark.parametrize("name", ["CLAP", "TipAdapterF"])
def test_sentences_in_half_precision(tiny_clip, name):
    """A method may read them outside of a step, although weights of 16 bits need autocast."""
    clip_model = deepcopy(tiny_clip)
    method = build_method(name, {}, clip_model, NAMES)
    precision = Precision("amp", torch.device("cpu"))
    precision.place(method, clip_model)
    features, labels = encode_batches(method, [{"img": IMAGES[0], "label": LABELS}], precision)
    method.make_room(len(labels))
    method.take_support(features[None], labels)
    method.take_validation(features, labels)
    assert all(p.isfinite().all() and p.any() for p in method.learned().values())


TIP = {"INIT_ALPHA": 2.0, "AUGMENT_EPOCH": 1}
SHOTS = {"FEW_SHOT": True, "GAMMA": [0.01]}


@pytest.mark.parametrize("name, node, steps", [
    ("TipAdapter", TIP, 0), ("TipAdapterF", TIP, 20),
    ("TransCLIP", SHOTS, 0), ("TransCLIP", SHOTS | {"FORM": "released"}, 0),
])  # fmt: skip
@pytest.mark.parametrize("clip", [
    "vit_b_32", *(pytest.param(clip, marks=pytest.mark.slow) for clip in ("rn50", "vit_l_14"))
])  # fmt: skip
def test_classes_of_unequal_size(clip, name, node, steps):
    """10 to 22 images of a class are worth as much as 16 of each."""
    found = read_features(ROOT / "assets" / f"whurs19_{clip}.safetensors")
    x, labels, K = found.image.float(), found.label, len(found.classnames)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    equal = torch.cat([order[labels[order] == k][:16] for k in range(K)])
    accuracy = []
    for rows in (order[: 16 * K], equal):
        support = {"images": x[rows], "labels": labels[rows]}
        clip_model = clip_of(found, "a photo of a {}.")
        model = build_method(name, node, clip_model, found.classnames, support=support)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, eps=1e-4) if steps else None
        for _ in range(steps):
            optimizer.zero_grad()
            model.losses(*support.values())["loss"].backward()
            optimizer.step()
        test = order[~torch.isin(order, rows)]
        right = model.eval().predict(x[test]).logits.argmax(1) == labels[test]
        accuracy.append(100 * float(right.float().mean()))
    assert accuracy[0] > accuracy[1] - 2, accuracy
