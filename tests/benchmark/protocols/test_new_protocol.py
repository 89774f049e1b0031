"""Test that a new protocol needs one class: its runs are made, found again and have a table."""

import sys

import pytest

PROTOCOL = '''
from itertools import product

from .base import METHOD, Part, Protocol
from .configs import ANY, Rule


class OneShot(Protocol):
    """Train and test on all classes with one image of each."""

    name = "one_shot"
    title = "One-shot recognition"
    summary = "train with one image a class"
    parts = {"only": Part(f"one_shot/{{dataset}}/{METHOD}/seed{{seed}}")}
    rules = [Rule("*", "*", ANY, "base2new")]
    options = {"--trainers": {"type": str.split, "default": "CoOp ALIGN"}}
    table_title = "One-shot on {dataset}"

    def plan(self, output, datasets, seeds, configs, trainers):
        runs = []
        for seed, dataset, trainer in product(seeds, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, 1)
            runs.append(self.run(output, "only", dataset=dataset, **method))
        return runs
'''


@pytest.mark.slow
def test_a_protocol_is_added_with_one_class(checkout):
    checkout.write_code()
    folder = checkout.root / "benchmark" / "protocols"
    (folder / "one_shot.py").write_text(PROTOCOL)
    with open(folder / "__init__.py", "a") as file:
        file.write('from .one_shot import OneShot\nPROTOCOLS["one_shot"] = OneShot()\n')
    assert "one_shot " in checkout.run(sys.executable, "-m", "benchmark", "--help").stdout
    printed = checkout.separately("one_shot", "emoji", "emoji_food", "--seeds", "1 2").stdout
    assert "One-shot on emoji_food: accuracy (%) on test images, 1 shot, seeds 1 2" in printed
    assert "One-shot recognition, average over 2 embedded data sets" in printed
    assert "Means over the data sets.\n" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("ALIGN")]
    assert rows == [["ALIGN", "71.50", "±", "0.71"]] * 2 + [["ALIGN", "71.50", "2", "of", "2"]]
    assert checkout.separately("report", "--protocol", "one_shot").stdout == printed
    assert "<caption" in checkout.separately("report", "--format", "html").stdout
