"""One writer for each folder."""

import os
import signal

from checkout import alive, wait_for, working

ONE = ("--trainers", "CoOp", "--seeds", "1")

EMOJI = ("--source", "emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1")


def test_two_engines_do_not_write_one_folder(checkout):
    with working(checkout, *ONE) as process:
        refused = checkout.base2new(*ONE, code=2)
        assert "is being written by another process" in refused.stderr
        assert refused.stderr.strip().splitlines()[-1].startswith("python -m benchmark base2new: ")
        checkout.base2new("--trainers", "ALIGN", "--seeds", "1")  # another folder: welcome
        process.kill()  # the training outlives its parent, and keeps the folder
        process.wait()
        child = checkout.calls()[0]["pid"]
        assert alive(child)
        checkout.base2new(*ONE, code=2)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: checkout.start(*ONE).wait() == 0)


def test_protocols_that_share_a_training_do_not_write_it_at_once(checkout):
    slow = {"CoOp/1/all": "slow"}
    process = checkout.start(*EMOJI, "--jobs", "4", command="cross_dataset", fake=slow)
    try:
        wait_for(lambda: "CoOp/1/all" in checkout.runs())
        refused = checkout.protocol("domain_generalization", *EMOJI, "emoji_sketch", code=2)
        training = checkout.output / "transfer/emoji/shots_16/CoOp/emoji/seed1"
        assert f"{training} is being written by another process" in refused.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
