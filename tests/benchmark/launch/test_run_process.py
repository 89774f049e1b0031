"""A child process: its output, its failure and the time left."""

from contextlib import ExitStack

import pytest
from checkout import wait_for

from benchmark.launch.run_process import Child, fraction_done, last_sentence, state
from benchmark.launch.start import Process
from benchmark.launch.time_left import Advance, Pace
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


def test_time_left_ignores_start_up_and_earlier_epochs():
    pace = Pace()
    pace.see(30.0, None)
    pace.see(60.0, 0.5)  # a minute of start-up, resumed in the middle
    assert pace.at(60.0) == Advance(0.5)
    pace.see(70.0, 0.6)
    pace.see(70.5, 0.6)  # another line of the same batch
    assert pace.at(70.0) == pytest.approx((0.6, 100.0, 40.0))
    assert pace.at(75.0).left == pytest.approx(35.0) and pace.at(200.0).left == 0


@pytest.mark.parametrize(
    "line, expected",
    [
        ("epoch [1/2] batch [1/4] loss 0.5 (0.6) acc 40 (41.5) eta 0:01 ce 1 (2)",
         "loss 0.6, acc 41.5%, epoch 1/2"),
        ("epoch [1/2][1/4]\ttime 1 (2)\tdata 0 (0)\tloss nan\teta 0:01", "loss nan, epoch 1/2"),
        ("Evaluate on the *test* set", "testing"),
        ("batch [3/9]", "testing"),
        ("No checkpoint found, train from scratch", ""),
        ("python -m benchmark predict --model-dir output/a/b/c data/cat.png", ""),
    ],
)  # fmt: skip
def test_only_the_state_of_a_run_is_shown_of_its_log(line, expected):
    assert state(line) == expected


def test_a_run_ends_well_if_its_console_cannot_be_written(planned):
    with open("/dev/full", "w", buffering=1) as console:
        program = "print('x' * 1000000); print('epoch [1/2] batch [1/4]')"
        child = Child(planned[FEW_SHOT][0], Process({}, exec, program), console, ExitStack())
        wait_for(child.poll)
        assert child.failure() is None and child.advance == Advance(1 / 8)
        child.close("# failed: a note for which the disk has no room")
        assert console.closed


def test_the_latest_state_stays_until_the_next(planned, tmp_path):
    said = "epoch [1/2] batch [4/4]\\tloss 0.5\\nCheckpoint saved to /a/long/path/model.pth.tar-1"
    with open(tmp_path / "console.txt", "w") as console:
        process = Process({}, exec, f"print('{said}')")
        child = Child(planned[FEW_SHOT][0], process, console, ExitStack())
        wait_for(child.poll)
        assert child.latest == "loss 0.5, epoch 1/2"
        child.close()
    assert "Checkpoint saved" in (tmp_path / "console.txt").read_text()


def test_console_keeps_lines_but_no_progress_bars(checkout):
    checkout.base2new(*ONE)
    lines = (checkout.folder("CoOp", 1) / "console.txt").read_text().splitlines()
    assert lines[0].startswith("$ ") and "--trainer CoOp" in lines[0]
    assert "epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01" in lines
    assert not any("10%" in line for line in lines)


def test_the_note_of_a_failure_ends_the_console(planned, tmp_path):
    path = tmp_path / "console.txt"
    for note in ("# failed: the disk is full", None):
        with open(path, "w") as console:
            process = Process({}, exec, "print('epoch [1/2]'); raise SystemExit('no memory')")
            child = Child(planned[FEW_SHOT][0], process, console, ExitStack())
            wait_for(child.poll)
            assert child.failure() == "no memory"
            child.close(note)
        lines = [line for line in path.read_text().splitlines() if line]
        assert sorted(lines[:2]) == ["epoch [1/2]", "no memory"]
        assert lines[2:] == ([note] if note else [])
