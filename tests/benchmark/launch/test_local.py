"""Runs on this machine: order, several at once, failures, interrupts, locks of run folders."""

import json
import os
import signal
import subprocess
from contextlib import ExitStack

import pytest
from checkout import EMOJI, ONE, PATIENCE, alive, wait_for, working

from trainers.prompting.storage.files import hold_lock

pytestmark = pytest.mark.processes


def test_runs_are_done_in_order_and_not_repeated(checkout):
    first = checkout.separately("base2new", "--jobs", "2")
    methods = ["ZeroshotCLIP", "CoOp", "MaPLe", "ALIGN"]
    trainings = [f"{name}/{seed}" for seed in (1, 2, 3) for name in methods[1:]]
    trainings.append("ZeroshotCLIP/1")  # which counts for every seed
    runs = checkout.runs()
    assert sorted(runs) == sorted(f"{run}/{part}" for run in trainings for part in ("base", "new"))
    for run in trainings:
        if not run.startswith("Zero"):
            assert runs.index(f"{run}/base") < runs.index(f"{run}/new")
    rows = [line for line in first.stdout.splitlines() if line.split("  ")[0] in methods][:4]
    assert [row.split()[0] for row in rows] == methods
    # ALIGN: base 61 62 63, new 71 72 73, and H of each seed: 65.621, 66.627, 67.632
    numbers = " ".join(rows[3].split()[1:])
    assert numbers == "62.00 ± 1.00 72.00 ± 1.00 66.63 ± 1.01 4,096 20 s 512 MiB"
    assert "20 runs, 20 to do; " in first.stderr and "[20/20]" in first.stderr
    again = checkout.base2new()
    assert len(checkout.calls()) == 20
    assert again.stdout == first.stdout
    assert "20 runs, 0 to do; " in again.stderr
    table = json.loads((checkout.output / "base2new" / "table.json").read_text())
    assert [row["h_n"] for row in table["rows"]] == [1, 3, 3, 3]


def test_runs_at_once_share_cores_and_get_a_gpu_each(checkout):
    slow = {f"CoOp/{seed}/base": "slow" for seed in (1, 2)}
    with working(checkout, "--trainers", "CoOp", calls=2, fake=slow, CUDA_VISIBLE_DEVICES="4,7"):
        threads, gpus = zip(*((c["threads"], c["gpu"]) for c in checkout.calls()), strict=True)
        assert set(threads) == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
        assert sorted(gpus) == ["4", "7"]


def test_the_users_own_number_of_threads_and_the_cores_of_a_slurm_job_count(checkout):
    done = checkout.base2new(*ONE, OMP_NUM_THREADS="7", SLURM_CPUS_ON_NODE="1")
    assert "at once: 1; threads for each: 7; " in done.stderr
    assert {call["threads"] for call in checkout.calls()} == {"7"}
    again = checkout.base2new(*ONE, "--jobs", "1", SLURM_CPUS_ON_NODE="4096")  # more than are here
    assert f"at once: 1; threads for each: {len(os.sched_getaffinity(0))}; " in again.stderr


def test_a_failure_is_named_and_stops_only_what_needs_it(checkout):
    fake = {"CoOp/2/base": "error", "ALIGN/3/new": "crash", "ALIGN/1/base": "silent"}
    words = ("--trainers", "CoOp,ALIGN")
    done = checkout.base2new(*words, fake=fake, code=1)
    for text in (
        "- CoOp, base: failed: The loss is not finite at step 31 [seed 2]",
        "- CoOp, new: not run: it needs CoOp on emoji, seed 2, base [seed 2]",
        "- ALIGN, new: failed: RuntimeError: Sizes do not match: [seed 3]",
        "- ALIGN, base: failed: it ended without results.json [seed 1]",
        "- ALIGN, new: not run: it needs ALIGN on emoji, seed 1, base [seed 1]",
        "52.00 ± 1.41 (2 of 3)",
    ):
        assert text in done.stdout
    assert "CoOp/2/new" not in checkout.runs()
    told = checkout.protocol("report", checkout.output).stdout
    assert "- CoOp, base: failed: The loss is not finite at step 31 [seed 2]" in told
    assert "52.00 ± 1.41 (2 of 3)" in told
    count = len(checkout.calls())
    whole = checkout.base2new(*words)
    missing = ["ALIGN/1/base", "ALIGN/1/new", "ALIGN/3/new", "CoOp/2/base", "CoOp/2/new"]
    assert sorted(checkout.runs()[count:]) == missing
    assert "Not complete" not in whole.stdout


def test_interrupted_then_resumed(checkout):
    with working(checkout, *ONE) as process:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert told.endswith("Interrupted. Rerun the same command to resume.\n")
        assert not alive(checkout.calls()[0]["pid"])
    unfinished = checkout.protocol("report").stdout
    assert "- CoOp, base: unfinished: no results yet [seed 1]" in unfinished
    listed = checkout.base2new(*ONE, "--dry-run").stdout
    assert "# resume: CoOp on emoji, seed 1, base" in listed
    done = checkout.base2new(*ONE)
    assert "resumed from its checkpoint" in done.stderr
    assert checkout.calls()[1]["resume"] == str(checkout.folder("CoOp", 1))
    assert checkout.calls()[2]["resume"] == ""


def test_killing_a_run_ends_no_other_and_leaves_no_lock_of_others(checkout):
    fake = {f"CoOp/{seed}/base": "slow" for seed in (1, 2, 3)}
    words = ("--trainers", "CoOp", "--jobs", "2")
    with working(checkout, *words, calls=2, fake=fake) as process:
        first, second = (call["pid"] for call in checkout.calls())
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: checkout.begun() == 3)
        assert alive(second)
        process.kill()
        process.wait()
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: not alive(second))
        third = checkout.calls()[2]["pid"]  # started while the launcher held the second's lock
        assert alive(third)
        with ExitStack() as stack:
            assert stack.enter_context(hold_lock(checkout.folder("CoOp", 2) / ".lock"))
        os.kill(third, signal.SIGKILL)


def test_a_closed_terminal_or_a_kill_leaves_no_child(checkout):
    with working(checkout, *ONE) as process:
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert not alive(checkout.calls()[0]["pid"])


def test_a_closed_terminal_does_not_end_what_nohup_started(checkout):
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the launcher inherits
    try:
        with working(checkout, *ONE) as process:
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_a_full_disk_leaves_no_false_record(checkout):
    words = ("--trainers", "CoOp", "--seeds", "1", "--shots", "1")
    failed = checkout.protocol("few_shot", *words, fake={"CoOp/1/all": "full"}, code=1)
    assert "failed: OSError: [Errno 28] No space left on device [seed 1]" in failed.stdout
    told = checkout.protocol("report").stdout
    assert "No space left on device" in told and "50.0" not in told
    table = checkout.output / "few_shot/table.json"
    table.unlink()
    table.mkdir()
    failed = checkout.protocol("few_shot", *words, code=1)
    assert "61.00" in failed.stdout
    assert "table.json' cannot be written or read (Is a directory): a file bel" in failed.stderr
    table.rmdir()
    assert checkout.protocol("few_shot", *words).stdout == failed.stdout


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
