"""Tables of metrics and of class accuracies, and plots of predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from outcomes import classes, columns, few_shot, leave, lines, metrics, only_table, outcome

from benchmark.protocols.places import runs_in
from benchmark.records import from_folder
from benchmark.report import command, pictures
from benchmark.report.frame import frame
from benchmark.report.render import as_markdown
from trainers.prompting.record.predictions import write_predictions

MEASURED = {"macro_f1": 50.0, "top5_accuracy": 90.0, "calibration_error": 8.0}


def some():
    more = MEASURED | {"per_class_accuracy": {"cat": 100.0, "dog": 20.0, "cow": None}}
    found = few_shot("ALIGN", 16, (60, 62), negative_log_likelihood=1.5, **more)
    more |= {
        "calibration_error": 4.0,
        "per_class_accuracy": {"cat": 80.0, "dog": 40.0, "cow": None},
    }
    return found + few_shot("CoOp", 16, (50,), negative_log_likelihood=2.5, **more)


def test_metrics_have_a_line_for_each_method():
    (table,) = metrics(frame(some())).tables().popitem()[1]
    assert table.title == "Few-shot recognition, DTD, 16 shots: metrics"
    assert table.head[3:] == ["Top-5 (%)", "ECE (%)", "NLL"]
    assert lines(table)["ALIGN"] == [
        "61.00 ± 1.41", "50.00 ± 0.00", "90.00 ± 0.00", "8.00 ± 0.00", "1.50 ± 0.00",
    ]  # fmt: skip
    best = {table.lines[i][0].text for i in table.best(4)}, table.best(5)
    assert best == ({"CoOp"}, {1 - next(iter(table.best(4)))})  # lower errors are better


def with_config(outcomes, kind):
    for each in outcomes:
        each.result["config"] = {"TEST": {"ATTACK": kind, "ATTACK_EPS": len(kind)}, "DATASET": {}}
    return outcomes


def attacked(kind, clean, robust, weak="", form="", dataset="dtd", name="ALIGN"):
    facts = {"text": f"{kind} 1/255{form}", "eps": 1.0, "images": 64, "weak": weak}
    more = {"clean_accuracy": clean, "robust_accuracy": robust, "attack": facts}
    return with_config(few_shot(name, 16, (60, 62), dataset, **MEASURED, **more), kind)


def test_robust_accuracy_stands_beside_that_of_the_same_images_before():
    """It is in no average with others, and weak attacks are named."""
    pgd, cw = attacked("pgd", 50.0, 20.0), attacked("cw", 50.0, 5.0)
    others = attacked("pgd", 50.0, 8.0, "no gradient", ", static", name="TPT")
    clean = with_config(few_shot("CoOp", 16, (50,)), "")
    on_other = attacked("cw", 50.0, 1.0, dataset="emoji_blur")
    tidy = frame([*pgd, *cw, *others, *clean, *on_other])
    table = metrics(tidy).tables().popitem()[1][0]
    at = [table.head.index(f"{name} (%)") for name in ("Accuracy", "Clean", "Robust")]
    found = {line[0].text: [line[i].text for i in at] for line in table.lines}
    assert found == {
        "CoOp": ["50.00", "-", "-"],
        "TPT, attack pgd 1/255, static": ["61.00 ± 1.41", "50.00 ± 0.00", "8.00 ± 0.00"],
        "ALIGN, attack cw 1/255": ["61.00 ± 1.41", "50.00 ± 0.00", "5.00 ± 0.00"],
        "ALIGN, attack pgd 1/255": ["61.00 ± 1.41", "50.00 ± 0.00", "20.00 ± 0.00"],
    }
    weak = [problem for problem in table.problems if "too weak" in problem]
    assert weak == [
        "TPT, attack pgd 1/255, static: attack too weak: no gradient",
        "ALIGN, attack pgd 1/255: attack too weak: 5.00% are left by ALIGN, attack cw 1/255",
    ]
    caption = " ".join(table.caption)
    assert "Robust the accuracy on attacked images" in caption and "static: attacked" in caption
    table = only_table([*pgd, *cw])
    assert "accuracy is that before it" in " ".join(table.caption)


def test_classes_have_a_line_each():
    (table,) = classes(frame(some())).tables().popitem()[1]
    assert table.head == ["Class", "CoOp", "ALIGN"]
    assert lines(table) == {"cat": ["80.00", "100.00"], "dog": ["40.00", "20.00"]}
    assert table.all_best() == [set(), {1}, {0}], "the best method of each class"
    assert "| cat     |     80.00 | **100.00** |" in as_markdown(table)


def test_results_without_metrics_are_named():
    outcomes = [*some(), *few_shot("VPT", 16, (50, 51))]
    for view in (metrics(frame(outcomes)), classes(frame(outcomes))):
        (table,) = view.tables().popitem()[1]
        assert len(table.problems) == 1
        assert table.problems[0].startswith("VPT: metrics missing in results.json")
        assert table.problems[0].endswith("[seed 1, 2]")


def test_a_calibration_error_that_is_left_out_is_not_missing():
    outcomes = some()
    of_all = few_shot("TransCLIP", 16, (70,), negative_log_likelihood=2.0, top5_accuracy=90.0)
    (table,) = metrics(frame([*outcomes, *of_all])).tables().popitem()[1]
    assert not table.problems
    assert lines(table)["TransCLIP"][3:] == ["-", "2.00"]


def test_base_and_new_are_two_tests():
    outcomes = [outcome("ALIGN", 1, part, 50.0) for part in ("base", "new")]
    _, _, *tables = (
        metrics(frame(outcomes)).tables().popitem()[1]
    )  # two over all classes come first
    titles = [table.title for table in tables]
    assert titles == [f"Base-to-new, emoji, {part}, 16 shots: metrics" for part in ("base", "new")]


@pytest.mark.parametrize("apart", [True, False])
def test_outputs_that_share_no_data_set_have_no_averages(apart):
    outcomes = [
        replace(outcome(trainer, 1, part, 50.0, name), origin=name if apart else "")
        for trainer in ("ALIGN", "CoOp") for name in ("dtd", "eurosat") for part in ("base", "new")
    ]  # fmt: skip
    titles = [table.title for table in metrics(frame(outcomes)).tables().popitem()[1]]
    assert len(titles) > 4 and any("average" in title for title in titles) != apart


def test_what_is_not_in_the_plots_is_said_once(tmp_path, capsys):
    leave(tmp_path, few_shot("CoOp", 4, (50.0,)))
    views = ["--metrics", "--classes"]
    for more in (["--format", "html"], ["--plots", str(tmp_path / "plots")]):
        command.main([str(tmp_path), *views, *more])
        assert capsys.readouterr().err.count("not in the plots: CoOp, ") == 1


def test_each_view_draws_its_plots(tmp_path, capsys):
    output, plots = tmp_path / "output", tmp_path / "plots"
    outcomes = [replace(o, result=o.result | {"accuracy": 100.0}) for o in some()]
    leave(output, outcomes)
    asked = [str(output), "--metrics", "--classes", "--plots", str(plots), "--format", "json"]
    command.main(asked)
    assert "no plots: there are no runs with predictions" in capsys.readouterr().err
    label = np.arange(6) % 3
    for file in output.rglob("results.json"):
        write_predictions(file.parent, columns(label, label, 0.7))
    command.main(asked)
    stems = [f"{name}_few_shot_recognition_dtd_16_shots" for name in ("confusion", "reliability")]
    drawn = sorted(path.name for path in plots.iterdir())
    assert drawn == [f"{stem}.{form}" for stem in stems for form in ("pdf", "png", "svg")]
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"metrics", "classes"}
    for records in told.values():
        assert {record["method"] for record in records} == {"CoOp", "ALIGN"}
    listed = frame([from_folder(run) for run in runs_in(output)])
    first = {}
    for name, view in (("reliability", metrics(listed)), ("confusion", classes(listed))):
        ((figure, _),) = pictures.figures(view.tests, name, set()).values()
        first[name] = figure.axes[0]
    # of classes 0, 1 and 2, all right; images, all of one confidence
    assert [text.get_text() for text in first["confusion"].texts] == ["100"] * 3
    (counts,) = first["reliability"].child_axes
    assert [bar.get_height() for bar in counts.patches] == [6]
