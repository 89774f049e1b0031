"""Reports of runs on images with several labels: mAP, its intervals and paired differences."""

import json
from dataclasses import replace

import numpy as np
import pytest
from outcomes import few_shot, leave, outcome
from scipy.stats import t as student

from benchmark.__main__ import main
from benchmark.protocols.launches import write_launch
from trainers.prompting.record.predictions import write_predictions
from trainers.prompting.record.scores import NAME
from trainers.prompting.record.several import average_precisions, contributions, measures

N, K = 240, 6


def drawn(seed, skill=2.0, n=N):
    """Return columns of `scores.npz` whose logits say more of the labels for greater skill."""
    label = (np.random.default_rng(9).random((n, K)) < 0.2).astype(np.int8)
    label[3, 2] = -1
    logit = np.random.default_rng(seed).standard_normal((n, K)) + skill * label
    image = [f"{i:04}.png" for i in range(n)]
    return {"image": image, "label": label, "logit": logit.astype(np.float16)}


def tagged(output, trainer, rows_by_seed, protocol="several_labels", **more):
    """Write runs of a method on images with several labels, with their scores."""
    for seed, rows in rows_by_seed.items():
        numbers = measures(rows["label"], rows["logit"], decides=True)
        precisions = 100 * average_precisions(rows["label"], rows["logit"])
        names = [f"tag {k}" for k in range(K)]
        keys = {"several": "decides", "num_classes": K, "num_test": len(rows["label"])} | numbers
        keys |= {"average_precisions": dict(zip(names, precisions, strict=True))} | more
        one = outcome(trainer, seed, "all", None, "tags", protocol=protocol, **keys)
        del one.result["accuracy"]
        leave(output, [one])
        write_predictions(output / one.run.place, rows, NAME)


@pytest.fixture
def report(tmp_path, capsys):
    """Return a function that returns what `report` prints of the runs below `tmp_path`."""

    def report(*words, status=0, folder=""):
        capsys.readouterr()
        assert main(["report", str(tmp_path / folder), *words]) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return report


def gains(rows):
    return 100 * contributions(rows["label"], rows["logit"])


def half_of(values):
    return student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5


def test_tables_show_map_with_all_that_is_told_of_it(tmp_path, report):
    runs = {seed: drawn(seed) for seed in (1, 2, 3)}
    tagged(tmp_path, "DualCoOp", runs, classes_without_positives=2)
    text = report()
    values = np.array([gains(rows).mean() for rows in runs.values()])
    assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" in text
    assert "Several labels on tags: mAP (%) on test images" in text and "ccuracy" not in text
    assert "the mAP of DualCoOp is" in text and "Chance is 18.8." in text
    assert "Left out, as no test image has them: 2 classes." in text
    metrics = report("--metrics")
    assert "CF1 (mean of F1) (%)" in metrics and "OF1, top 3 (%)" in metrics
    classes = report("--classes", "--format", "csv").splitlines()
    assert classes[0].endswith("problems,class,average_precision,images") and len(classes) == 1 + K
    (row,) = json.loads(report("--format", "json"))["rows"]
    assert row["metric"] == "map" and row["map_mean"] == pytest.approx(values.mean())
    assert not [key for key in row if "accuracy" in key]


@pytest.mark.parametrize("done", [{1: drawn(1)}, {}], ids=["one is done", "none is"])
def test_a_failed_run_stands_in_the_table_of_map(tmp_path, report, done):
    tagged(tmp_path, "DualCoOp", done)
    run = outcome("DualCoOp", 2, "all", None, "tags", protocol="several_labels").run
    folder = tmp_path / run.place
    folder.mkdir(parents=True)
    write_launch(replace(run, folder=folder))
    text = report()
    assert "unfinished" in text and "ccuracy" not in text and ("(1 of 2)" in text) == bool(done)


def test_the_interval_of_one_run_is_that_of_the_jackknife(tmp_path, report):
    rows = drawn(1)
    tagged(tmp_path, "DualCoOp", {1: rows})
    text = report("--interval")
    assert f"{gains(rows).mean():.2f} ± {half_of(gains(rows)):.2f}" in text
    assert "± is half of the 95% interval for other test images (jackknife)." in text
    (row,) = json.loads(report("--interval", "--format", "json"))["rows"]
    assert row["map_half_interval_95"] == pytest.approx(half_of(gains(rows)), rel=1e-6)


def test_the_interval_of_several_runs_is_about_images_and_seeds(tmp_path, report):
    runs = {seed: drawn(seed) for seed in (1, 2, 3, 4)}
    tagged(tmp_path, "DualCoOp", runs)
    (row,) = json.loads(report("--interval", "--format", "json"))["rows"]
    mean = np.mean([gains(rows) for rows in runs.values()], axis=0)
    by_seed = np.array([gains(rows).mean() for rows in runs.values()])
    assert row["map_half_interval_95"] == pytest.approx(
        np.hypot(half_of(mean), half_of(by_seed)), rel=0.15
    )
    assert "for other test images (jackknife) and other seeds." in report("--interval")


def test_no_interval_is_given_where_it_would_be_wrong(tmp_path, report):
    rows = drawn(1, n=150)
    tagged(tmp_path, "DualCoOp", {1: rows})
    text = report("--interval")
    assert "±" not in text.split("Not complete")[0].split("Method")[1].split("\n")[2]
    assert "mAP of 150 images has no interval" in text


@pytest.mark.parametrize(("skill", "above"), [(2.0, False), (3.0, True)])
def test_methods_are_compared_image_by_image(tmp_path, report, skill, above):
    ours, theirs = drawn(1, skill), drawn(2)
    tagged(tmp_path, "ZeroshotCLIP", {1: theirs}, num_params=0)
    tagged(tmp_path, "DualCoOp", {1: ours}, num_params=0)
    (found,) = json.loads(report("--compare", "DualCoOp", "--format", "json"))["comparisons"]
    differences = gains(ours) - gains(theirs)
    assert (found["metric"], found["column"], found["images"]) == ("map", "map", N)
    assert found["difference"] == pytest.approx(differences.mean())
    assert found["high"] - found["difference"] == pytest.approx(half_of(differences), rel=1e-4)
    assert (found["low"] > 0) is above
    assert f"DualCoOp has the highest mAP, {gains(ours).mean():.1f}" in report() or not above
    claim = f"{found['difference']:.1f} [{found['low']:.1f}, {found['high']:.1f}] lower"
    assert (claim in report()) is above
    assert "mAP, DualCoOp minus each other" in report("--compare", "DualCoOp")


def test_scores_that_are_missing_or_of_another_run_are_told(tmp_path, report):
    tagged(tmp_path, "ZeroshotCLIP", {1: drawn(1)}, num_params=0)
    tagged(tmp_path, "DualCoOp", {1: drawn(2), 2: drawn(3)})
    first, second = sorted(tmp_path.rglob("DualCoOp/*/*/scores.npz"))
    first.unlink()
    write_predictions(second.parent, drawn(5), NAME)
    text = report("--compare", "DualCoOp")
    assert "no predictions; repeat the run with TEST.PREDICTIONS True [seed 1]" in text
    assert "do not match results.json; repeat the run [seed 2]" in text


def test_a_single_run_shows_map_with_its_interval(tmp_path, report):
    rows = drawn(1)
    tagged(tmp_path, "DualCoOp", {1: rows})
    (folder,) = (path.parent for path in tmp_path.rglob("results.json"))
    text = report(folder=folder)
    value, half = gains(rows).mean(), half_of(gains(rows))
    assert f"mAP is {value:.2f} [{value - half:.1f}, {value + half:.1f}] of 240 images" in text
    assert "average precision of each class, the least first" in text
    assert report("--format", "csv", folder=folder).startswith("folder,class,average_precision\n")
    assert "mAP" in report("--format", "html", folder=folder)


def test_data_sets_of_both_kinds_have_tables_of_their_own(tmp_path, report):
    tagged(tmp_path, "DualCoOp", {1: drawn(1)}, protocol="few_shot")  # as of single runs
    leave(tmp_path, few_shot("DualCoOp", 16, (45.0,)))
    text = report()
    assert "Few-shot on DTD: accuracy (%)" in text and "Few-shot on tags: mAP (%)" in text
    assert "Few-shot recognition, average" not in text
    assert "mAP" in report("--format", "html") and report("--metrics", "--format", "latex")
