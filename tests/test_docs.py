"""Examples in the documentation."""

import doctest

from paths import ROOT


def test_the_examples_of_the_metrics_are_right():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "metrics.md"), module_relative=False)
    assert tried > 5 and not failed
