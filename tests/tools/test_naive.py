"""Tests of `python -m tools.naive`: its comparison and its table, but not its times."""

import json
import subprocess
import sys

import pytest
import torch
from paths import ROOT

from benchmark.measure import case, speed, speed_tables
from benchmark.measure.case import Case, Model, NaiveModel, operations
from benchmark.measure.process import OutOfMemory
from tools import naive

TINY = (64, 64, 12, 64, 16, 77, 49408, 64, 1, 12)  # as deep as ViT-B, a twelfth as wide
SMALL = ["--classes", "5", "--batch", "1", "--eval-batch", "2", "--repeats", "1", "--threads", "1"]


@pytest.fixture
def inline(monkeypatch):
    """Return words for a backbone called `tiny`, measured in this process."""
    monkeypatch.setitem(speed.GEOMETRY, "tiny", TINY)
    monkeypatch.setattr(speed, "in_process", lambda function, *args: function(*args))
    threads = torch.get_num_threads()
    yield ["--backbone", "tiny", *SMALL, "--format", "markdown"]
    torch.set_num_threads(threads)


def cells(text: str, name: str) -> list[str]:
    """Return the cells of a line in a Markdown table."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def check(text: str, record: dict):
    """Check that ALIGN needs fewer operations for the same logits, and that the table shows it."""
    ours, theirs = record["ours"], record["naive"]
    assert ours["training"]["operations"] < theirs["training"]["operations"]
    assert record["largest_difference"] <= naive.SAME and not record["differs"]
    shown = cells(text, f"ALIGN, 5, {record['precision']}")
    assert speed_tables.spread(theirs["training"]["seconds"]) in shown
    for ratio in record["ratios"].values():
        assert f"{ratio:.3g}" in shown
    assert f"differ by {record['largest_difference']:.1g} at most" in text


def test_the_table_shows_what_the_file_has(inline, tmp_path, capsys):
    file = tmp_path / "naive.json"
    assert naive.main([*inline, "--precision", "fp32", "amp", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    records = json.loads(file.read_text())["records"]
    assert [record["precision"] for record in records] == ["fp32", "amp"]
    for record in records:
        check(out, record)
    assert records[0]["naive"] == records[1]["naive"]
    assert err.count("ALIGN, 5 classes, fp32: naive, step 1 of 1") == 1


@pytest.mark.slow
def test_a_backbone_of_full_size_is_compared(tmp_path):
    file = tmp_path / "naive.json"
    words = [*SMALL, "--backbone", "ViT-B/32", "--format", "markdown", "--json", str(file)]
    process = subprocess.run(
        [sys.executable, "-m", "tools.naive", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    (record,) = json.loads(file.read_text())["records"]
    check(process.stdout, record)


def test_other_logits_give_no_ratio(inline, monkeypatch, capsys):
    output = case.Naive.output

    def other(*args):
        found = output(*args)
        return found._replace(logits=1.001 * found.logits)

    monkeypatch.setattr(case.Naive, "output", other)
    assert naive.main([*inline, "--trainers", "CoOp"]) == 1
    out = capsys.readouterr().out
    assert "CoOp, 5, fp32: the naive reference computes other logits" in out
    assert cells(out, "CoOp, 5, fp32")[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_out_of_memory_ends_only_the_reference(inline, part, monkeypatch, capsys, tmp_path):
    measure = getattr(naive, part)

    def full(case, kind, repeats):
        if kind == "naive":
            raise OutOfMemory
        return measure(case, kind, repeats)

    monkeypatch.setattr(naive, part, full)
    file = tmp_path / "naive.json"
    assert naive.main([*inline, "--trainers", "CoOp", "MaPLe", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "MaPLe, 5 classes, fp32: out of memory" in err
    for record in json.loads(file.read_text())["records"]:
        assert all(found["seconds"] for found in record["ours"].values())
        assert record["naive"][part] == {"problem": "out of memory"}
        assert record["ratios"]["evaluation" if part == "evaluation" else "step"] is None
    assert "out of memory" in cells(out, "MaPLe, 5, fp32")


@pytest.mark.parametrize("trainer", naive.NAIVE)
def test_the_reference_computes_the_same(trainer):
    measured = Case(trainer, TINY, 7, 2, "cpu", "fp32", 1)
    ours, theirs = Model(measured), NaiveModel(measured)
    torch.testing.assert_close(theirs.first_step(), ours.first_step(), rtol=0, atol=naive.SAME)
    assert operations(theirs.step) > 1.3 * operations(ours.step)


def test_bad_input_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        naive.main(["--trainers", "VPT"])
    assert "invalid choice: 'VPT'" in capsys.readouterr().err
