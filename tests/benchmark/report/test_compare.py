"""Differences of a method to all others, from the predictions that runs left."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from outcomes import lines, outcome

from benchmark.report.command import formatted_view
from benchmark.report.compare import Comparisons
from benchmark.report.results import Outcome
from benchmark.report.rows import rows
from recipe.predictions import NAME, write_predictions
from trainers.prompting.errors import UserError


@pytest.fixture
def answered(tmp_path):
    """Makes the outcome of a run that was right about the first of so many images."""

    def make(trainer, seed, part, right, n=40, dataset="emoji", images="image", **more) -> Outcome:
        label = np.arange(n) % 3
        prediction = np.where(np.arange(n) < right, label, (label + 1) % 3)
        found = outcome(trainer, seed, part, 100 * right / n, dataset, **more)
        run = replace(found.run, folder=tmp_path / found.run.folder)
        run.folder.mkdir(parents=True)
        names = [f"{images}{i:03}.png" for i in range(n)]
        columns = {"image": names, "label": label, "prediction": prediction}
        columns |= {"top": prediction[:, None], "probability": np.ones((n, 1))}
        write_predictions(run.folder, columns | {"label_log_probability": np.zeros(n)})
        return replace(found, run=run)

    return make


def base2new(answered, trainer, base, new, **more):
    """Outcomes of seeds 1, 2, ..., from the numbers of images that were right."""
    return [
        answered(trainer, seed, part, right, **more)
        for part, values in (("base", base), ("new", new))
        for seed, right in enumerate(values, 1)
    ]


def tables(outcomes, method="ALIGN"):
    (found,) = Comparisons(rows(outcomes), method).tables().values()
    return found


def test_base_to_new_has_a_line_for_each_other_method(answered):
    outcomes = base2new(answered, "ALIGN", [30, 30], [20, 20])
    outcomes += base2new(answered, "CoOp", [26, 26], [20, 20])
    outcomes += base2new(answered, "ZeroshotCLIP", [10], [10])
    (table,) = tables(outcomes)
    assert table.title == (
        "Base-to-new on emoji: ALIGN minus each other on test images, 16 shots, seeds 1 2"
    )
    assert table.head == ["Method", "Base", "New", "H"]
    found = lines(table)
    assert list(found) == ["ZeroshotCLIP", "CoOp"] and not table.problems
    base, new, h = found["CoOp"]
    assert base.startswith("+10.00 [+2") and base.endswith(f"p {2 / 2**4:.3f}")
    assert new == "+0.00 [+0.00, +0.00] p 1.000"
    assert h.startswith(f"{2 * 75 * 50 / 125 - 2 * 65 * 50 / 115:+.2f} [")
    assert found["ZeroshotCLIP"][0].endswith("p < 0.001")


def test_averages_are_over_the_data_sets_that_both_methods_have(answered):
    outcomes = []
    for dataset, gain in (("dtd", 4), ("eurosat", 8)):
        outcomes += base2new(answered, "ALIGN", [20 + gain], [20], dataset=dataset)
        outcomes += base2new(answered, "CoOp", [20], [20], dataset=dataset)
    outcomes += base2new(answered, "MaPLe", [20], [20], dataset="dtd")
    *_, table = tables(outcomes)
    assert table.title.startswith("Base-to-new, average over 2 data sets: ALIGN minus each other")
    found = lines(table)
    assert found["CoOp"][0].startswith("+15.00 [")
    assert found["CoOp"][2].startswith(f"{2 * 65 * 50 / 115 - 50:+.2f} [")
    assert found["MaPLe"][0].startswith("+10.00 [") and found["MaPLe"][0].endswith("(1 of 2)")
    assert any("interval is over images alone" in sentence for sentence in table.caption)


def test_few_shot_has_a_column_for_each_number_of_shots(answered):
    more = {"protocol": "few_shot"}
    outcomes = [answered("ZeroshotCLIP", 1, "all", 20, shots=0, **more)]
    for shots in (1, 16):
        for seed in (1, 2):
            outcomes.append(answered("ALIGN", seed, "all", 20 + shots, shots=shots, **more))
    outcomes.append(answered("CoOp", 2, "all", 38, shots=16, **more))
    (table,) = tables(outcomes)
    assert table.head == ["Method", "1 shot", "16 shots"]
    found = lines(table)
    assert [cell.partition(" ")[0] for cell in found["ZeroshotCLIP"]] == ["+2.50", "+40.00"]
    assert found["CoOp"][0] == "-" and found["CoOp"][1].startswith("-5.00 [")
    assert table.problems == ["CoOp, emoji, 16 shots, Accuracy: 1 of 2 seeds"]
    (table,) = tables(outcomes, "ZeroshotCLIP")  # the other way round
    assert lines(table)["ALIGN"][1].startswith("-40.00 [")


def test_transfer_has_a_column_for_each_target_and_their_average(answered):
    outcomes = []
    for trainer, gain in (("ALIGN", 4), ("CoOp", 0)):
        more = {"protocol": "cross_dataset", "source": "emoji"}
        for seed in (1, 2):
            outcomes.append(answered(trainer, seed, "source", 20, **more))
            for target, n in (("emoji_food", 40), ("emoji_animals", 80)):
                part = trainer, seed, "target", 20 + gain
                outcomes.append(answered(*part, n, target, **more))
    (table,) = tables(outcomes)
    assert table.head == ["Method", "emoji", "emoji_animals", "emoji_food", "Average"]
    numbers = [cell.partition(" ")[0] for cell in lines(table)["CoOp"]]
    assert numbers == ["+0.00", "+5.00", "+10.00", "+7.50"]


def test_the_settings_of_an_ablation_are_compared_by_name(answered):
    outcomes = []
    for variant, right in (("beta0", 20), ("beta0.5", 24), ("M2_N2", 20)):
        more = {"protocol": "ablation", "variant": variant}
        outcomes += base2new(answered, "ALIGN", [right], [20], **more)
    (table,) = tables(outcomes, "beta = 0.5")
    assert lines(table)["beta = 0"][0].startswith("+10.00 [")


def test_runs_that_cannot_be_compared_are_named(answered):
    outcomes = base2new(answered, "ALIGN", [30, 30], [20, 20])
    without = base2new(answered, "CoOp", [30, 30], [20, 20])
    for left in without[:2]:
        (left.run.folder / NAME).unlink()
    other = base2new(answered, "VPT", [30, 30], [20, 20], images="another")
    stale = base2new(answered, "MaPLe", [30, 30], [20, 20])
    stale[0] = replace(stale[0], result=stale[0].result | {"accuracy": 50.0})
    failed = [outcome("UPT", 1, "base", 0.0, problem="failed: no memory")]
    (table,) = tables([*outcomes, *without, *other, *stale, *failed])
    found = lines(table)
    assert found["CoOp"][0] == found["CoOp"][2] == found["VPT"][0] == found["UPT"][0] == "-"
    assert found["CoOp"][1].startswith("+0.00") and found["MaPLe"][0].startswith("+0.00")
    text = "\n".join(table.problems)
    assert (
        "CoOp, emoji, Base: no predictions, repeat with TEST.PREDICTIONS True [seeds 1 2]" in text
    )
    assert "VPT, emoji, Base: other test images, or labels, than ALIGN" in text
    assert "MaPLe, emoji, Base: predictions that are not those of its results.json" in text
    assert "MaPLe, emoji, Base: 1 of 2 seeds" in text
    assert "UPT, emoji, Base: no finished run" in text


def test_a_name_that_no_line_has(answered):
    outcomes = base2new(answered, "ALIGN", [30], [20])
    with pytest.raises(UserError, match="method to compare 'Align': did you mean 'ALIGN'"):
        Comparisons(rows(outcomes), "Align")
    with pytest.raises(UserError, match="no other method beside ALIGN"):
        Comparisons(rows(outcomes), "ALIGN")


def test_every_format_has_the_difference(answered):
    outcomes = base2new(answered, "ALIGN", [30], [20])
    outcomes += base2new(answered, "CoOp", [26], [20])
    listed = rows(outcomes)
    view = Comparisons(listed, "ALIGN")
    for form in ("text", "markdown", "latex", "html"):
        assert "+10.00 [" in formatted_view(view, form, listed)
    (first, *_) = csv.DictReader(io.StringIO(formatted_view(view, "csv", listed)))
    (same, *_) = json.loads(formatted_view(view, "json", listed))["comparisons"]
    assert float(first["difference"]) == pytest.approx(10) == pytest.approx(same["difference"])
    assert (same["column"], same["other"], same["images"], same["p"]) == ("base", "CoOp", 40, 0.125)
