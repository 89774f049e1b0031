"""Parts of tables: sentences on rows, looks of methods, marks of gains, means and p at bounds."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import is_color_like
from matplotlib.markers import MarkerStyle
from outcomes import few_shot, gains

from benchmark.report.frame import alike_text, computed_note, frame
from benchmark.report.paired import harmonic, holm
from benchmark.report.plots import LOOKS, OTHER_COLOURS, OTHER_MARKERS, looks


def test_the_precision_is_said_where_there_are_several():
    def row(name, *precisions):
        return SimpleNamespace(name=name, precisions=precisions)

    assert computed_note([row("CoOp", "float32"), row("ALIGN", "float32"), row("MaPLe")]) == []
    several = [row("CoOp", "float32", "bfloat16"), row("ALIGN", "float32"), row("CoOp", "float32")]
    assert computed_note(several) == ["Computed in bfloat16: CoOp; in float32: CoOp, ALIGN."]


def test_methods_have_a_look_each_that_can_be_drawn():
    others = [f"Other{i:03}" for i in range(143)]
    found = looks([*LOOKS, *others])
    assert found.keys() == {*LOOKS, *others} and len({found[name] for name in others}) == 143
    assert len({*LOOKS.values()}) == len(LOOKS)
    for colour, marker in found.values():
        assert is_color_like(colour) and MarkerStyle(marker).get_path().vertices.size
    assert (found["Other012"][0], found["Other014"][1]) == (OTHER_COLOURS[1], OTHER_MARKERS[1])


def test_the_best_gains_of_complete_lines_are_marked():
    numbers = {"ZeroshotCLIP": (40, 50), "CoOp": (60, 58), "ALIGN": (50, 62)}
    runs = [
        run
        for trainer, values in numbers.items()
        for name, value in zip(("dtd", "eurosat"), values, strict=True)
        for run in few_shot(trainer, 0 if trainer == "ZeroshotCLIP" else 16, (value,), name)
    ]
    ((table,),) = gains(frame(runs)).tables().values()
    names = [line[0].text for line in table.lines]
    best = {table.head[i]: {names[line] for line in table.best(i)} for i in (2, 3, 5, 6)}
    assert best == {
        "Gain": {"CoOp"},
        "Worst gain": {"ALIGN"},
        "DTD": {"CoOp"},
        "EuroSAT": {"ALIGN"},
    }


def test_harmonic_means_and_adjusted_p_at_their_bounds():
    found = harmonic(np.array([0.0, 0.0, 0.25, 100.0]), np.array([0.0, 50.0, 0.75, 50.0]))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.375, 200 / 3])
    assert holm([0.5, 0.01, 0.4]) == pytest.approx([0.8, 0.03, 0.8])
    assert holm([0.9, 0.6, 0.7]) == [1.0, 1.0, 1.0] and holm([]) == []
    assert alike_text(list("abcde")) == "a = b = c = d = e"
    assert alike_text(list("abcdef")) == "a = b = c = d = e = ..."
