"""A child process and what its output says."""

import sys
from contextlib import ExitStack

import pytest
from checkout import wait_for

from benchmark.launch.child import Child, fraction_done, last_sentence
from benchmark.launch.start import Starter
from benchmark.protocols import FEW_SHOT

pytestmark = pytest.mark.processes

ONE = ("--trainers", "CoOp", "--seeds", "1")


def test_last_sentence():
    traceback = ["Traceback (most recent call last):", '  File "x"', "RuntimeError: a:", "\tb"]
    assert last_sentence(["noise", *traceback]) == "RuntimeError: a:"
    assert last_sentence(["noise", "error: It is too long"]) == "It is too long"
    assert last_sentence([]) == ""


def test_fraction_done():
    assert fraction_done("epoch [3/8] batch [10/20] eta 0:01") == pytest.approx(2.5 / 8)
    assert fraction_done("batch [10/20]") is None


def test_a_run_whose_console_cannot_be_kept_ends_all_the_same(planned):
    with open("/dev/full", "w", buffering=1) as console:
        program = "print('x' * 1000000); print('epoch [1/2] batch [1/4]')"
        command = [sys.executable, "-c", program]
        process = Starter(forks=False).start(command, {})
        child = Child(planned[FEW_SHOT][0], process, console, ExitStack())
        wait_for(child.ended)
        assert child.failure() is None and child.fraction == 1 / 8
        child.close("# failed: a note that has no room either")
        assert console.closed


def test_the_latest_news_says_something(planned, tmp_path):
    said = "epoch [1/2] batch [4/4]\\tloss 0.5\\nCheckpoint saved to /a/long/path/model.pth.tar-1"
    with open(tmp_path / "console.txt", "w") as console:
        command = [sys.executable, "-c", f"print('{said}')"]
        process = Starter(forks=False).start(command, {})
        child = Child(planned[FEW_SHOT][0], process, console, ExitStack())
        wait_for(child.ended)
        assert child.latest == "epoch [1/2] batch [4/4] loss 0.5"
        child.close()
    assert "Checkpoint saved" in (tmp_path / "console.txt").read_text()


def test_console_keeps_what_a_terminal_would(checkout):
    checkout.base2new(*ONE)
    lines = (checkout.folder("CoOp", 1) / "console.txt").read_text().splitlines()
    assert lines[0].startswith("$ ") and "--trainer CoOp" in lines[0]
    assert "epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01" in lines
    assert not any("10%" in line for line in lines)
