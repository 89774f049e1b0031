"""A single run: facts, classes, pictures and a page."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
from outcomes import columns, few_shot, metrics, ran

from benchmark.__main__ import main
from benchmark.protocols.launches import write_launch
from benchmark.report import pictures
from benchmark.report.single import read_run
from trainers.prompting.record.predictions import write_predictions


@pytest.fixture
def run(tmp_path):
    """Return the folder of a run on six images, two of them wrong."""
    folder, confidence = tmp_path / "run", [0.9, 0.8, 0.6, 0.7, 0.9, 0.95]
    folder.mkdir()
    write_predictions(folder, columns([0, 0, 0, 0, 1, 1], [0, 0, 1, 0, 1, 0], confidence))
    (one,) = few_shot("ALIGN", 4, (100 * 4 / 6,), num_classes=2)
    record = one.result | {"trainer": "ALIGN", "dataset": "ImageFolder", "seed": 1, "shots": 4}
    record |= {"per_class_accuracy": {"cat": 75.0, "dog": 50.0}, "temperature": math.exp(3)}
    record |= {"num_test": 6}
    record |= {"run": ran(DATASET={"ROOT": str(tmp_path / "data")})}
    (folder / "results.json").write_text(json.dumps(record))
    return folder


def test_changed_training_images_are_shown(run, capsys):
    assert main(["report", str(run)]) == 0 and "Training images" not in capsys.readouterr().out
    record = json.loads((run / "results.json").read_text())
    record["run"]["training"] |= {"DATASET.LABEL_NOISE": 0.25, "DATASET.IMBALANCE": 10.0}
    (run / "results.json").write_text(json.dumps(record))
    assert main(["report", str(run)]) == 0
    assert "LABEL_NOISE 0.25, IMBALANCE 10" in capsys.readouterr().out


def test_the_first_line_says_how_many_are_right_and_shots_are_true(run, capsys):
    assert main(["report", str(run)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("ALIGN on data, seed 1: 66.67% of 6 images are right [30.0, 90.3]; ")
    assert first.endswith("chance is 50.0%.")
    assert any(line.split() == ["Shots", "4"] for line in lines)
    record = json.loads((run / "results.json").read_text())
    record |= {"training_images": {"least": 2, "most": 4}}
    (run / "results.json").write_text(json.dumps(record))
    assert main(["report", str(run)]) == 0
    assert "4 (2 to 4 images of a class)" in capsys.readouterr().out


def test_two_runs_stand_side_by_side_and_are_named_where_left_out(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    assert main(["report", str(run), str(other), "--compare", str(other)]) == 0
    shown = capsys.readouterr().out
    assert "Few-shot on data: ALIGN (other) minus each other" in shown
    assert "ALIGN (run)" in shown and " equal (one seed)" in shown
    (tmp_path / "mine").mkdir()
    (ours,) = few_shot("CoOp", 4, (50.0,))
    write_launch(replace(ours.run, folder=tmp_path / "mine"))
    for command in ("report", "status"):
        assert main([command, str(tmp_path)]) == 0
        assert capsys.readouterr().err.startswith(f"left out: 2 single runs, such as '{other}', ")


def test_classes_show_n_and_a_temperature_at_its_bound_says_so(run, capsys):
    assert main(["report", str(run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cat", "4", "75.00"] in lines and ["dog", "2", "50.00"] in lines
    assert ["n:", "test", "images", "of", "the", "class."] in lines
    (temperature,) = [line for line in lines if line[:1] == ["Temperature"]]
    assert temperature[1:5] == ["20.09,", "at", "its", "bound:"]
    found = few_shot("ALIGN", 4, (60,), temperature=20.08, calibration_error_scaled=1.0)
    (table,) = (table for title, table in metrics(found).items() if "ECE scaled" in title)
    assert table.problems == [
        "ALIGN, 4 shots: temperature at its bound: ECE scaled could be less [seed 1]"
    ]


@pytest.mark.slow
def test_a_run_has_pictures_and_a_page(run, tmp_path, capsys):
    assert main(["report", str(run), "--plots", str(tmp_path / "plots")]) == 0
    stems = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert stems == {"confusion", "reliability"}
    capsys.readouterr()
    assert main(["report", str(run), "--format", "html"]) == 0
    html = capsys.readouterr().out
    assert html.count("<img alt=") == 2 and html.count("<table") == 2
    assert all(first.isupper() for first in re.findall("<figcaption>(.)", html))
    assert html.count(".</figcaption>") == 2
    order = ["<h1>ALIGN on data, seed 1</h1>", "% of 6 images are right", "Accuracy (%)", "<img "]
    places = [html.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.slow
def test_a_page_has_an_interval_beside_an_accuracy_of_few_images(run, capsys):
    page = "66.67 <small>[30.0, 90.3]</small>"  # Wilson's, of 4 right of 6
    for form, interval in (("html", page), ("text", "66.67 [30.0, 90.3]"), ("latex", "")):
        assert main(["report", str(run), "--format", form]) == 0
        told = capsys.readouterr().out
        assert interval in told and ("95% interval (Wilson)" in told) == bool(interval), form
    record = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(record | {"num_test": 1000}))
    assert main(["report", str(run), "--format", "html"]) == 0
    assert "<small>" not in capsys.readouterr().out


def test_a_table_of_facts_has_no_empty_head(run, capsys):
    assert main(["report", str(run), "--format", "html"]) == 0
    html = capsys.readouterr().out
    assert html.count("<table") == 2 and html.count("<thead>") == 1
    assert not re.search(r"<th[^>]*></th>", html)


@pytest.mark.slow
def test_pictures_of_several_runs_are_apart(run, tmp_path, capsys):
    """Run folders are often called `seed1`."""
    for name in ("one/seed1", "other/seed1"):
        shutil.copytree(run, tmp_path / name)
    plots = tmp_path / "plots"
    runs = [str(tmp_path / name) for name in ("one/seed1", "other/seed1")]
    assert main(["report", *runs, "--plots", str(plots)]) == 0
    assert len(list(plots.glob("one/seed1/*.png"))) == len(list(plots.rglob("*.png"))) / 2 == 2
    capsys.readouterr()
    assert main(["report", *runs, "--format", "html"]) == 0
    heads = re.findall("<h2[^>]*>(.*?)</h2>", capsys.readouterr().out)
    assert heads == ["All runs", *(f"ALIGN on data, seed 1: {folder}" for folder in runs)]


def test_a_reliability_diagram_says_what_its_bars_are(run):
    outcome = read_run(run)
    pool = pictures._pool({1: outcome, 2: outcome, 3: outcome}, "ALIGN")
    figure, sentence = pictures.draw_panels({"ALIGN": pool}, "reliability", "here")
    assert sentence.startswith("Bars: accuracy in each bin of confidence; dots: ")
    assert "images, mean of 3 seeds" in sentence
    figure.draw_without_rendering()
    label = figure.axes[0].xaxis.label.get_window_extent()
    assert not label.overlaps(figure._supxlabel.get_window_extent())


def test_a_run_on_a_stream_names_it_beside_zero_shot_clip(run, capsys):
    record = json.loads((run / "results.json").read_text())
    record |= {"stream": {"name": "separate:2", "order": "0"}, "zero_shot_accuracy": 400 / 6}
    (run / "results.json").write_text(json.dumps(record))
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Zero-shot \(%\) +66.67", said)
    assert re.search(r"Stream +separate:2", said)
