"""The HTML page."""

import datetime
import re

from outcomes import ablation, few_shot, page, some_outcomes


def test_page_is_self_contained_and_accessible():
    outcomes = some_outcomes() + few_shot("<b>", 1, (48,)) + ablation("beta1", (50,), (50,))
    html = page(outcomes)
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "<script" not in html
    assert html.count("<table") == html.count("<caption") == 3
    assert html.count('<th scope="col">') == 7 + 2 + 4
    assert html.count('<th scope="row">') == 2 + 1 + 1
    assert html.count("<img alt=") == 3
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))


def test_page_lists_versions_and_devices_of_the_runs():
    made = {
        "git": "0123456789abcdef",
        "versions": {"python": "3.12.1", "torch": "2.9", "device": "cpu"},
    }
    html = page(few_shot("CoOp", 1, (48, 49), **made) + few_shot("ALIGN", 1, (48,)))
    said = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert said.pop("Page made on") == str(datetime.date.today())
    assert said == {
        "Backbone": "ViT-B/16", "Commit": "0123456789ab", "PyTorch": "2.9", "Python": "3.12.1",
        "Device": "cpu", "Runs": "3",
    }  # fmt: skip


def test_averages_come_first_and_the_page_has_a_dark_mode():
    html = page(few_shot("CoOp", 1, (48,)) + few_shot("CoOp", 1, (58,), "eurosat"))
    captions = re.findall(r"<caption.*?>(.*?)</caption>", html)
    assert [" average over 2 " in caption for caption in captions] == [True, False, False]
    assert "prefers-color-scheme: dark" in html
