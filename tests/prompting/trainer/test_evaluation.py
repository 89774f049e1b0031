"""Predictions over base and new classes together, and the temperature of the logits."""

import numpy as np
import pytest
import torch
from cases import slow_but
from dassl.utils import read_image
from models import MORE, settings
from scipy.special import log_softmax
from tiny import HALVES, OF_HALVES, results, run, write_halves

import trainers.prompting.trainer.trainer as trainer
from datasets.base import ImageDataset
from trainers.prompting import build_method, load_run
from trainers.prompting.building.rebuild import for_classes
from trainers.prompting.capabilities.per_class import scored_as_others
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS
from trainers.prompting.record.calibration import fit_temperature
from trainers.prompting.record.predictions import ARRAYS, read_predictions
from trainers.prompting.trainer.evaluation import Recorder

JOINT = {
    "joint_label", "joint_prediction", "joint_probability", "base_probability",
    "joint_label_log_probability", "joint_scaled_probability",
}  # fmt: skip
COLUMNS = {*ARRAYS, "mcm", "scaled_probability", *JOINT}
BASE, NEW = HALVES[:3], HALVES[3:]
OURS = [
    name
    for name, kind in METHODS.items()
    if kind.__module__.startswith("trainers.")
    and not kind.class_bound
    and name != "RAM"  # whose patches read the names
]
POINTS = {name: (name, {}) for name in OURS} | {
    name: point for name, point in MORE.items() if "each class" not in name
}


QUICK = [
    "ALIGN", "CoOp", "CoCoOp", "MaPLe", "MMRL", "PLOT", "TCP", "TipAdapter", "VPT", "ZeroshotCLIP",
]  # fmt: skip


@pytest.mark.parametrize("title", slow_but(POINTS, *QUICK))
def test_logits_of_both_halves_are_those_of_a_model_of_all_names(tiny_clip, title):
    name, node = POINTS[title]
    torch.manual_seed(0)
    node = settings(name) | node
    method = build_method(name, node, tiny_clip, BASE).eval()
    with torch.no_grad():  # as if trained
        for parameter in method.learned().values():
            parameter += 0.02 * torch.randn_like(parameter)
    images, state = torch.randn(10, 3, 32, 32), torch.get_rng_state()
    other = for_classes(method, tiny_clip, BASE, NEW, "")
    assert torch.equal(state, torch.get_rng_state())
    with scored_as_others(method):  # as in the union
        output = method.output(images)
    assert getattr(method, "own_classes", None) is not False  # as before
    found = torch.cat([output.logits, other.from_features(output.image).logits], 1)
    whole = build_method(name, node, tiny_clip, HALVES).eval()
    whole.load_checkpoint(Saved.of({"state_dict": method.public_state_dict()}), HALVES)
    expected = whole(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", slow_but(["CoOp", "CoCoOp", "ALIGN"], "ALIGN"))
def test_a_run_predicts_like_a_model_of_all_names(tmp_path, name, capsys):
    data = write_halves(tmp_path / "data")
    out = {half: tmp_path / half for half in ("base", "new")}
    assert run(data, name, out["base"], 1, extra=[*OF_HALVES, "base"]) == 0
    flags = ("--eval-only", "--model-dir", str(out["base"]))
    assert run(data, name, out["new"], 1, *flags, extra=[*OF_HALVES, "new"]) == 0
    records = [results(out[half]) for half in out]
    T, of_new = (record["temperature"] for record in records)
    assert abs(T - of_new) < 1e-4 and T != 1
    assert capsys.readouterr().out.count("fitted on 6 validation images") == 2
    loaded = load_run(out["base"], classnames=HALVES)
    for half, record in zip(out, records, strict=True):
        said = read_predictions(out[half])
        assert said.keys() == COLUMNS
        names = BASE if half == "base" else NEW
        assert [HALVES[k] for k in said["joint_label"]] == [names[k] for k in said["label"]]
        folders = [data / HALVES[k].replace(" ", "_") for k in said["joint_label"]]
        images = [
            loaded.preprocess(read_image(str(folder / image.rpartition("/")[2])))
            for folder, image in zip(folders, said["image"], strict=True)
        ]
        with torch.no_grad():
            logits = loaded.model(torch.stack(images)).double().numpy()
        rows = np.arange(len(logits))
        log_p, scaled = log_softmax(logits, 1), log_softmax(logits / T, 1)
        label, prediction = said["joint_label"], said["joint_prediction"]
        assert (prediction == logits.argmax(1)).all()
        expected = {
            "joint_probability": np.exp(log_p[rows, prediction]),
            "base_probability": np.exp(log_p[:, :3].max(1)),
            "joint_label_log_probability": log_p[rows, label],
            "joint_scaled_probability": np.exp(scaled[rows, prediction]),
        }
        own = logits[:, :3] if half == "base" else logits[:, 3:]
        scale = float(loaded.model.logit_scale)
        expected |= {
            "mcm": np.exp(log_softmax(own / scale, 1).max(1)),
            "scaled_probability": np.exp(log_softmax(own / T, 1).max(1)),
        }
        for column, values in expected.items():
            np.testing.assert_allclose(said[column], values, atol=1e-4, err_msg=column)
        assert record["joint_accuracy"] == pytest.approx(100 * (prediction == label).mean())
        assert "joint_note" not in record


def test_contexts_of_each_class_leave_the_union_out_and_say_why(tmp_path, capsys):
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    extra = [*OF_HALVES, "base", "TRAINER.COOP.CSC", "True"]
    assert run(data, "CoOp", out, 1, extra=extra) == 0
    record = results(out)
    assert "use it only on those classes" in record["joint_note"]
    assert record["joint_note"] in capsys.readouterr().out
    assert record["temperature"] and "joint_accuracy" not in record
    assert read_predictions(out).keys() == COLUMNS - JOINT


def test_a_run_continues_if_the_method_cannot_be_made_for_other_classes(tmp_path, monkeypatch):
    build_as_before = METHODS["CoOp"].build

    def build(self, clip_model, classnames, dataset):
        build_as_before(self, clip_model, classnames, dataset)
        {"annual crop": 0}[classnames[0]]

    monkeypatch.setattr(METHODS["CoOp"], "build", build)
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    assert run(data, "CoOp", out, 1, extra=[*OF_HALVES, "base"]) == 0
    note = results(out)["joint_note"]
    assert note == "CoOp cannot be made for other classes: KeyError 'road'"


@pytest.mark.parametrize("half", ["base", "new"])
def test_predictions_over_own_classes_keep_their_bits(tmp_path, monkeypatch, half):
    data, out, plain = write_halves(tmp_path / "data"), tmp_path / "out", tmp_path / "plain"
    assert run(data, "CoOp", out, 1, extra=[*OF_HALVES, half]) == 0
    monkeypatch.setattr(trainer, "Recorder", lambda of, split: Recorder(of, "neither"))
    assert run(data, "CoOp", plain, 1, extra=[*OF_HALVES, half]) == 0
    said, same = read_predictions(out), read_predictions(plain)
    assert said.keys() == COLUMNS and same.keys() == {*ARRAYS, "mcm"}
    assert all((said[name] == same[name]).all() for name in ARRAYS)


def test_without_validation_images_there_is_no_temperature(tmp_path, monkeypatch):
    before = ImageDataset.__init__

    def init(self, cfg):
        before(self, cfg)
        self.validation = []

    monkeypatch.setattr(ImageDataset, "__init__", init)
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    assert run(data, "CoOp", out, 1, extra=[*OF_HALVES, "base"]) == 0
    record = results(out)
    assert record["temperature"] is None and "calibration_error_scaled" not in record
    lacks = {"scaled_probability", "joint_scaled_probability"}
    assert read_predictions(out).keys() == COLUMNS - lacks


def test_a_run_on_all_classes_has_a_temperature_and_no_union(tmp_path):
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    assert run(data, "ZeroshotCLIP", out, extra=[*OF_HALVES, "all"]) == 0
    record = results(out)
    assert record["temperature"] and "joint_note" not in record
    assert record["calibration_error_scaled"] != record["calibration_error"]
    assert read_predictions(out).keys() == COLUMNS - JOINT


def test_the_temperature_of_the_labels_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 6))
    p = np.exp(log_softmax(logits, 1))
    labels = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    assert fit_temperature(3 * logits, labels)[0] == pytest.approx(3, rel=0.03)
    assert fit_temperature(0.4 * logits, labels)[0] == pytest.approx(0.4, rel=0.03)
    surely = np.eye(4) * 5.0  # all correct: the lower the temperature the better, up to rounding
    assert np.exp(-3) < fit_temperature(surely, np.arange(4))[0] < 0.2
