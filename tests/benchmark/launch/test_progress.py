"""Progress of runs on stderr."""

import fcntl
import io
import os
import pty
import struct
import termios
from types import SimpleNamespace

from checkout import PATIENCE
from outcomes import outcome

from benchmark.launch import progress as progress_module
from benchmark.launch.progress import Progress, clock_text
from benchmark.launch.time_left import Advance

ONE = ("--trainers", "CoOp", "--seeds", "1")


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


def test_plain_lines_have_a_heartbeat(monkeypatch):
    stream = io.StringIO()
    run = outcome("CoOp", 1, "base", 50.0).run
    child = SimpleNamespace(run=run, seconds=65.0, latest="epoch 1/2", advance=Advance())
    progress = Progress(stream)
    progress.tick([child], 100.0, 0, True)
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress_module, "HEARTBEAT", -1.0)
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
