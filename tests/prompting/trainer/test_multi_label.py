"""Runs on images with several labels: what they print, store and record."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image
from tiny import COLOURS, results, run

from benchmark.__main__ import main
from trainers.prompting import UserError
from trainers.prompting.record.predictions import NAME as PREDICTIONS
from trainers.prompting.record.predictions import write_predictions
from trainers.prompting.record.scores import NAME, Scores, read_scores
from trainers.prompting.record.several import average_precisions, measures

N = 12  # images of each part


@DATASET_REGISTRY.register()
class TinyTags(DatasetBase):
    """Images whose upper and lower half have colours of two classes; every fifth label unknown."""

    several = True
    difficult = False

    def __init__(self, cfg):
        folder = Path(cfg.DATASET.ROOT) / "tiny_tags"
        folder.mkdir(parents=True, exist_ok=True)
        colours, parts = [*COLOURS.values()], {}
        for part in ("train", "val", "test"):
            parts[part] = []
            for i in range(N):
                shown = i % 4, i // 2 % 4
                pixels = np.repeat([colours[k] for k in shown], 16 * 32, axis=0)
                path = folder / f"{part}_{i}.png"
                Image.fromarray(pixels.reshape(32, 32, 3).astype("uint8")).save(path)
                label = [int(k in shown) for k in range(4)]
                if i % 5 == 0:
                    label[(i + 1) % 4] = -1
                parts[part].append(Datum(str(path), tuple(label), 0, "tags"))
        super().__init__(train_x=parts["train"], val=parts["val"], test=parts["test"])

    def get_num_classes(self, data_source):
        return 4

    def get_lab2cname(self, data_source):
        return dict(enumerate(COLOURS)), [*COLOURS]


TAGS = ["DATASET.NAME", "TinyTags"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("tags")
    (root / "output").mkdir()
    write_predictions(root / "output", {"label": [0]})  # of an earlier run on one label
    assert run(root, "DualCoOp", None, 1, extra=TAGS) == 0
    return root


def test_the_record_has_map_in_place_of_accuracy(trained):
    record, stored = results(trained / "output"), read_scores(trained / "output")
    assert not {"accuracy", "macro_f1", "per_class_accuracy", "top5_accuracy"} & {*record}
    assert record["several"] == "decides" and record["map"] > 0
    expected = measures(stored["label"], stored["logit"], decides=True)
    assert {key: record[key] for key in expected} == expected
    assert "cf1_mean" in expected and record["training_images"] == {"least": 4, "most": 7}
    precisions = 100 * average_precisions(stored["label"], stored["logit"])
    assert [*record["average_precisions"].values()] == pytest.approx(precisions.tolist())
    assert [*record["average_precisions"]] == [*COLOURS]


def test_scores_are_those_of_the_test_images_and_take_the_place_of_predictions(trained):
    stored = read_scores(trained / "output")
    assert not (trained / "output" / PREDICTIONS).exists()
    assert stored["image"].tolist() == [f"test_{i}.png" for i in range(N)]
    assert stored["label"].shape == stored["logit"].shape == (N, 4)
    assert stored["label"][5, 2] == -1 and stored["logit"].dtype == np.float16


def test_an_evaluation_without_predictions_has_the_same_numbers(trained, tmp_path, capsys):
    flags = ("--eval-only", "--model-dir", str(trained / "output"))
    extra = [*TAGS, "TEST.PREDICTIONS", "False"]
    assert run(trained, "DualCoOp", tmp_path / "again", 1, *flags, extra=extra) == 0
    assert f"mAP: {results(trained / 'output')['map']:.2f}%" in capsys.readouterr().out
    again, record = results(tmp_path / "again"), results(trained / "output")
    assert not (tmp_path / "again" / NAME).exists() and again["map"] == record["map"]
    assert again.keys() == record.keys() - {"average_precisions"}


def test_the_epoch_is_chosen_by_map_of_validation_images(trained, tmp_path):
    extra = [*TAGS, "TEST.FINAL_MODEL", "best_val", "TEST.SPLIT", "val"]
    assert run(trained, "DualCoOp", tmp_path / "out", 2, extra=extra) == 0
    assert results(tmp_path / "out")["map"] > 0


def test_info_tells_map_and_that_there_is_no_calibration(trained, capsys):
    assert main(["info", str(trained / "output")]) == 0
    found = capsys.readouterr().out
    assert f"mAP:        {results(trained / 'output')['map']:.2f}% of 12 images" in found
    assert "as the run is not calibrated: it takes validation images, but its images" in found


def test_difficult_objects_are_also_counted_as_absent(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(TinyTags, "difficult", True)
    flags = ("--eval-only", "--model-dir", str(trained / "output"))
    assert run(trained, "DualCoOp", tmp_path / "out", 1, *flags, extra=TAGS) == 0
    stored, record = read_scores(tmp_path / "out"), results(tmp_path / "out")
    absent = average_precisions(np.maximum(stored["label"], 0), stored["logit"])
    assert record["map_difficult_absent"] == pytest.approx(100 * absent.mean())


def test_logits_beyond_float16_stay_finite():
    kept = Scores()
    kept.add_logits(torch.ones(1, 2, dtype=torch.int8), torch.tensor([[1e6, -1e6]]))
    assert np.isfinite(kept.arrays()[1]).all()


def test_scores_without_a_column_are_refused(tmp_path):
    good = {"image": ["a"], "label": [[1, -1]], "logit": [[0.0, 0.0]]}
    write_predictions(tmp_path, good, NAME)
    assert read_scores(tmp_path)["label"].tolist() == [[1, -1]]
    write_predictions(tmp_path, {"image": ["a"], "label": [[1, -1]]}, NAME)
    with pytest.raises(UserError, match="logit.*repeat the run"):
        read_scores(tmp_path)
    assert read_scores(tmp_path / "elsewhere") is None


def test_a_record_of_several_labels_needs_map(trained, tmp_path, capsys):
    record = results(trained / "output")
    (tmp_path / "results.json").write_text(json.dumps(record | {"map": None}))
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no map" in capsys.readouterr().err
