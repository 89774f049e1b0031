"""Gains over zero-shot CLIP: `report --gains`."""

import json

import pytest
from outcomes import few_shot, gains, leave, lines, outcome, transfer

from benchmark.report import command
from benchmark.report.frame import frame
from trainers.prompting.errors import UserError

CLIP = {"dtd": 40.0, "eurosat": 50.0, "food101": 85.0}


def zero_shot(**more):
    return [one for name, value in CLIP.items()
            for one in few_shot("ZeroshotCLIP", 0, (value,), name, **more)]  # fmt: skip


def trained(trainer, *accuracies, shots=16, **more):
    return [one for name, value in zip(CLIP, accuracies, strict=False)
            for one in few_shot(trainer, shots, (value,), name, **more)]  # fmt: skip


def tables(outcomes):
    return [table for of in gains(frame(outcomes)).tables().values() for table in of]


def test_the_mean_gain_and_the_worst():
    some = [*zero_shot(), *trained("CoOp", 55, 80, 84), *trained("ALIGN", 45, 52)]
    few, many = tables([*some, *trained("CoOp", 44, 54, 88, shots=4)])
    assert many.title == (
        "Few-shot recognition, average over 3 data sets, 16 shots: gains over zero-shot CLIP"
    )
    assert many.head == [
        "Method", "Average", "Gain", "Worst gain", "on", "Food101", "DTD", "EuroSAT"
    ]  # fmt: skip
    assert lines(many) == {
        "ZeroshotCLIP": ["58.33", *["-"] * 6],
        "CoOp": ["73.00", "+14.67", "-1.00", "Food101", "-1.00", "+15.00", "+30.00"],
        "ALIGN": ["48.50 (2 of 3)", "-", "+2.00", "EuroSAT", "-", "+5.00", "+2.00"],
    }
    assert lines(few)["CoOp"][1:3] == ["+3.67", "+3.00"]
    assert many.best(3) == set(), "what lacks a data set does not compete"


def test_the_best_gains_of_complete_lines_are_marked():
    some = [*zero_shot(), *trained("CoOp", 60, 58, 95), *trained("ALIGN", 50, 62, 96)]
    (table,) = tables(some)
    names = [line[0].text for line in table.lines]
    best = {table.head[i]: {names[line] for line in table.best(i)} for i in (2, 3, 6, 7)}
    expected = {"Gain": "CoOp", "Worst gain": "ALIGN", "DTD": "CoOp", "EuroSAT": "ALIGN"}
    assert best == {head: {name} for head, name in expected.items()}


def test_of_base_to_new_h_is_that_of_the_means():
    numbers = {"ZeroshotCLIP": ((40, 60), (50, 50)), "CoOp": ((60, 60), (70, 40))}
    some = [
        outcome(trainer, 1, part, value, dataset)
        for trainer, of in numbers.items()
        for dataset, values in zip(("dtd", "eurosat"), of, strict=True)
        for part, value in zip(("base", "new"), values, strict=True)
    ]
    found = {table.title.split(", ")[-1]: lines(table)["CoOp"] for table in tables(some)}
    assert found["Base: gains over zero-shot CLIP"][:2] == ["65.00", "+20.00"]
    assert found["New: gains over zero-shot CLIP"][1:4] == ["-5.00", "-10.00", "EuroSAT"]
    h, of_clip = 2 * 65 * 50 / 115, 2 * 45 * 55 / 100
    assert found["H: gains over zero-shot CLIP"][:2] == [f"{h:.2f}", f"+{h - of_clip:.2f}"]


def test_of_a_transfer_the_source_is_left_out():
    numbers = {"imagenet": 70.0, "dtd": 45.0, "eurosat": 44.0}
    zero = {"imagenet": 66.0, "dtd": 44.0, "eurosat": 48.0}
    some = transfer("CoOp", "imagenet", numbers)
    some += transfer("ZeroshotCLIP", "imagenet", zero, config="base2new")
    (table,) = tables(some)
    assert lines(table)["CoOp"] == ["44.50", "-1.50", "-4.00", "EuroSAT", "+1.00", "-4.00"]


def test_each_clip_has_its_own_zero_shot():
    some = [*zero_shot(), *trained("CoOp", 55, 80, 84)]
    of = {"config": "emoji@RN50", "backbone": "RN50"}
    some += [*zero_shot(**of), *trained("CoOp", 30, 40, 70, **of)]
    found = {record["method"]: record["gain"] for record in gains(frame(some)).records()
             if record["dataset"] == "dtd"}  # fmt: skip
    names = "CoOp (emoji), backbone ViT-B/16", "CoOp (emoji@RN50), backbone RN50"
    assert found == dict(zip(names, (15.0, -10.0), strict=True))
    (table,) = tables(
        [*zero_shot(), *trained("CoOp", 55, 80, 84), *trained("VPT", 30, 40, 70, **of)]
    )
    missing = "no finished run of ZeroshotCLIP: add it to --trainers"
    assert table.problems == [f"Few-shot recognition, Accuracy: {missing}"]


@pytest.mark.slow
def test_what_cannot_be_shown_is_said(tmp_path, capsys):
    with pytest.raises(UserError, match="--gains has nothing to show: Few-shot recognition, Accur"
                       "acy: no finished run of ZeroshotCLIP: add it to --trainers"):  # fmt: skip
        gains(frame(trained("CoOp", 55, 80)))
    one = [*few_shot("ZeroshotCLIP", 0, (40.0,)), *few_shot("CoOp", 16, (50.0,))]
    with pytest.raises(UserError, match="only one data set: the worst of several is shown"):
        gains(frame(one))
    base = [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")]
    with pytest.raises(UserError, match="nothing to show"):
        gains(frame(base))
    some = [*zero_shot(), *trained("CoOp", 55, 80, 84)]
    leave(tmp_path, some)
    command.main([str(tmp_path), "--gains", "--plots", str(tmp_path / "plots")])
    assert "gains over zero-shot CLIP" in capsys.readouterr().out
    command.main([str(tmp_path), "--gains", "--metrics"])
    told = capsys.readouterr().out
    assert told.index("gains over zero-shot CLIP") < told.index("16 shots: metrics")
    command.main([str(tmp_path), "--gains", "--metrics", "--format", "json"])
    assert list(json.loads(capsys.readouterr().out)) == ["gains", "metrics"]
