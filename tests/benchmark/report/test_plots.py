"""Plots: what is drawn, how it is told apart, and that the same numbers give the same bytes."""

import pytest
from outcomes import ablation, few_shot

from benchmark.cli import write_output
from benchmark.report import plots
from benchmark.report.methods import LOOKS, looks
from benchmark.report.rows import rows


def figure(outcomes, name):
    return plots.figures(rows(outcomes))[name][0]


def panels(figure) -> dict:
    return {axis.get_title(): axis for axis in figure.axes}


def curves(axis) -> list[tuple[list, list]]:
    """The points of the solid curves and stars of a panel."""
    drawn = [line for line in axis.lines if line.get_marker() not in ("None", "_", "")]
    return [
        (list(line.get_xdata()), list(line.get_ydata())) for line in drawn if len(line.get_xdata())
    ]


def test_few_shot_has_a_panel_for_each_data_set_and_one_for_the_average():
    outcomes = few_shot("ZeroshotCLIP", 0, (40,)) + few_shot("ZeroshotCLIP", 0, (50,), "eurosat")
    for shots, value in ((1, 50), (2, 60)):
        outcomes += few_shot("CoOp", shots, (value, value + 2))
        outcomes += few_shot("CoOp", shots, (value + 10, value + 12), "eurosat")
    outcomes += few_shot("ALIGN", 1, (70, 70))
    drawn = panels(figure(outcomes, "few_shot"))
    assert list(drawn) == ["Average over 2 data sets", "dtd", "eurosat"]
    average = drawn["Average over 2 data sets"]
    assert curves(average) == [([0], [45.0]), ([1, 2], [56.0, 66.0])]  # ALIGN lacks a data set
    assert curves(drawn["dtd"]) == [([0], [40]), ([1, 2], [51, 61]), ([1], [70])]
    assert list(average.get_xticks()) == [0, 1, 2]
    legend = figure(outcomes, "few_shot").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["ZeroshotCLIP", "CoOp", "ALIGN"]


def test_a_point_that_lacks_seeds_is_hollow():
    outcomes = few_shot("CoOp", 1, (50, 52)) + few_shot("CoOp", 2, (60,))
    (axis,) = figure(outcomes, "few_shot").axes
    (hollow,) = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert (list(hollow.get_xdata()), list(hollow.get_ydata())) == ([2], [60])


def test_beta_has_error_bars_and_the_order_of_beta():
    outcomes = ablation("beta1", (50, 54), (50, 54)) + ablation("beta0", (40, 40), (40, 40))
    outcomes += ablation("M2_N2", (40,), (40,))
    (axis,) = figure(outcomes, "ablation_beta").axes
    assert curves(axis) == [([0.0, 1.0], [40.0, 52.0])]
    (bars,) = [c for c in axis.collections if len(c.get_segments()) == 1]
    low, high = (y for _, y in bars.get_segments()[0])
    assert (high - low) / 2 == pytest.approx(8**0.5)


def test_methods_differ_by_colour_and_by_marker():
    assert len(LOOKS) == len(set(LOOKS.values()))
    for attribute in ("color", "marker"):
        assert len({getattr(look, attribute) for look in LOOKS.values()}) == len(LOOKS)
    outcomes = few_shot("ALIGN", 1, (50,), config="a") + few_shot("ALIGN", 1, (51,), config="b")
    outcomes += few_shot("Other", 1, (52,))
    styles = [tuple(style.values()) for style in plots._styles(rows(outcomes)).values()]
    assert len(set(styles)) == 3


def test_methods_that_are_not_known_have_looks_of_their_own():
    names = [f"Method{i}" for i in range(40)]
    found = looks([*names, *LOOKS])
    assert len(set(found.values())) == 40 + len(LOOKS)
    assert found == looks(reversed([*names, *LOOKS]))
    assert {name: found[name] for name in LOOKS} == LOOKS


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    outcomes = few_shot("CoOp", 1, (50, 52)) + few_shot("ALIGN", 1, (60, 62))
    for form in plots.FORMATS:
        first, second = tmp_path / f"first.{form}", tmp_path / f"second.{form}"
        for path in (first, second):
            write_output(path, plots.encoded(figure(outcomes, "few_shot"), form))
        assert first.read_bytes() == second.read_bytes()
    assert first.read_text().startswith("<?xml") and b"PNG" in (tmp_path / "first.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4  # nothing is left over
