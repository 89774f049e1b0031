"""Tests of `--plugin` for the commands that list methods."""

import pytest

from benchmark.__main__ import main


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("methods --format csv", "PluggedCoOp,0,1,0,none,16 / -,1 / -,prompt_learner,8192"),
        ("methods --format csv", "PluggedShift,-,-,-,-,-,-,shift,512"),
    ],
)
def test_methods_of_a_plug_in_are_listed(plugged, capsys, words, line):
    assert main([*words.split(), "--plugin", plugged]) == 0, capsys.readouterr().err
    assert line in capsys.readouterr().out
