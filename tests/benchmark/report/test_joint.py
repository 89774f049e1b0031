"""Base and new classes together: tables and comparisons; out-of-distribution detection."""

import numpy as np
import pytest
from outcomes import (
    answer,
    columns,
    comparisons,
    few_shot,
    lines,
    metrics,
    outcome,
    shown,
)
from scipy.special import stdtrit

from benchmark.report.compare import JOINT, JOINT_NOTE
from benchmark.report.frame import frame
from benchmark.report.per_image import Answers, joint_parts
from trainers.prompting.record.predictions import NAME

# Six images by hand.
BASE = {
    "label": [0, 1, 0], "prediction": [0, 1, 1], "joint_label": [0, 1, 0],
    "joint_prediction": [0, 2, 1], "joint_probability": [0.95, 0.55, 0.6],
}  # fmt: skip
NEW = {
    "label": [0, 1, 1], "prediction": [0, 1, 0], "joint_label": [2, 3, 3],
    "joint_prediction": [2, 1, 2], "joint_probability": [0.75, 0.5, 0.65],
}  # fmt: skip
BY_HAND = ["33.33", "43.33"]  # Joint and ECE


@pytest.fixture
def tested(tmp_path):
    """Return a function that makes the two outcomes of a training, given prediction columns."""

    def make(trainer, seed, base=BASE, new=NEW, dataset="emoji_food", **more):
        found = []
        for part, given in (("base", base), ("new", new)):
            said = columns(images=part + "{:03}.png", **{k: np.array(given[k]) for k in given})
            right = 100 * float((said["label"] == said["prediction"]).mean())
            if "joint_label" in said:
                for key in ("joint_label_log_probability", "base_probability"):
                    said[key] = np.zeros(len(said["label"]))
            one = outcome(trainer, seed, part, right, dataset, num_classes=2, **more)
            found.append(answer(one, tmp_path / one.run.folder, said))
        return found

    return make


def without_union(columns):
    return {name: columns[name] for name in ("label", "prediction")}


def over_both(outcomes):
    """Return the tables of Joint and ECE, those of averages apart."""
    found = metrics(outcomes)
    of = [[table for title, table in found.items() if f": {head} (%)" in title]
          for head in ("Joint", "ECE")]  # fmt: skip
    return [*zip(*of, strict=False)]


def test_base_to_new_has_numbers_over_base_and_new_classes(tested):
    (both,) = over_both(tested("CoOp", 1) + tested("ALIGN", 1) + tested("ALIGN", 2))
    for table, number in zip(both, BY_HAND, strict=True):
        assert table.head == ["Method", "Base and new"] and not table.problems
        found = lines(table)
        assert found == {"CoOp": [f"{number} (1 of 2)"], "ALIGN": [f"{number} ± 0.00"]}
    assert (
        both[0].title == "Base-to-new on emoji_food: Joint (%) on test images, 16 shots, seeds 1 2"
    )


def test_averages_are_over_the_data_sets_of_a_method(tested):
    other = BASE | {"prediction": [0, 1, 0], "joint_prediction": [0, 1, 0]}
    outcomes = tested("ALIGN", 1) + tested("ALIGN", 1, base=other, dataset="emoji_animals")
    outcomes += tested("CoOp", 1)
    plain = without_union(BASE), without_union(NEW)
    outcomes += tested("VPT", 1) + tested("VPT", 1, *plain, dataset="emoji_animals")
    *_, (joint, _) = over_both(outcomes)
    assert joint.title == "Base-to-new, average over 2 embedded data sets: Joint (%), 16 shots"
    assert lines(joint) == {
        "CoOp": ["33.33 (1 of 2)", "1 of 2"], "VPT": ["33.33 (1 of 2)", "1 of 2"],
        "ALIGN": ["50.00", "2 of 2"],
    }  # fmt: skip


def test_runs_without_joint_columns_are_named(tested):
    plain = without_union(BASE), without_union(NEW)
    outcomes = tested("CoOp", 1, *plain) + tested("ALIGN", 1)
    outcomes += tested("MaPLe", 1, *plain, joint_note="MaPLe is made for its own classes")
    outcomes += tested("UPT", 1)[:1]  # its test on new classes is missing
    shuffled = NEW | {"joint_label": [2, 2, 3]}
    outcomes += tested("TCP", 1, new=shuffled)
    new_first = BASE | {"joint_label": [2, 3, 2]}, NEW | {"joint_label": [0, 1, 1]}
    outcomes += tested("PLOT", 1, *new_first)
    ((table, _),) = over_both(outcomes)
    found = lines(table)
    assert found["CoOp"] == found["UPT"] == ["missing"] and found["ALIGN"] == BY_HAND[:1]
    order = "predictions that do not number base classes before new ones; repeat the run"
    why = {
        "CoOp": "no predictions over base and new classes together; repeat the run",
        "MaPLe": "MaPLe is made for its own classes",
        "PLOT": order, "TCP": order,
        "UPT": "no finished run on new classes",
    }  # fmt: skip
    assert sorted(table.problems) == [
        f"{name}, base and new: missing: {text} [seed 1]" for name, text in why.items()
    ]


def test_joint_accuracy_is_over_all_images_if_splits_differ_in_size():
    halves = [True, True, False, True], [False, True]
    base, new = (Answers("", np.array([]), np.array(hits)) for hits in halves)
    of_base, of_new = joint_parts(base, new)
    assert of_base.mean() + of_new.mean() == pytest.approx(4 / 6)
    assert of_base.mean() == pytest.approx(3 / 6)


def random_half(rng, n, shift, better):
    """Return the columns of n images of one split; more are right with a larger `better`."""
    label = rng.integers(0, 2, n)
    right, joint = rng.random((2, n)) < [[0.6 + better], [0.5 + better]]
    columns = {"label": label, "prediction": np.where(right, label, 1 - label)}
    columns |= {"joint_label": label + shift, "joint_probability": np.full(n, 0.5)}
    return columns | {"joint_prediction": np.where(joint, label, 1 - label) + shift}


def two_methods(tested):
    """Return outcomes of ALIGN and CoOp with two seeds, on the same 60 base and 40 new images."""
    outcomes = []
    for trainer, better in (("ALIGN", 0.2), ("CoOp", 0.0)):
        for seed in (1, 2):
            rng = np.random.default_rng(0)
            halves = random_half(rng, 60, 0, better), random_half(rng, 40, 2, better)
            for half in halves:  # seeds differ
                half["joint_prediction"][:seed] = 3
            outcomes += tested(trainer, seed, *halves, dataset="dtd")
    return outcomes


def test_comparisons_match_the_numbers_in_the_table(tested):
    outcomes, metric = two_methods(tested), "joint_accuracy"
    listed = frame(outcomes)
    ((table, _),) = over_both(outcomes)
    of = {name: float(text.split()[0]) for name, (text,) in lines(table).items()}
    view = comparisons(listed, "ALIGN", metric=metric)
    (found,) = view.records()
    assert (
        found["difference"] == pytest.approx(of["ALIGN"] - of["CoOp"], abs=0.01)
        and of["ALIGN"] > 30
    )
    assert found["low"] < found["difference"] < found["high"]
    assert (found["column"], found["images"], found["seeds"]) == (metric, 100, [1, 2])
    (table,) = view.tables().popitem()[1]
    assert table.head == ["Method", JOINT] and f": {JOINT}, ALIGN minus each" in table.title
    assert JOINT_NOTE in table.caption
    for form in ("latex", "csv", "json"):
        assert f"{found['difference']:.2f}"[:-1] in shown(view, form, listed)


def test_with_one_seed_the_interval_is_that_of_two_samples(tested):
    """Base and new images are independent samples, each with its variance and freedom."""
    outcomes = [each for each in two_methods(tested) if each.run.seed == 1]
    (found,) = comparisons(frame(outcomes), "ALIGN", metric="joint_accuracy").records()
    variances, freedoms = [], []
    for half in ("base", "new"):
        right = []
        for trainer in ("ALIGN", "CoOp"):
            (run,) = [o.run for o in outcomes if (o.run.trainer, o.run.part) == (trainer, half)]
            arrays = np.load(run.folder / NAME)
            right.append(arrays["joint_prediction"] == arrays["joint_label"])
        gain = right[0].astype(float) - right[1]
        variances.append((len(gain) / 100) ** 2 * gain.var(ddof=1) / len(gain))
        freedoms.append(len(gain) - 1)
    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    half = 100 * stdtrit(freedom, 0.975) * sum(variances) ** 0.5
    assert found["high"] - found["difference"] == pytest.approx(half, rel=0.01)


def test_runs_that_cannot_be_compared_over_all_classes_are_named(tested):
    outcomes = two_methods(tested)
    plain = [without_union(half) for half in (BASE, NEW)]
    outcomes += tested("VPT", 1, *plain, dataset="dtd", joint_note="VPT is made for its classes")
    (table,) = comparisons(frame(outcomes), "ALIGN", metric="joint_accuracy").tables().popitem()[1]
    assert lines(table)["VPT"] == ["-"] and lines(table)["CoOp"] != ["-"]
    assert "VPT, DTD, Base: VPT is made for its classes [seed 1]" in table.problems
    # the same images with other class numbers
    shuffled = [
        dict(half, **{k: 1 - np.array(half[k]) for k in ("label", "prediction")})
        for half in (BASE, NEW)
    ]
    for half, shift in zip(shuffled, (0, 2), strict=True):
        half["joint_label"] = half["label"] + shift
    both = tested("ALIGN", 1) + tested("CoOp", 1, *shuffled)
    (table,) = comparisons(frame(both), "ALIGN", metric="joint_accuracy").tables().popitem()[1]
    assert lines(table)["CoOp"] == ["-"]
    assert any("other test images, or labels, than ALIGN" in what for what in table.problems)


def test_detection_has_a_table_for_each_metric_and_other_data_set():
    def ood(auroc, fpr95, **more):
        return {"emoji_food": {"auroc_mcm": auroc, "fpr95_mcm": fpr95, "images": 90} | more}

    outcomes = few_shot("ALIGN", 16, (60,), ood=ood(90.0, 20.0, auroc_gl_mcm=95.0))
    outcomes += few_shot("CoOp", 16, (50,), ood=ood(80.0, 30.0)) + few_shot("VPT", 16, (50,))
    *_, auroc, fpr95, gl = metrics(outcomes).values()
    where = "emoji_food (%) on test images, seed 1"
    assert auroc.title == f"Few-shot on DTD: AUROC MCM against {where}"
    assert gl.title == f"Few-shot on DTD: AUROC GL-MCM against {where}"
    assert lines(auroc) == {"CoOp": ["80.00"], "ALIGN": ["90.00"]}
    assert lines(fpr95) == {"CoOp": ["30.00"], "ALIGN": ["20.00"]}
    assert lines(gl) == {"ALIGN": ["95.00"]}
    assert auroc.best(1) == fpr95.best(1) == {1}  # it has the fewest false positives
