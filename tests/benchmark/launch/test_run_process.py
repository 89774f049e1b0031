"""A child process: its output, its failure, and progress on stderr."""

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

from benchmark.launch.progress import Progress
from benchmark.launch.run_process import Child, last_sentence, state, write_line
from benchmark.protocols import FEW_SHOT

pytestmark = pytest.mark.processes


@pytest.fixture
def run(planned, tmp_path):
    (tmp_path / "run").mkdir()
    return replace(planned[FEW_SHOT][0], folder=tmp_path / "run")


def test_last_sentence():
    traceback = ["Traceback (most recent call last):", '  File "x"', "", "RuntimeError: a:", "\tb"]
    assert last_sentence(["noise", *traceback]) == "RuntimeError: a:"
    assert last_sentence(["noise", "error: It is too long"]) == "It is too long"
    assert last_sentence([]) == ""


@pytest.mark.parametrize(
    "line, expected",
    [
        ("epoch [1/2] batch [1/4] loss 0.5 (0.6) acc 40 (41.5) eta 0:01 ce 1 (2)",
         "epoch [1/2] batch [1/4] loss 0.5 (0.6) acc 40 (41.5) eta 0:01"),
        ("Evaluate on the *test* set", "Evaluate on the *test* set"),
        ("batch [3/9]", "batch [3/9]"),
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
        console := run.folder / "console.txt", "epoch [2/2] batch [4/4] eta 7 of an earlier time"
    )
    said = "epoch [1/2] loss 0.5 eta 1\\nCheckpoint saved to /a/long/path/model.pth.tar-1"
    child = child_of(run, f"print('{said}')")
    assert child.latest == "epoch [1/2] loss 0.5 eta 1"
    child.close()
    assert "Checkpoint saved" in console.read_text()


def test_lines_are_read_when_they_are_complete(run):
    (run.folder / "console.txt").touch()
    child = Child(run, ExitStack(), {}, exec, "import time; time.sleep(60)")
    with open(run.folder / "console.txt", "ab", buffering=0) as console:
        for part, latest in ((b"epoch [1/2", ""), (b"] eta 3 \xff\nepo", "epoch [1/2] eta 3")):
            console.write(part)
            assert not child.poll()
            assert child.latest == latest
    child.kill(grace=0)
    assert child.failure() == "killed by SIGKILL"
    child.close()


def test_the_console_has_the_command_and_what_it_prints(checkout):
    checkout.base2new(*ONE)
    lines = (checkout.folder("CoOp", 1) / "console.txt").read_text().splitlines()
    assert lines[0].startswith("$ ") and "--trainer CoOp" in lines[0]
    assert "epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01" in lines


def test_the_note_of_a_failure_is_a_line_at_the_end_of_the_console(run):
    for note in ("# failed: the disk is full", None):
        child = child_of(run, "raise SystemExit('no memory')")
        assert child.failure() == "no memory"
        child.close(note)
    lines = ["$ train.py", "no memory", "# failed: the disk is full", "$ train.py", "no memory"]
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
    child = SimpleNamespace(run=run, latest="epoch [1/2] eta 0:01")
    Progress(stream).tick([child])
    assert stream.getvalue() == ""
    Progress(stream, heartbeat=-1.0).tick([child])
    assert stream.getvalue() == "CoOp on emoji, seed 1, base: epoch [1/2] eta 0:01\n"


def test_a_narrow_terminal_has_one_line_a_run(monkeypatch):
    run = outcome("PromptSRC", 1, "base", 50.0, "describable_textures").run
    state = "epoch [12/50] batch [3/4] loss 0.23 (0.25) acc 90 (93.8) eta 0:00:12"
    shown = f"PromptSRC on describable_textures, seed 1, base: {state}"
    for columns in (80, 120):
        stream = io.StringIO()
        stream.isatty = lambda: True
        monkeypatch.setenv("COLUMNS", str(columns))
        progress = Progress(stream)
        progress.begin(100, 300)
        progress.tick([SimpleNamespace(run=run, latest=state)])
        overall, of_run = progress.bars
        assert 30 < len(str(overall)) < 80 and of_run.desc == shown[: columns - 1]
        progress.end()
