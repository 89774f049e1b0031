"""Plots: panels, points and looks; the same numbers give the same bytes."""

from itertools import combinations

import pytest
from matplotlib.colors import is_color_like
from matplotlib.contour import QuadContourSet
from matplotlib.markers import MarkerStyle
from outcomes import few_shot, outcome, rows, varied

from benchmark.cli import write_output
from benchmark.report import plots
from benchmark.report.plots import LOOKS, OTHER_COLOURS, OTHER_MARKERS, looks


def figure(outcomes, name):
    return plots.figures(rows(outcomes))[name][0]


def panels(figure) -> dict:
    return {axis.get_title(): axis for axis in figure.axes}


def curves(axis) -> list[tuple[list, list]]:
    """Return the points of all curves of a panel."""
    drawn = [line for line in axis.lines if line.get_marker() not in ("None", "_", "|", "")]
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
    assert list(drawn) == ["Average over 2 data sets", "DTD", "EuroSAT"]
    average = drawn["Average over 2 data sets"]
    assert curves(average) == [([0], [45.0]), ([1, 2], [56.0, 66.0])]  # ALIGN lacks a data set
    assert [y for _, y in curves(drawn["DTD"])] == [[40], [51, 61], [70]]
    assert [tick.get_text() for tick in average.get_xticklabels()] == ["0", "1", "2"]
    legend = figure(outcomes, "few_shot").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["ZeroshotCLIP", "CoOp", "ALIGN"]


def test_the_legend_is_read_row_by_row():
    outcomes = few_shot("ZeroshotCLIP", 0, (50,))
    for trainer in ("CoOp", "VPT", "IVLP", "MaPLe", "ALIGN"):
        outcomes += few_shot(trainer, 1, (50, 52))
    drawn = figure(outcomes, "few_shot")
    drawn.draw_without_rendering()
    texts = drawn.legends[0].get_texts()
    box = {text.get_text(): text.get_window_extent() for text in texts}
    read = sorted(box, key=lambda name: (-round(box[name].y0), box[name].x0))
    assert read == ["ZeroshotCLIP", "CoOp", "VPT", "IVLP", "MaPLe", "ALIGN"]


def test_base_to_new_is_a_plane_of_both_accuracies():
    outcomes = []
    for trainer, base, new in (("CoOp", 80, 40), ("ALIGN", 70, 60)):
        for seed in (1, 2):
            outcomes.append(outcome(trainer, seed, "base", base + seed))
            outcomes.append(outcome(trainer, seed, "new", new + seed))
    drawn = figure(outcomes, "base2new")
    (axis,) = drawn.axes
    assert curves(axis) == [([81.5], [41.5]), ([71.5], [61.5])]
    bars = "Bars: standard deviations over the seeds"
    assert drawn.get_supxlabel() == f"Accuracy on base classes (%)\n{bars}"


def test_lines_of_equal_h_are_labelled():
    outcomes = []
    for trainer, base, new in (("CoOp", 92, 45), ("ALIGN", 85, 70), ("ZeroshotCLIP", 56, 64)):
        outcomes += [outcome(trainer, 1, "base", base), outcome(trainer, 1, "new", new)]
    for trainer, base, new in (("CoOp", 5, 95), ("ALIGN", 95, 5)):  # the axes begin below 0
        more = {"dataset": "emoji_food"}
        outcomes += [outcome(trainer, 1, "base", base, **more)]
        outcomes += [outcome(trainer, 1, "new", new, **more)]
    drawn = figure(outcomes, "base2new")
    for axis in panels(drawn).values():
        (lines,) = [of for of in axis.collections if isinstance(of, QuadContourSet)]
        levels = {f"H {level:g}": level for level in lines.levels}
        assert len(levels) > 2 and min(lines.levels) > 0
        assert {text.get_text() for text in axis.texts} <= levels.keys() and len(axis.texts) > 1
        for path, level in zip(lines.get_paths(), lines.levels, strict=True):
            x, y = path.vertices.T
            assert 2 * x * y / (x + y) == pytest.approx(level, rel=0.01)


def test_a_point_that_lacks_seeds_is_hollow():
    outcomes = few_shot("CoOp", 1, (50, 52)) + few_shot("CoOp", 2, (60,))
    (axis,) = figure(outcomes, "few_shot").axes
    (hollow,) = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert (list(hollow.get_xdata()), list(hollow.get_ydata())) == (
        [1],
        [60],
    )  # the second number of shots
    assert not figure(outcomes, "few_shot").legends  # a single method needs none


def test_the_sentence_says_only_what_is_drawn():
    whole = few_shot("CoOp", 1, (50,)) + few_shot("CoOp", 2, (60,))
    (said,) = (sentence for _, sentence in plots.figures(rows(whole)).values())
    assert said.endswith("the star marks zero-shot CLIP.")
    (said,) = (of for _, of in plots.figures(rows(whole + few_shot("CoOp", 4, (60, 62)))).values())
    assert said.endswith(
        "; bars are standard deviations over the seeds; a hollow marker lacks seeds."
    )


def test_beta_has_error_bars_and_the_order_of_beta():
    """Figure D1; of base-to-new, H is drawn."""
    beta = "TRAINER.ALIGN.BETA="
    outcomes = varied(f"{beta}1", (50, 54), (50, 54)) + varied(f"{beta}0", (40, 40), (40, 40))
    drawn = figure(outcomes, "base2new_beta")
    (axis,) = drawn.axes
    assert curves(axis) == [([0.0, 1.0], [40.0, 52.0])] and drawn.get_supylabel() == "H (%)"
    (bars,) = [c for c in axis.collections if len(c.get_segments()) == 1]
    low, high = (y for _, y in bars.get_segments()[0])
    assert (high - low) / 2 == pytest.approx(8**0.5)


def inside(figure, artists) -> bool:
    """Return True if all of these lie in the figure, and none on another."""
    figure.draw_without_rendering()
    boxes = [artist.get_window_extent() for artist in artists]
    within = all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    pairs = combinations(boxes, 2)
    return within and not any(one.overlaps(other) for one, other in pairs)


@pytest.mark.slow
def test_labels_neither_overlap_nor_are_cut():
    outcomes = [outcome("CoOp", 1, part, value, dataset, config=f"a_config_of_a_long_name_{config}")
                for part, value in (("base", 30 + 9 * len("ab")), ("new", 80))
                for dataset in ("dtd", "eurosat") for config in "ab"]  # fmt: skip
    outcomes += [outcome("VPT", 1, part, 60, name) for part in ("base", "new")
                 for name in ("dtd", "eurosat")]  # fmt: skip
    drawn = figure(outcomes, "base2new")
    assert inside(drawn, drawn.legends[0].get_texts())


def test_a_setting_with_several_values_has_a_plot():
    """A panel for each number of shots; untrained methods are level lines in all of them."""
    outcomes = few_shot("ZeroshotCLIP", 0, (40,)) + few_shot("VPT", 1, (45,))
    for shots in (1, 16):
        for noise in (0, 0.25, 0.5):
            opts = ("DATASET.LABEL_NOISE", str(noise))
            outcomes += few_shot("CoOp", shots, (50 + shots - 20 * noise,), opts=opts)
    drawn = plots.figures(rows(outcomes))
    assert list(drawn) == ["few_shot", "few_shot_label_noise"]
    noisy = drawn["few_shot_label_noise"][0]
    xs = [0, 0.25, 0.5]
    assert {title: curves(axis) for title, axis in panels(noisy).items()} == {
        "DTD, 1 shot": [(xs, [40] * 3), (xs, [51, 46, 41]), (xs, [45] * 3)],
        "DTD, 16 shots": [(xs, [40] * 3), (xs, [66, 61, 56])],
    }
    assert noisy.get_supxlabel() == "LABEL_NOISE" and noisy.get_supylabel() == "Accuracy (%)"
    names = [text.get_text() for text in noisy.legends[0].get_texts()]
    assert names == ["ZeroshotCLIP", "CoOp", "VPT"]


def several(trainer, seed, value, known="1", shots=-1):
    opts = () if known == "1" else ("DATASET.KNOWN", known)
    more = {"protocol": "several_labels", "several": "ranks", "map": value, "opts": opts}
    one = outcome(trainer, seed, "all", None, "emoji_scenes", shots=shots, **more)
    del one.result["accuracy"]
    return one


def test_map_is_drawn_against_the_share_of_known_labels():
    outcomes = [several("ZeroshotCLIP", 1, 10)]
    for known, value in (("0.5", 20), ("1", 30)):
        outcomes += [several("CoOp", seed, value + seed, known) for seed in (1, 2)]
    assert [*plots.figures(rows(outcomes))] == ["several_labels_known"]
    (axis,) = figure(outcomes, "several_labels_known").axes
    assert curves(axis) == [([0.5, 1], [10, 10]), ([0.5, 1], [21.5, 31.5])]
    assert axis.figure.get_supylabel() == "mAP (%)" and axis.get_title() == "emoji_scenes"
    (_, sentence) = plots.figures(rows(outcomes))["several_labels_known"]
    assert sentence.endswith("mAP against KNOWN; bars are standard deviations over the seeds.")


def test_map_is_drawn_against_shots_of_which_all_come_last():
    outcomes = [several("CoOp", 1, value, "1", n) for n, value in ((-1, 30), (4, 20), (1, 10))]
    (axis,) = figure(outcomes, "several_labels").axes
    assert curves(axis) == [([0, 1, 2], [10, 20, 30])]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "4", "all"]


def test_methods_differ_by_colour_and_by_marker():
    assert len(LOOKS) == len(set(LOOKS.values()))
    for values in zip(*LOOKS.values(), strict=True):
        assert len({*values}) == len(LOOKS)
    outcomes = few_shot("ALIGN", 1, (50,), config="a") + few_shot("ALIGN", 1, (51,), config="b")
    outcomes += few_shot("Other", 1, (52,))
    listed = rows(outcomes)
    styles = plots._styles(listed.assign(curve=listed["name"])).values()
    for attribute in ("linestyle", "fillstyle"):  # lines and, in a plane, markers
        assert len({(style["color"], style[attribute]) for style in styles}) == 3


def test_many_variants_of_a_method_differ_without_lines():
    listed = rows([one for i in range(20) for one in few_shot("ALIGN", 1, (50,), config=f"c{i}")])
    styles = plots._styles(listed.assign(curve=listed["name"])).values()
    assert len({(of["color"], of["marker"], of["fillstyle"]) for of in styles}) == 20


def test_methods_have_a_look_each_that_can_be_drawn():
    others = [f"Other{i:03}" for i in range(143)]
    found = looks([*LOOKS, *others])
    assert found == looks(reversed([*others, *LOOKS])) and LOOKS.items() <= found.items()
    assert found.keys() == {*LOOKS, *others} and len({found[name] for name in others}) == 143
    for colour, marker in found.values():
        assert is_color_like(colour) and MarkerStyle(marker).get_path().vertices.size
    assert (found["Other012"][0], found["Other014"][1]) == (OTHER_COLOURS[1], OTHER_MARKERS[1])


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(tmp_path):
    outcomes = few_shot("CoOp", 1, (50, 52)) + few_shot("ALIGN", 1, (60, 62))
    for form in plots.FORMATS:
        first, second = tmp_path / f"first.{form}", tmp_path / f"second.{form}"
        for path in (first, second):
            write_output(path, plots.encode_figure(figure(outcomes, "few_shot"), form))
        assert first.read_bytes() == second.read_bytes()
    assert first.read_text().startswith("<?xml") and b"PNG" in (tmp_path / "first.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2 * len(plots.FORMATS)  # nothing is left over
