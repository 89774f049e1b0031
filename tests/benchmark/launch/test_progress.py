"""What is told while runs are running."""

import fcntl
import io
import os
import pty
import struct
import termios
from types import SimpleNamespace

from outcomes import outcome

from benchmark.launch import progress as progress_module
from benchmark.launch.progress import Progress, clock

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
    process.communicate(timeout=20)
    assert b"2 runs |" in seen and b"[2/2] CoOp on emoji, seed 1, new: 61.00%" in seen


def test_plain_lines_have_a_heartbeat(monkeypatch):
    stream = io.StringIO()
    run = outcome("CoOp", 1, "base", 50.0).run
    child = SimpleNamespace(run=run, seconds=65.0, latest="epoch [1/2]")
    progress = Progress(stream)
    progress.tick([child], 100.0, complete=False)
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress_module, "HEARTBEAT", -1.0)
    progress.tick([child], 100.0, complete=False)
    expected = "CoOp on emoji, seed 1, base (1:05): epoch [1/2] | all: over 1:40 left\n"
    assert stream.getvalue() == expected
    assert clock(3723) == "1:02:03"
