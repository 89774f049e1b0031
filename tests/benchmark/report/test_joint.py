"""Tables over base and new classes together; out-of-distribution detection."""

import numpy as np
import pytest
from outcomes import (
    answer,
    columns,
    few_shot,
    lines,
    metrics,
    outcome,
)

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
    ((table, _),) = over_both(outcomes)
    found = lines(table)
    assert found["CoOp"] == found["UPT"] == ["missing"] and found["ALIGN"] == BY_HAND[:1]
    why = {
        "CoOp": "no predictions over base and new classes together; repeat the run",
        "MaPLe": "MaPLe is made for its own classes",
        "UPT": "no finished run on new classes",
    }  # fmt: skip
    assert sorted(table.problems) == [
        f"{name}, base and new: missing: {text} [seed 1]" for name, text in why.items()
    ]


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
