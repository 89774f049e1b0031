"""Prediction sets: the golden file, guarantees, records of runs, mistakes."""

import json
import re
from types import SimpleNamespace

import pytest
import tiny
import torch
from dassl.config import get_cfg_default
from golden_files import read
from paths import GOLDEN

from trainers.prompting import UserError
from trainers.prompting.building.config import add_nodes
from trainers.prompting.record import conformal
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.trainer import evaluation
from trainers.prompting.trainer.evaluation import check_conformal

WAYS, KINDS = ("none", "confot", "confot_uniform"), ("lac", "aps", "raps")


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "conformal_scores.safetensors")


@pytest.fixture(scope="module")
def data(golden):
    """Return logits and labels of all images of the file, and how many calibrate."""
    parts = [golden.part(f"{side}/") for side in ("calibration", "test")]
    logits, labels = (torch.cat([part[key] for part in parts]) for key in ("logits", "label"))
    return logits, labels, len(parts[0]["label"])


def probabilities(data, way):
    logits, labels, n = data
    if way == "none":
        return logits.softmax(1)
    K = logits.shape[1]
    return conformal.transport(logits, labels[:n] if way == "confot" else torch.arange(K))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_the_golden_file(golden, data, way, kind):
    _, labels, n = data
    p, expected = probabilities(data, way), golden.part(f"{way}/{kind}/")
    torch.testing.assert_close(p, golden.tensors[f"{way}/probabilities"], rtol=0, atol=1e-6)
    whole = conformal.scores(p, kind)
    own, others = whole[:n].gather(1, labels[:n, None])[:, 0], whole[n:]
    if kind != "lac":  # the file draws what is added, and what is taken away, by rank
        order = p[n:].argsort(1, descending=True)
        u = torch.empty_like(p[n:]).scatter_(1, order, expected["u_test"])
        own = own - (1 - expected["u_calibration"]) * p[:n].gather(1, labels[:n, None])[:, 0]
        others = others - u * p[n:]
    torch.testing.assert_close(own, expected["calibration_scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(others, expected["test_scores"], rtol=0, atol=1e-5)
    limit, alpha = conformal.threshold(own, 0.1), golden.meta["config"]["ALPHA"]
    assert limit == pytest.approx(float(expected["threshold_exact"]), abs=1e-5)
    clear = (others - limit).abs() > 1e-5
    assert torch.equal((others <= limit)[clear], expected["sets_exact"][clear])
    coverage, size, gap = expected["coverage_size_gap"].tolist()
    found = conformal.measure(expected["sets"], labels[n:], alpha)
    assert found == pytest.approx((100 * coverage, size, gap), rel=1e-5)


def test_a_class_without_labels_gets_nothing_by_transport(data):
    logits, labels, _ = data
    p = conformal.transport(logits * 30, labels[labels != 5])  # whose exponentials overflow
    assert p.isfinite().all() and not p[:, 5].any()
    torch.testing.assert_close(p.sum(1), torch.ones(len(p)))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_a_share_of_each_class_and_at_least_one_image_is_drawn(share):
    labels = torch.tensor([0] * 10 + [2] * 4 + [3])
    first, again, other = (
        conformal.draw_images(labels, share, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    expected = [max(1, int(share * n)) for n in (10, 0, 4, 1) if n]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert [int(first[labels == k].sum()) for k in (0, 2, 3)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_what_was_asked(kind):
    """Of ten images, 80% asked is (k = 9) / 11 on average over draws."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2000, 11), generator=rng)
    logits = 2 * torch.randn(2000, 11, 4, generator=rng)
    logits += 2 * torch.nn.functional.one_hot(labels, 4)
    p = logits.softmax(2).flatten(0, 1)
    drawn = conformal.scores(p, kind) - (kind != "lac") * torch.rand(p.shape, generator=rng) * p
    own = drawn.gather(1, labels.flatten()[:, None]).view(2000, 11)
    covered = [float(row[10]) <= conformal.threshold(row[:10], 0.2) for row in own]
    assert sum(covered) / 2000 == pytest.approx(9 / 11, abs=0.03)


# ------------------------------------------------------------------ runs


def run(images, out, *settings, name="ZeroshotCLIP", half="all"):
    """Run on images in folders; `settings` are ends of keys after TEST.CONFORMAL, and values."""
    pairs = [f"TEST.CONFORMAL{word}" if i % 2 == 0 else word for i, word in enumerate(settings)]
    return tiny.run(images, name, out, 1, extra=[*tiny.OF_HALVES, half, *pairs])


def result(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.write_halves(tmp_path_factory.mktemp("sets") / "data")


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory):
    """Return the record and the predictions of a run without sets."""
    out = tmp_path_factory.mktemp("plain")
    assert run(images, out) == 0
    return result(out), read_predictions(out)


def test_a_share_of_the_test_images(images, plain, tmp_path, capsys):
    """Three images of each class: one for the threshold, of five, whose k is 6 by 90%."""
    assert run(images, tmp_path, "", "raps", "_OT", "True") == 0
    found = result(tmp_path)
    sets = {key: found.pop(key) for key in ("set_coverage", "set_size", "set_gap")}
    assert sets == {"set_coverage": 100, "set_size": 5, "set_gap": pytest.approx(10)}
    without, predictions = plain
    same = found.keys() - {"config", "test_seconds", "peak_memory_mib"}
    assert found.keys() == without.keys() and all(found[key] == without[key] for key in same)
    again = read_predictions(tmp_path)
    assert again.keys() == predictions.keys()
    assert all((again[key] == predictions[key]).all() for key in again)
    said = (
        "Prediction sets (raps, Conf-OT; 90% asked, by 50% of the test images): coverage 100.00%, "
        "5.00 classes, gap by class 10.00%"
    )
    assert said in capsys.readouterr().out


def test_validation_images(images, tmp_path, monkeypatch, capsys):
    """The threshold by hand: ten validation images, of which 80% asked takes the ninth."""
    seen = {}

    class Kept(conformal.SetPredictions):
        def columns(self):
            seen["test"] = torch.cat(self._columns["logits"]), torch.cat(self._columns["label"])
            seen["validation"] = [torch.tensor(x) for x in self.validation]
            return super().columns()

    monkeypatch.setattr(evaluation, "SetPredictions", Kept)
    assert run(images, tmp_path, "", "lac", "_SHARE", "0.0", "_ALPHA", "0.2") == 0
    known, of_known = seen["validation"]
    logits, labels = seen["test"]
    own = (1 - known.softmax(1)).gather(1, of_known[:, None])[:, 0]
    assert len(own) == 10
    sets = 1 - logits.softmax(1) <= own.sort().values[8]
    covered = sets[torch.arange(15), labels].float()
    found = result(tmp_path)
    assert found["set_size"] == pytest.approx(float(sets.sum() / 15))
    assert found["set_coverage"] == pytest.approx(100 * float(covered.mean()))
    by_class = torch.stack([covered[labels == k].mean() for k in range(5)])
    assert found["set_gap"] == pytest.approx(100 * float((by_class - 0.8).abs().mean()))
    assert "(lac; 80% asked, by the validation images)" in capsys.readouterr().out


TWO, SPENT = [SimpleNamespace(label=k) for k in (0, 0)], "SHARE 0 takes the validation images, but "
MISTAKES = {
    "single": ({}, "TEST.CONFORMAL cannot be measured: no class has two images"),
    "no validation": ({"CONFORMAL_SHARE": 0.0}, SPENT + "there are none: set it to 0.5"),
    "validated": ({"CONFORMAL_SHARE": 0.0, "SPLIT": "val"}, SPENT + "they are what TEST.SPLIT val"),
    "best epoch": (
        {"CONFORMAL_SHARE": 0.0, "FINAL_MODEL": "best_val"},
        SPENT + "TEST.FINAL_MODEL best_val chooses the epoch on them",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    changes, sentence = MISTAKES[mistake]
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.TEST.CONFORMAL = "lac"
    cfg.TEST.update(changes)
    method = SimpleNamespace(trains=True, searches=False)
    data = SimpleNamespace(test=TWO[: 1 if mistake == "single" else 2], val=TWO, validation=None)
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_conformal(method, data, cfg)


@pytest.mark.parametrize(
    ("name", "half", "why"),
    [
        ("ZeroshotCLIP", "new", "they are of the base classes"),
        ("TransCLIP", "all", "the logits of TransCLIP depend on the other test images"),
        ("GDA", "all", "GDA chooses settings on them"),
    ],
)
def test_validation_images_that_cannot_calibrate_are_refused(
    images, tmp_path, capsys, name, half, why
):
    assert run(images, tmp_path, "", "lac", "_SHARE", "0.0", name=name, half=half) == 2
    assert SPENT + why in capsys.readouterr().err
