"""What `report RUN` and the tables say of single runs, memory and predictions at limits."""

import json
import re

import pytest
from outcomes import few_shot, ran

from benchmark.__main__ import main


@pytest.fixture
def facts(tmp_path, capsys):
    """Return a function that writes a record, and returns what `report` says of it by its names."""

    def facts(**more):
        (one,) = few_shot("ALIGN", 4, (60.0,))
        record = one.result | {"trainer": "ALIGN", "dataset": "DTD", "seed": 1, "shots": 4}
        kept = {key: value for key, value in (record | more).items() if value is not None}
        (tmp_path / "results.json").write_text(json.dumps(kept))
        assert main(["report", str(tmp_path)]) == 0
        first, *lines = capsys.readouterr().out.splitlines()
        pairs = [re.split("  +", line.strip(), maxsplit=1) for line in lines]
        return dict(pair for pair in pairs if len(pair) == 2) | {"": first}

    return facts


@pytest.mark.parametrize(
    "record, name, said",
    [
        ({"temperature": 1.0}, "Temperature", "1.00"),
        ({"temperature": 0.9994}, "Temperature", "0.999"),
        ({"shots": 0}, "Shots", "all training images"),
        ({"shots": -1}, "Shots", "all training images"),
        ({"shots": 1}, "Shots", "1"),
        ({"training_images": {"least": 4, "most": 4}}, "Shots", "4"),
        ({"peak_memory_mib": 1024}, "Peak memory", "1.0 GiB"),
        ({"peak_memory_mib": 1023}, "Peak memory", "1023 MiB"),
        ({"num_params": 12345}, "Trained parameters", "12,345"),
        ({"train_seconds": 90.0, "train_steps": 60}, "Step", "1.500 s"),
        ({"train_seconds": 1234.5}, "Training", "1,234 s"),
        ({"calibration_error": 4.125}, "ECE (%)", "4.12"),
    ],
)
def test_facts_of_a_run(facts, record, name, said):
    assert facts(**record)[name] == said


@pytest.mark.parametrize(
    "path, start, said",
    [("a/b", None, "a/b"), ("a/b", {"method": "CoOp", "backbone": "RN50"}, "a/b (CoOp trained on"),
     ("", None, None)],
)  # fmt: skip
def test_from_which_weights_a_training_started(facts, path, start, said):
    shown = facts(run=ran(MODEL={"INIT_WEIGHTS": path}), start=start)
    assert str(shown.get("Initial weights")).startswith(str(said))


def test_a_folder_of_images_may_have_braces_in_its_name(facts):
    named = ran(DATASET={"NAME": "ImageFolder", "ROOT": "img{x}"})
    assert "img{x}" in facts(dataset="ImageFolder", run=named)[""]


def test_facts_that_a_record_lacks_are_left_out(facts):
    shown = facts(train_seconds=None, shots=None, num_params=None)
    assert {"Shots", "Training", "Step", "Temperature", "Trained parameters"}.isdisjoint(shown)


@pytest.mark.parametrize(
    "record, said",
    [
        ({}, "ALIGN on DTD, seed 1: 60.00% of images are right."),
        ({"num_classes": 3}, "60.00% of images are right; chance is 33.3%."),
        ({"num_test": 1000}, "60.00% of 1,000 images are right."),
        ({"num_test": 999}, "60.00% of 999 images are right [56.9, 63.0]."),
        ({"zero_shot_accuracy": 0.0}, "are right; zero-shot CLIP has 0.00."),
        ({"subsample_classes": "new"}, "ALIGN on DTD, new classes, seed 1: 60.00%"),
    ],
)
def test_the_first_sentence_of_a_run(facts, record, said):
    assert said in facts(**record)[""]


def cells(text, name):
    """Return the cells of the line of a table in text."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return re.split("  +", line.strip())[1:]


@pytest.mark.parametrize("accuracy, used", [(75.009, True), (75.011, False)])
def test_predictions_are_used_where_they_match_their_record(answered, reported, accuracy, used):
    outcomes = [answered(name, seed, "all", right, protocol="few_shot")
                for name, right in (("ALIGN", 30), ("CoOp", 20)) for seed in (1, 2)]  # fmt: skip
    outcomes[0].result["accuracy"] = accuracy
    said = reported(outcomes, "--compare", "ALIGN")
    where = "ALIGN, emoji, 16 shots, Accuracy"
    refused = f"{where}: predictions that do not match results.json; repeat the run [seed 1]"
    assert (refused in said) == (f"{where}: 1 of 2 seeds" in said) == (not used)


def test_differences_of_one_image_in_forty_and_their_words(answered, reported):
    outcomes = [answered(name, seed, "all", right, protocol="few_shot")
                for name, right in (("ALIGN", 30), ("CoOp", 29), ("VPT", 30), ("TCP", 24))
                for seed in (1, 2, 3)]  # fmt: skip
    said = reported(outcomes, "--compare", "ALIGN")
    assert cells(said, "VPT") == ["equal"]
    assert cells(said, "CoOp")[0].startswith("+2.50 [")
    assert cells(said, "CoOp")[0].endswith("] (1 images differ)")
    assert re.fullmatch(r"\+15.00 \[.*\] p 0.0\d\d", cells(said, "TCP")[0])
    first = json.loads(reported(outcomes, "--compare", "ALIGN", "--format", "json"))
    by_name = {x["other"]: x for x in first["comparisons"]}
    # those without p are comparisons, too
    assert by_name["TCP"]["p_holm"] == pytest.approx(3 * by_name["TCP"]["p"])
    assert by_name["CoOp"]["p"] is None and by_name["CoOp"]["p_holm"] is None
    assert by_name["CoOp"]["differing"] == 1 and by_name["TCP"]["seeds"] == [1, 2, 3]
