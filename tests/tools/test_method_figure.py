"""Tests of `python -m tools.method_figure`, which draws the figure of the first page."""

from xml.etree import ElementTree

from paths import ROOT

from tools.method_figure import PALETTES, main


def test_both_figures_are_drawn_in_their_colours(tmp_path):
    main(["--output", str(tmp_path)])
    drawn = {path.stem: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert drawn.keys() == PALETTES.keys()
    for name, (other,) in ((name, PALETTES.keys() - {name}) for name in PALETTES):
        ElementTree.fromstring(drawn[name])
        here = {key for key, colour in PALETTES[name].items() if colour.encode() in drawn[name]}
        assert here == PALETTES[name].keys()
        assert PALETTES[other]["ink"].encode() not in drawn[name]
        assert (ROOT / "docs" / f"{name}.svg").is_file()
