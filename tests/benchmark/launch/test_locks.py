"""One writer for each run folder: a launcher waits for the runs of another one."""

import os
import signal

import pytest
from checkout import alive, wait_for, working

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
            stdout, stderr = second.communicate(timeout=30)
        finally:
            second.kill()
    assert second.returncode == 0, stderr
    assert stderr.count("CoOp on emoji, seed 1, base: running in another launcher") == 1
    assert "Not complete" not in stdout
    assert sorted(checkout.runs()[-2:]) == ["CoOp/1/base", "CoOp/1/new"]


@pytest.mark.slow
def test_runs_shared_by_two_commands_are_done_once(checkout):
    fake = {"CoOp/1/all": "a while"}
    words = ("--jobs", "2")
    first = checkout.start(*EMOJI, *words, command="cross_dataset", fake=fake)
    try:
        wait_for(lambda: "CoOp/1/all" in checkout.runs())
        second = checkout.protocol("domain_generalization", *EMOJI, *words, "emoji_pixels")
        first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 0
    assert "CoOp on emoji, seed 1, source: running in another launcher" in second.stderr
    assert checkout.folders().count("transfer/emoji/shots_16/CoOp/emoji/seed1") == 1
