"""One writer for each run folder: a launcher waits for the runs of another one."""

import os
import signal

import pytest
from checkout import PATIENCE, alive, wait_for, working

pytestmark = pytest.mark.processes

ONE = ("--trainers", "CoOp", "--seeds", "1")

EMOJI = ("--source", "emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1")


def test_a_run_that_another_launcher_does_is_waited_for_and_others_are_done(checkout):
    with working(checkout, *ONE) as first:
        second = checkout.start("--trainers", "CoOp ALIGN", "--seeds", "1", "--jobs", "1")
        try:
            wait_for(lambda: "ALIGN/1/new" in checkout.runs())
            first.kill()  # the training outlives its launcher, and keeps the lock
            first.wait()
            child = checkout.calls()[0]["pid"]
            assert alive(child) and second.poll() is None
            os.kill(child, signal.SIGKILL)
            stdout, stderr = second.communicate(timeout=PATIENCE)
        finally:
            second.kill()
    assert second.returncode == 0, stderr
    assert stderr.count("CoOp on emoji, seed 1, base: running in another launcher") == 1
    assert "Not complete" not in stdout
    assert sorted(checkout.runs()[-2:]) == ["CoOp/1/base", "CoOp/1/new"]


@pytest.mark.slow
def test_runs_shared_by_two_commands_are_done_once(checkout, tmp_path):
    words, told = (*EMOJI, "--jobs", "2"), tmp_path / "told"
    fake = {"CoOp/1/all": "until told"}
    first = checkout.start(*words, command="cross_dataset", fake=fake)
    with open(told, "w") as file:
        more = {"command": "domain_generalization", "stderr": file}
        wait_for(lambda: "CoOp/1/all" in checkout.runs())
        second = checkout.start(*words, "emoji_pixels", **more)
    try:
        said = "CoOp on emoji, seed 1, source: running in another launcher"
        wait_for(lambda: said in told.read_text())
        checkout.calls_file.with_name("go").touch()
        for process in (first, second):
            process.communicate(timeout=PATIENCE)
    finally:
        first.kill()
        second.kill()
    assert first.returncode == second.returncode == 0
    assert checkout.folders().count("transfer/emoji/shots_16/CoOp/emoji/seed1") == 1
