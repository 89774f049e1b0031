"""Killed and rerun, train.py and a protocol end with the same bits as without a kill."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "kills.py"


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that have loaded PyTorch")
def test_kills_leave_no_trace(tmp_path):
    """Two points in a run of each method; by hand, the program takes more."""
    command = [sys.executable, PROGRAM, tmp_path, "--runs", "20", "--protocols", "4"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert run.stdout.endswith("24 kills, 0 of them with other results\n")
