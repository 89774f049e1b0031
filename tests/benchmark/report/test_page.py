"""The page."""

import re

from outcomes import ablation, few_shot, some_outcomes

from benchmark.report.page import page
from benchmark.report.rows import rows


def test_page_is_whole_and_accessible():
    outcomes = some_outcomes() + few_shot("<b>", 1, (48,)) + ablation("beta1", (50,), (50,))
    html = page(rows(outcomes))
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "<script" not in html
    assert html.count("<table") == html.count("<caption") == 3
    assert html.count('<th scope="col">') == 7 + 2 + 4
    assert html.count('<th scope="row">') == 2 + 1 + 1
    assert html.count("<img alt=") == 2
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))
