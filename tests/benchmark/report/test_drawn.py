"""Tests of `report --plots`: sizes of figures, the lines and bars in them, and their labels."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from outcomes import answer, columns, few_shot, outcome

METHODS = ["CoOp", "VPT", "MaPLe", "KgCoOp", "ProGrad", "TCP", "ALIGN"]  # as in tables


@pytest.fixture
def predicted(tmp_path):
    """Return a function that makes a few-shot outcome, given labels, answers and confidences."""

    def predicted(trainer, label, prediction, confidence=0.99, seed=1, **more):
        label, prediction = np.array(label), np.array(prediction)
        (one,) = few_shot(trainer, 16, (100 * (label == prediction).mean(),), **more)
        one = replace(one, run=replace(one.run, seed=seed))
        folder = tmp_path / one.run.folder.with_name(f"seed{seed}")
        return answer(one, folder, columns(label, prediction, confidence))

    return predicted


@pytest.mark.parametrize(
    "number, reliability, confusion", [(1, (3.8, 5.6), (5.2, 4.92)), (2, (4.8, 4.1), (8.4, 4.92)),
                                       (4, (7.2, 7.6), (12.6, 9.24))],
)  # fmt: skip
def test_a_figure_grows_with_its_panels(predicted, drawn, number, reliability, confusion):
    outcomes = [predicted(name, [0, 1], [0, 0]) for name in METHODS[:number]]
    for flag, size in (("--metrics", reliability), ("--classes", confusion)):
        (figure,) = drawn(outcomes, flag).values()
        assert figure.get_size_inches().tolist() == pytest.approx(size)
        titled = [axis for axis in figure.axes if axis.get_title()]
        assert [axis.get_title() for axis in titled] == METHODS[:number]
        labels = [axis.get_ylabel() for axis in titled]
        what = "Accuracy" if flag == "--metrics" else "True class"
        assert labels == [what, "", "", what][:number]  # the first of each line
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "Share of the true class" and len(figure.axes) == number + 1


def test_bars_of_confidence_stand_over_their_bins_beside_the_diagonal(predicted, drawn):
    confidence = [0.03, 0.5, 0.5, 0.52, 0.99, 0.98]  # in the bins 0, 7 and 14 of 15
    one = predicted("ALIGN", [0] * 6, [0, 0, 1, 0, 0, 0], confidence)
    twice = [one, predicted("ALIGN", [0] * 6, [0, 0, 1, 0, 0, 0], confidence, seed=2)]
    one = replace(one, result=one.result | {"calibration_error": 10.0})
    twice = [one, replace(twice[1], result=one.result | {"calibration_error": 20.0})]
    (figure,) = drawn(twice, "--metrics").values()
    axis = figure.axes[0]
    assert axis.get_xlim() == axis.get_ylim() == (0, 1)
    found = {round(bar.get_x() + bar.get_width() / 2, 4): bar.get_height() for bar in axis.patches}
    assert found == pytest.approx({round(0.5 / 15, 4): 1, 0.5: 2 / 3, round(14.5 / 15, 4): 1})
    assert all(bar.get_width() == pytest.approx(0.95 / 15) for bar in axis.patches)
    dots, diagonal = axis.lines
    assert dots.get_ydata().tolist() == pytest.approx([1, 2 / 3, 1])
    assert dots.get_xdata().tolist() == pytest.approx([0.03, 1.52 / 3, 0.985], abs=1e-3)
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]] and diagonal.get_linestyle() == "--"
    (below,) = axis.child_axes
    assert [bar.get_height() for bar in below.patches] == [1, 3, 2]  # once an image, of two seeds
    assert axis.get_title() == "ALIGN: ECE 15.0%"
    assert "images, mean of 2 seeds" in figure.get_supxlabel()


def test_numbers_in_the_cells_of_a_few_classes(predicted, drawn):
    def cells(classes):
        label = np.repeat(np.arange(classes), 4)
        said = label.copy()
        said[1:3], said[4] = 1, 0  # half of the first class, a quarter of the second
        names = {f"name {k}": 50.0 for k in range(classes)}
        one = predicted("ALIGN", label, said, seed=classes, per_class_accuracy=names)
        (figure,) = drawn([one], "--classes").values()
        axis = figure.axes[0]
        texts = {text.get_position()[::-1]: text for text in axis.texts}
        names = [text for text in axis.get_xticklabels() if "name" in text.get_text()]
        return axis, texts, names

    axis, texts, names = cells(12)
    shown = {place: (text.get_text(), text.get_color()) for place, text in texts.items()}
    assert shown == {(0, 0): ("50", "black"), (0, 1): ("50", "black"), (1, 0): ("25", "black"),
                     (1, 1): ("75", "white")} | {
                         (k, k): ("100", "white") for k in range(2, 12)
                     }  # fmt: skip
    (image,) = axis.images
    assert image.get_array()[1, :2].tolist() == [0.25, 0.75] and image.get_clim() == (0, 1)
    assert to_hex(image.to_rgba(np.ones((1, 1)))[0, 0]) == to_hex(image.get_cmap()(1.0))
    assert len(names) == 12 and {text.get_fontsize() for text in names} == {8}
    _, texts, names = cells(13)
    assert not texts and len(names) == 13 and {text.get_fontsize() for text in names} == {6}
    assert len(cells(40)[2]) == 40 and not cells(41)[2]


def shots_of(names, sets=1, values=(50.0, 52.0)):
    """Return few-shot outcomes of methods with one shot and two."""
    datasets = ["dtd", "eurosat", "ucf101"][:sets]
    return [one for name in names for dataset in datasets for shots in (1, 2)
            for one in few_shot(name, shots, values, dataset)]  # fmt: skip


LONG = [f"{letter * 10}" for letter in "ABCDE"]  # 4 in a line
LONGER = [f"{letter * 12}" for letter in "ABCDE"]  # 3


@pytest.mark.parametrize(
    "names, sets, grid, height, legend",
    [(METHODS[:1], 1, (1, 1), 3.2 + 0.2 + 0.4, 0), (METHODS[:2], 1, (1, 1), 3.2 + 0.2 + 0.4, 2),
     (METHODS[:5], 1, (1, 1), 3.2 + 0.4 + 0.4, 4), (LONG, 1, (1, 1), 3.2 + 0.4 + 0.4, 4),
     (LONGER, 1, (1, 1), 3.2 + 0.4 + 0.4, 3), (["A" * 80, "B"], 1, (1, 1), 3.2 + 0.4 + 0.4, 1),
     (METHODS[:2], 2, (2, 2), 2 * 2.3 + 0.2 + 0.4, 2), (METHODS[:1], 3, (2, 2), 2 * 2.3 + 0.6, 0)],
)  # fmt: skip
def test_a_plot_grows_with_its_panels_and_its_legend(drawn, names, sets, grid, height, legend):
    figure = drawn(shots_of(names, sets))["few_shot"]
    assert figure.get_size_inches().tolist() == pytest.approx([5.2, height])
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    assert len(figure.axes) == sets + (sets > 1)
    legends = figure.legends
    assert (legends[0]._ncols if legends else 0) == legend
    if sets == 1:
        alone = f"{names[0]}: DTD" if len(names) == 1 else "DTD"
        assert figure.axes[0].get_title() == alone


def test_two_panels_stand_side_by_side(drawn):
    outcomes = []
    for shots in (1, 16):
        for noise in (0, 0.5):
            opts = ("DATASET.LABEL_NOISE", str(noise))
            outcomes += few_shot("CoOp", shots, (50.0,), opts=opts)
    figure = drawn(outcomes)["few_shot_label_noise"]
    assert figure.axes[0].get_gridspec().get_geometry() == (1, 2)
    assert figure.get_size_inches().tolist() == pytest.approx([5.2, 2.6 + 0.2 + 0.4])


def test_the_star_of_zero_shot_is_large_and_level_with_a_line(drawn):
    outcomes = few_shot("ZeroshotCLIP", 0, (40.0,)) + shots_of(["CoOp"])
    (axis,) = drawn(outcomes)["few_shot"].axes
    of_markers = {line.get_marker(): line for line in axis.lines if len(line.get_xdata())}
    assert of_markers["*"].get_markersize() == 8 and of_markers["X"].get_markersize() == 4.5
    assert of_markers["*"].get_xydata().tolist() == [[0, 40]]
    (level,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert {*level.get_ydata()} == {40} and level.get_color() == of_markers["*"].get_color()
    bars = [bar for bar in axis.collections if bar.get_segments()]
    (bars,) = bars  # of CoOp alone
    segments = np.array(bars.get_segments())
    assert segments[:, :, 0].tolist() == [[1, 1], [2, 2]]
    assert segments[:, :, 1].tolist()[0] == pytest.approx([51 - 2**0.5, 51 + 2**0.5])


def test_a_plane_has_bars_both_ways(drawn):
    parts = (("base", 60, 2), ("new", 40, 4))
    outcomes = [outcome("CoOp", seed, part, value + rise * seed)
                for part, value, rise in parts for seed in (1, 2)]  # fmt: skip
    (axis,) = drawn(outcomes)["base2new"].axes
    across, up = (np.array(bar.get_segments())[0] for bar in axis.collections[:2])
    half = 2**0.5
    assert across.tolist() == [pytest.approx([63 - half, 46]), pytest.approx([63 + half, 46])]
    assert up.tolist() == [pytest.approx([63, 46 - 2 * half]), pytest.approx([63, 46 + 2 * half])]


def test_figures_of_the_page_are_clear_and_have_no_title_of_their_own(predicted, reported):
    """Their sentences have it; wide ones shrink less."""
    outcomes = [predicted(name, [0, 1], [0, 0]) for name in METHODS[:3]]
    html = reported(outcomes, "--format", "html", "--metrics")
    pictures = re.findall(r'min-width: (\d+)px" src="data:image/svg\+xml;base64,(.*?)"', html)
    assert [int(least) for least, _ in pictures] == [int(96 * 5.2 * 0.65), int(96 * 7.2 * 0.9)]
    for _, data in pictures:
        svg = base64.b64decode(data).decode()
        assert "fill: #ffffff" not in svg
        assert "<!-- Few-shot" not in svg and "<!-- Bars" not in svg
    assert "<!-- CoOp -->" in svg and "Bars: accuracy in each bin of confidence" in html


def test_lines_markers_and_letters_can_be_seen_and_are_not_heavy(predicted, drawn):
    """In points: lines of 0.4 to 1.5, caps of bars and markers of 3 to 8, letters of 5 to 12."""
    outcomes = shots_of(METHODS[:3]) + few_shot("ZeroshotCLIP", 0, (40.0,))
    outcomes += few_shot("CoOp", 4, (50.0,))  # lacks a seed
    for part in ("base", "new"):
        for trainer in METHODS[:2]:
            outcomes += [outcome(trainer, seed, part, 50.0 + 9 * seed) for seed in (1, 2)]
    outcomes += [predicted(name, [0, 1, 2], [0, 0, 2], dataset="eurosat") for name in METHODS[:2]]
    figures = drawn(outcomes) | drawn(outcomes[-2:], "--metrics", "--classes")
    kinds = {name.partition("_few")[0] for name in figures}
    assert kinds == {"few_shot", "base2new", "reliability", "confusion"}
    widths, markers, letters = [], [], []
    for figure in figures.values():
        figure.draw_without_rendering()
        for axis in [*figure.axes, *(x for above in figure.axes for x in above.child_axes)]:
            drawn_lines = [line for line in axis.lines if len(line.get_xdata())]
            widths += [x.get_linewidth() for x in drawn_lines if x.get_linestyle() != "None"]
            markers += [x.get_markersize() for x in drawn_lines if x.get_marker() != "None"]
            widths += [x for of in axis.collections for x in of.get_linewidths()]
            labels = [*axis.get_xticklabels(), *axis.get_yticklabels(), *axis.texts]
            labels += [axis.title, axis.xaxis.label, axis.yaxis.label]
            letters += [text.get_fontsize() for text in labels if text.get_text()]
    for found, low, high in ((widths, 0.4, 1.5), (markers, 3, 8), (letters, 5, 12)):
        assert len(found) > 20 and low <= min(found) and max(found) <= high
