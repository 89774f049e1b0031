"""Sentences on rows of a table, from the frame of all runs; looks of methods in plots."""

from types import SimpleNamespace

from matplotlib.colors import is_color_like
from matplotlib.markers import MarkerStyle
from outcomes import few_shot

from benchmark.report.frame import computed_note, frame
from benchmark.report.gains import Gains
from benchmark.report.names import LOOKS, OTHER_COLOURS, OTHER_MARKERS, looks


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
    for look in found.values():
        assert is_color_like(look.color) and MarkerStyle(look.marker).get_path().vertices.size
    assert (found["Other012"].color, found["Other014"].marker) == (
        OTHER_COLOURS[1], OTHER_MARKERS[1]
    )  # fmt: skip


def test_the_best_gains_of_complete_lines_are_marked():
    numbers = {"ZeroshotCLIP": (40, 50), "CoOp": (60, 58), "ALIGN": (50, 62)}
    runs = [
        run
        for trainer, values in numbers.items()
        for name, value in zip(("dtd", "eurosat"), values, strict=True)
        for run in few_shot(trainer, 0 if trainer == "ZeroshotCLIP" else 16, (value,), name)
    ]
    ((table,),) = Gains(frame(runs)).tables().values()
    names = [line[0].text for line in table.lines]
    best = {table.head[i]: {names[line] for line in table.best(i)} for i in (2, 3, 5, 6)}
    assert best == {
        "Gain": {"CoOp"},
        "Worst gain": {"ALIGN"},
        "DTD": {"CoOp"},
        "EuroSAT": {"ALIGN"},
    }
