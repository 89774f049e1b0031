"""Tables of metrics and of class accuracies, and plots of predictions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from outcomes import classes, columns, few_shot, leave, lines, metrics, only_table, outcome, ran

from benchmark.records import METRICS, Metric
from benchmark.report import command
from benchmark.report.frame import frame
from benchmark.report.notes import INTERVAL
from benchmark.report.table import as_markdown
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


def test_a_further_metric_is_one_entry(reported, monkeypatch):
    """It is read, averaged, and shown in all formats as accuracy is; the least may be the best."""
    added = Metric("Loss", False, False, "Loss is what is left", digits=3, has_h=True)
    monkeypatch.setitem(METRICS, "left", added)
    found = [outcome(name, seed, part, 50.0, dataset, left=(seed + at) / 8)
             for name, at in (("CoOp", 0), ("ALIGN", 1)) for dataset in ("dtd", "eurosat")
             for part in ("base", "new") for seed in (1, 2)]  # fmt: skip
    *_, of_dtd, _, average = metrics(found, interval=True).values()
    assert of_dtd.title == "Base-to-new on DTD: Loss on test images, 16 shots, seeds 1 2"
    assert of_dtd.head == ["Method", "Base", "New", "H"]
    assert lines(of_dtd)["CoOp"] == ["0.188 ± 0.794"] * 3
    assert of_dtd.all_best()[1:] == [{0}] * 3
    assert "Loss is what is left." in of_dtd.caption and INTERVAL in of_dtd.caption
    assert lines(average)["ALIGN"] == ["0.312"] * 3 + ["2 of 2"]
    records = json.loads(reported(found, "--metrics", "--format", "json"))
    (record,) = [
        of for of in records["averages"] if (of["method"], of["metric"]) == ("CoOp", "left")
    ]
    assert record["h"] == 0.1875
    assert r"\textbf{0.188 $\pm$ 0.088}" in reported(found, "--metrics", "--format", "latex")


def with_config(outcomes, kind):
    for each in outcomes:
        each.result["run"] = ran(TEST={"ATTACK": kind, "ATTACK_EPS": len(kind)})
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
    found = metrics([*pgd, *cw, *others, *clean, *on_other])
    of_dtd = {title.split(": ")[1].split()[0]: x for title, x in found.items() if "DTD" in title}
    for head, cells in (("Clean", ["50.00 ± 0.00"] * 3), ("Robust", ["5", "20", "8"])):
        assert [*lines(of_dtd[head])] == [
            "ALIGN, attack cw 1/255", "ALIGN, attack pgd 1/255", "TPT, attack pgd 1/255, static",
        ]  # fmt: skip
        for (cell,), wanted in zip(lines(of_dtd[head]).values(), cells, strict=True):
            assert cell.startswith(wanted)
    table = of_dtd["Robust"]
    assert table.problems == [
        "ALIGN, attack pgd 1/255, 16 shots: attack too weak: 5.00% are left by ALIGN, attack cw "
        "1/255",
        "TPT, attack pgd 1/255, static, 16 shots: attack too weak: no gradient",
    ]
    caption = " ".join(table.caption)
    assert "Robust is the accuracy on attacked images" in caption and "static: attacked" in caption
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
    (nll,) = (table for title, table in metrics(outcomes).items() if "NLL" in title)
    why = "results.json has no metrics; repeat the run with TEST.PREDICTIONS True [seeds 1 2]"
    assert nll.problems == [f"VPT, 16 shots: missing: {why}"] and lines(nll)["VPT"] == ["missing"]
    (table,) = classes(frame(outcomes)).tables().popitem()[1]
    (problem,) = table.problems
    assert problem.startswith("VPT: metrics missing in results.json")
    assert problem.endswith("[seed 1, 2]")


def test_a_calibration_error_that_is_left_out_is_not_missing():
    of_all = few_shot("TransCLIP", 16, (70,), negative_log_likelihood=2.0, top5_accuracy=90.0)
    found = metrics([*some(), *of_all])
    assert not any(table.problems for table in found.values())
    for title, table in found.items():
        assert ("TransCLIP" in lines(table)) != ("ECE" in title or "Macro-F1" in title)


@pytest.mark.parametrize("apart", [True, False])
def test_outputs_that_share_no_data_set_have_no_averages(apart):
    outcomes = [
        replace(outcome(trainer, 1, part, 50.0, name), origin=name if apart else "")
        for trainer in ("ALIGN", "CoOp") for name in ("dtd", "eurosat") for part in ("base", "new")
    ]  # fmt: skip
    titles = metrics(outcomes)
    assert len(titles) > 3 and any("average" in title for title in titles) != apart


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
    assert told.keys() == {"findings", "rows", "averages", "classes"}
    for records in (told["rows"], told["classes"]):
        assert {record["method"] for record in records} == {"CoOp", "ALIGN"}
