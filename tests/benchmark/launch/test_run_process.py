"""A child process: its output, its failure, the time left, and progress on stderr."""

import fcntl
import io
import os
import pty
import struct
import termios
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from checkout import ONE, PATIENCE, wait_for
from outcomes import outcome

from benchmark.launch.progress import Progress, clock_text
from benchmark.launch.run_process import Child, fraction_done, state, write_line
from benchmark.launch.start import last_sentence
from benchmark.launch.time_left import Advance, Pace
from benchmark.protocols import FEW_SHOT

pytestmark = pytest.mark.processes


@pytest.fixture
def run(planned, tmp_path):
    (tmp_path / "run").mkdir()
    return replace(planned[FEW_SHOT][0], folder=tmp_path / "run")


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


def child_of(run, program: str) -> Child:
    """Return the child of a run that does what the program says, when it has ended."""
    write_line(run.folder / "console.txt", "$ train.py")
    child = Child(run, ExitStack(), {}, exec, program)
    wait_for(child.poll)
    return child


def test_the_latest_state_stays_until_the_next(run):
    write_line(
        console := run.folder / "console.txt", "epoch [2/2] batch [4/4] loss 7 of an earlier time"
    )
    said = "epoch [1/2] batch [1/4]\\tloss 0.5\\nCheckpoint saved to /a/long/path/model.pth.tar-1"
    child = child_of(run, f"print('{said}')")
    assert child.latest == "loss 0.5, epoch 1/2" and child.advance == Advance(1 / 8)
    child.close()
    assert "Checkpoint saved" in console.read_text()


def test_lines_are_read_when_they_are_complete(run):
    (run.folder / "console.txt").touch()
    child = Child(run, ExitStack(), {}, exec, "import time; time.sleep(60)")
    with open(run.folder / "console.txt", "ab", buffering=0) as console:
        for part, latest in ((b"epoch [1/2", ""), (b"]\xff loss 3\nepo", "loss 3, epoch 1/2")):
            console.write(part)
            assert not child.poll()
            assert child.latest == latest
    child.kill(grace=0)
    assert child.failure() == "killed by SIGKILL"
    child.close()


def test_console_keeps_lines_but_no_progress_bars(checkout):
    checkout.base2new(*ONE)
    lines = (checkout.folder("CoOp", 1) / "console.txt").read_text().splitlines()
    assert lines[0].startswith("$ ") and "--trainer CoOp" in lines[0]
    assert "epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01" in lines
    assert not any("10%" in line for line in lines)


def test_the_note_of_a_failure_is_a_line_at_the_end_of_the_console(run):
    for note in ("# failed: the disk is full", None):
        child = child_of(run, "import os; os.write(1, b'no end'); raise SystemExit('no memory')")
        assert child.failure() == "no memory"
        child.close(note)
    lines = ["$ train.py", "no endno memory", "# failed: the disk is full"]
    lines += ["$ train.py", "no endno memory"]
    assert (run.folder / "console.txt").read_text().splitlines() == lines
    (run.folder / "console.txt").write_bytes(b"cut of")
    write_line(run.folder / "console.txt", "$ train.py \udcff")
    assert (run.folder / "console.txt").read_text() == "cut of\n$ train.py \\udcff\n"
    (run.folder / "console.txt").unlink()
    (run.folder / "console.txt").symlink_to("/dev/full")
    child.close("# failed: a note for which the disk has no room")


def test_on_a_terminal_a_bar_is_drawn(checkout):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = checkout.start(*ONE, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    process.communicate(timeout=PATIENCE)
    assert b"2 runs |" in seen and b"[2/2] CoOp on emoji, seed 1, new: 61.00%" in seen


def test_plain_lines_have_a_heartbeat():
    stream = io.StringIO()
    run = outcome("CoOp", 1, "base", 50.0).run
    child = SimpleNamespace(run=run, seconds=65.0, latest="epoch 1/2", advance=Advance())
    Progress(stream).tick([child], 100.0, 0, True)
    assert stream.getvalue() == ""
    progress = Progress(stream, heartbeat=-1.0)
    for left in ((100.0, 0, True), (100.0, 0, False), (100.0, 3, False), (0.0, 1, False)):
        progress.tick([child], *left)
    of_run = "CoOp on emoji, seed 1, base: epoch 1/2 (1:05 so far) | all: "
    assert stream.getvalue().splitlines() == [
        of_run + "about 1:40 left",
        of_run + "at least 1:40 left",
        of_run + "at least 1:40 left (3 runs not timed)",
        of_run + "time left not yet known",
    ]
    assert clock_text(3723) == "1:02:03"


def test_a_narrow_terminal_shows_the_run_its_loss_and_its_accuracy(monkeypatch):
    run = outcome("PromptSRC", 1, "base", 50.0, "describable_textures").run
    state = "loss 0.2345, acc 93.8%, epoch 12/50"
    child = SimpleNamespace(run=run, seconds=65.0, latest=state, advance=Advance(left=12.0))
    shown = f"PromptSRC on describable_textures, seed 1, base: {state}, 0:12 left (1:05 so far)"
    for columns in (80, 120):
        stream = io.StringIO()
        stream.isatty = lambda: True
        monkeypatch.setenv("COLUMNS", str(columns))
        progress = Progress(stream)
        progress.begin(100, 300)
        progress.tick([child], 4000.0, 100, False)
        overall, of_run = (bar.desc for bar in progress.bars)
        progress.end()
        assert len("100/300 runs |##########| 1:02:03 " + overall) < 80
        assert (of_run + " " * 80).startswith(shown[: columns - 1])
