"""Sentences on rows of a table, from the frame of all runs."""

from types import SimpleNamespace

from benchmark.report.frame import computed_note


def test_the_precision_is_said_where_there_are_several():
    def row(name, *precisions):
        return SimpleNamespace(name=name, precisions=precisions)

    assert computed_note([row("CoOp", "float32"), row("ALIGN", "float32"), row("MaPLe")]) == []
    several = [row("CoOp", "float32", "bfloat16"), row("ALIGN", "float32"), row("CoOp", "float32")]
    assert computed_note(several) == ["Computed in bfloat16: CoOp; in float32: CoOp, ALIGN."]
