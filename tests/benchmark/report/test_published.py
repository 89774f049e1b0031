"""The published numbers beside ours."""

import json

import pytest
from checkout import REPOSITORY
from outcomes import few_shot, lines, only_table, outcome

from benchmark.protocols import FEW_SHOT
from benchmark.report.published import NAMES, numbers
from benchmark.report.render import as_text, render
from benchmark.report.rows import rows


def test_published_numbers_stand_beside_ours():
    table = only_table(few_shot("CoOp", 1, (48, 49)) + few_shot("VPT", 1, (48, 49)))
    assert lines(table) == {
        "CoOp": ["48.50 ± 0.71"],
        "CoOp, published": ["48.40"],
        "CoOp, difference": ["+0.10"],
        "VPT": ["48.50 ± 0.71"],
    }
    assert any("Table D.1" in sentence for sentence in table.caption)
    assert table.best(1) == set()  # ours are equal, and theirs do not compete
    (record,) = json.loads(render(rows(few_shot("CoOp", 1, (48,))), "json"))["rows"]
    assert (record["published"], record["difference"]) == (48.4, pytest.approx(-0.4))


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "emoji"},
        {"backbone": "RN50"},
        {"split": "val"},
        {"trainer": "MMP"},
        {"shots": 3},
        {"protocol": "base2new", "part": "base"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_cannot_be_compared_is_not(other):
    setting = {"trainer": "ALIGN", "dataset": "dtd", "shots": 4, "part": "all"}
    setting |= {"protocol": "few_shot", "seed": 1, "accuracy": 60.0} | other
    assert "published" not in as_text(only_table([outcome(**setting)]))
    assert "published" in as_text(only_table([outcome(**setting | {
        "dataset": "dtd", "backbone": "ViT-B/16", "split": "test", "trainer": "ALIGN", "shots": 4,
        "protocol": "few_shot", "part": "all",
    })]))  # fmt: skip


def test_the_misprint_is_marked_and_not_compared():
    outcomes = few_shot("ALIGN", 8, (80,), "ucf101") + few_shot("ALIGN", 16, (86,), "ucf101")
    table = only_table(outcomes)
    assert lines(table)["ALIGN, published"] == ["81.99", "95.69 (misprint)"]
    assert lines(table)["ALIGN, difference"] == ["-1.99", "-"]
    assert any("misprint" in sentence for sentence in table.caption)
    *_, record = json.loads(render(rows(outcomes), "json"))["rows"]
    assert record["published_is_misprint"] and record["difference"] is None


def test_every_published_number_is_found_by_our_names():
    assert {name for name, _, _ in numbers(FEW_SHOT.published)} == set(NAMES.values())
    assert len(numbers(FEW_SHOT.published)) == 11 * 5 * 5
    configs = {path.stem for path in (REPOSITORY / "configs/datasets").glob("*.yaml")}
    assert set(NAMES) <= configs
