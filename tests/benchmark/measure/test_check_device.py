"""Tests of `python -m benchmark check-device`: its checks, and its report of failed ones."""

import pytest
import torch

from benchmark.__main__ import main
from benchmark.measure import check_device
from trainers.prompting.scores import SCORES

TINY = (64, 64, 12, 128, 8, 77, 49408, 128, 2, 12)  # as deep as ViT-B, a sixth as wide
CHECKS = [
    "fused kernels",
    "memory of a step",
    "amp: logits",
    "amp: gradients",
    "logits of the reference",
    "time of a step",
    "the same step twice",
]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(check_device.GEOMETRY, "tiny", TINY)
    monkeypatch.setitem(check_device.SIZES, "cpu", ("tiny", 3, 1))
    monkeypatch.setattr(check_device, "REPEATS", 1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def said(capsys) -> tuple[dict[str, str], str]:
    """Return for each check whether it holds, and the closing sentence."""
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.err.splitlines()] == ["now"] * 5
    assert "now: steps of the naive reference\n" in printed.err
    table, _, sentence = printed.out.rstrip().rpartition("\n\n")
    lines = table.splitlines()[2:]
    names = {name: next(line for line in lines if line.startswith(name)) for name in CHECKS}
    assert len(lines) == len(CHECKS)
    return {name: line.split()[-1] for name, line in names.items()}, sentence


def test_all_checks_hold_on_this_machine(tiny, capsys):
    assert main(["check-device", "--device", "cpu", "--threads", "1"]) == 0
    holds, sentence = said(capsys)
    assert set(holds.values()) == {"yes"}
    assert sentence.startswith("All checks hold (") and torch.__version__ in sentence


def test_failed_checks_are_named(tiny, capsys, monkeypatch):
    """Scores are random, and the limit for memory is too small."""
    score, drawn = SCORES["ot"], torch.Generator()

    def wrong(*args):
        S = score.function(*args)
        return S + 1e-2 * torch.rand(S.shape, generator=drawn)

    monkeypatch.setitem(SCORES, "ot", score._replace(function=wrong))
    monkeypatch.setattr(check_device, "MEMORY", 0.01)
    assert main(["check-device", "--device", "cpu", "--threads", "1"]) == 1
    holds, sentence = said(capsys)
    wrong_ones = {name for name, word in holds.items() if word == "NO"}
    assert {"memory of a step", "logits of the reference", "the same step twice"} <= wrong_ones
    assert sentence.startswith("Not all checks hold: see memory of a step, ")


def test_zero_threads_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["check-device", "--threads", "0"])
    assert "argument --threads: '0' is not a whole number, 1 or more" in capsys.readouterr().err


def test_an_unknown_device_is_refused(capsys):
    assert main(["check-device", "--device", "tpu"]) == 2
    assert "There is no device 'tpu'" in capsys.readouterr().err
