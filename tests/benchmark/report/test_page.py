"""The HTML page."""

import datetime
import re

import pytest
from outcomes import (
    COLUMNS,
    few_shot,
    leave,
    only_table,
    outcome,
    page,
    some_outcomes,
    transfer,
    varied,
)

from benchmark.__main__ import main
from benchmark.report.table import Cell, interval


def test_page_is_self_contained_and_accessible():
    outcomes = some_outcomes() + few_shot("<b>", 1, (48,)) + varied("A=1", (50,), (50,))
    html = page(outcomes)
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "<script" not in html
    assert html.count("<table") == html.count("<caption") == 2
    assert html.count('<th scope="col">') == 7 + 2
    assert html.count('<th scope="row">') == 3 + 1
    assert html.count("<img alt=") == 2
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))


def test_page_lists_versions_and_devices_of_the_runs():
    made = {
        "git": "0123456789abcdef",
        "versions": {"python": "3.12.1", "torch": "2.9", "device": "cpu"},
    }
    before = datetime.date.today()
    html = page(few_shot("CoOp", 1, (48, 49), **made) + few_shot("ALIGN", 1, (48,)))
    said = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert said.pop("Page made on") in {str(before), str(datetime.date.today())}  # at midnight
    assert said == {
        "Backbone": "ViT-B/16", "Commit": "0123456789ab", "PyTorch": "2.9", "Python": "3.12.1",
        "Device": "cpu", "Runs": "3",
    }  # fmt: skip


def test_averages_come_first_and_the_page_has_a_dark_mode():
    html = page(few_shot("CoOp", 1, (48,)) + few_shot("CoOp", 1, (58,), "eurosat"))
    captions = re.findall(r"<caption.*?>(.*?)</caption>", html)
    assert [" average over 2 " in caption for caption in captions] == [True, False, False]
    assert "prefers-color-scheme: dark" in html


def test_the_title_names_all_protocols():
    outcomes = few_shot("CoOp", 1, (48,)) + transfer("CoOp", "emoji", {"emoji": 50, "dtd": 50})
    title = (
        "<title>Few-shot recognition, base-to-new and cross-dataset transfer on 2 data sets</title>"
    )
    assert title in page(some_outcomes() + outcomes)


@pytest.mark.slow
def test_all_views_are_parts_of_one_page_with_their_plots(tmp_path, capsys):
    classes = {"per_class_accuracy": {"cat": 100.0, "dog": 0.0}}
    for trainer in ("CoOp", "ALIGN"):
        outcomes = [outcome(trainer, 1, part, 50.0, **classes) for part in ("base", "new")]
        leave(tmp_path, outcomes + few_shot(trainer, 4, (50,), **classes), COLUMNS)
    views = ["--classes", "--compare", "ALIGN", "--metrics"]
    assert main(["report", str(tmp_path), "--format", "html", *views]) == 0
    html = capsys.readouterr().out
    heads = ["Accuracy", "More metrics", "ALIGN minus each other", "Classes"]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == ["Few-shot recognition", "Base-to-new"]
    assert re.findall(r"<h3[^>]*>(.*?)</h3>", html) == heads * 2
    nav = html[html.index("<nav") : html.index("</nav>")]
    targets = re.findall('href="#(.*?)"', nav)
    assert len(targets) == 10 and all(f'id="{target}"' in html for target in targets)
    assert re.findall("<li><a[^>]*>([^<]*)</a></li>", nav) == heads * 2
    # the confusion matrix of a test is below its table, reliability diagrams below the first
    tests = ("Few-shot recognition, DTD, 4 shots", "Base-to-new, emoji, new, 16 shots")
    for test, first in zip(tests, ("Few-shot on DTD", "Base-to-new on emoji"), strict=True):
        for title, word in ((f"{first}: NLL", "Bars: "), (f"{test}: accuracy (%) of", "Share of")):
            below = html[html.index(title) :].partition("<table")[0]
            sentences = re.findall("<figcaption>(.*?)</figcaption>", below)
            assert any(text.startswith(word) and text.endswith(f"{test}.") for text in sentences)
    for table in re.finditer("<table", html):  # a wide one scrolls
        assert re.search(r'<div class="wide"[^>]*>\s*$', html[: table.start()])
    assert ".wide { overflow-x: auto; }" in html


@pytest.mark.parametrize(
    ("value", "images", "said"),
    [
        (50.0, 20, "[29.9, 70.1]"), (100.0, 20, "[83.9, 100.0]"), (50.0, 999, "[47.0, 53.1]"),
        (50.0, 1000, ""), (50.0, None, ""), (None, 20, ""),
    ],
)  # fmt: skip
def test_the_interval_is_that_of_wilson(value, images, said):
    assert interval(Cell("text", value, images=images)) == said


def test_accuracies_of_one_seed_on_few_images_have_intervals():
    one = page(few_shot("CoOp", 1, (50.0,), num_test=20))
    assert re.findall("<small>(.*?)</small>", one) == ["[29.9, 70.1]"]
    assert "95% interval (Wilson)" in one
    html = page(few_shot("CoOp", 1, (50.0, 60.0), num_test=20))
    assert "<small>" not in html and "with 20 of them, the 95% interval (Wilson)" in html
    assert "of 50% reaches from 30 to 70%." in html


@pytest.mark.parametrize(
    ("base", "new", "said"),
    [
        (257, 209, "209 (the fewest here)"),
        (257, 1000, "257 (the fewest here)"),
        (5, 5, "5"),
        (1000, 2000, ""),
        (None, None, ""),
    ],
)
def test_with_few_images_a_deviation_is_not_all(base, new, said):
    outcomes = [outcome("CoOp", seed, part, 50.0, num_test=tested)
                for part, tested in (("base", base), ("new", new)) for seed in (1, 2)]  # fmt: skip
    told = " ".join(only_table(outcomes).below())
    assert (f" with {said} of them," in told) if said else ("Wilson" not in told)
