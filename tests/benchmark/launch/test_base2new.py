"""The command `base2new`, on a train.py that learns nothing."""

import fcntl
import json
import os
import pty
import shlex
import signal
import struct
import sys
import termios
import time
from contextlib import contextmanager

import pytest
from checkout import alive, wait_for

from benchmark.protocols import PROTOCOLS

ONE = ("--trainers", "CoOp", "--seeds", "1")
SLOW = {"CoOp/1/base": "slow"}


@contextmanager
def working(checkout, *words, calls=1, fake=SLOW, **variables):
    """A base2new in the middle of its work; interrupted at the end, if it still is there."""
    before = len(checkout.calls())
    process = checkout.start(*words, fake=fake, **variables)
    wait_for(lambda: len(checkout.calls()) == before + calls)
    time.sleep(0.2)  # the fake writes its checkpoint just after
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_everything_in_order_then_nothing_again(checkout):
    first = checkout.base2new("--jobs", "2")
    methods = ["ZeroshotCLIP", "CoOp", "ALIGN"]
    trainings = [f"{name}/{seed}" for seed in (1, 2, 3) for name in methods]
    runs = checkout.runs()
    assert sorted(runs) == sorted(f"{run}/{part}" for run in trainings for part in ("base", "new"))
    for run in trainings:
        if not run.startswith("Zero"):
            assert runs.index(f"{run}/base") < runs.index(f"{run}/new")
    rows = [line for line in first.stdout.splitlines() if "±" in line][:3]
    assert [row.split()[0] for row in rows] == methods
    # ALIGN: base 61 62 63, new 71 72 73, and H of each seed: 65.621, 66.627, 67.632
    numbers = " ".join(rows[2].split()[1:])
    assert numbers == "62.00 ± 1.00 72.00 ± 1.00 66.63 ± 1.01 4,096 20 s 512 MiB"
    assert "18 runs, 18 to do; " in first.stderr and "[18/18]" in first.stderr
    again = checkout.base2new()
    assert len(checkout.calls()) == 18
    assert again.stdout == first.stdout
    assert "18 runs, 0 to do; " in again.stderr
    table = json.loads((checkout.output / "base2new" / "table.json").read_text())
    assert [row["h_n"] for row in table["rows"]] == [3, 3, 3]


def test_one_at_a_time_keeps_the_protocols_order(checkout):
    checkout.base2new("--seeds", "2 1", "--trainers", "CoOp,ALIGN", "--jobs", "1")
    trainings = [f"{name}/{seed}" for seed in (2, 1) for name in ("CoOp", "ALIGN")]
    assert checkout.runs() == [f"{run}/{part}" for run in trainings for part in ("base", "new")]


def test_several_data_sets_end_in_an_average(checkout):
    done = checkout.base2new("emoji", "emoji_food", *ONE)
    assert "Base-to-new on emoji_food" in done.stdout
    average = done.stdout.partition("average over 2 embedded data sets")[2]
    row = next(line for line in average.splitlines() if line.startswith("CoOp"))
    assert row.split()[1:] == ["51.00", "61.00", "55.55", "2", "of", "2"]


def test_runs_at_once_share_cores_and_get_a_gpu_each(checkout):
    slow = {f"CoOp/{seed}/base": "slow" for seed in (1, 2)}
    with working(checkout, "--trainers", "CoOp", calls=2, fake=slow, CUDA_VISIBLE_DEVICES="4,7"):
        threads, gpus = zip(*((c["threads"], c["gpu"]) for c in checkout.calls()), strict=True)
        assert set(threads) == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
        assert sorted(gpus) == ["4", "7"]


def test_the_users_own_number_of_threads_stays(checkout):
    checkout.base2new(*ONE, OMP_NUM_THREADS="7")
    assert {call["threads"] for call in checkout.calls()} == {"7"}


def test_a_failure_is_named_and_stops_only_what_needs_it(checkout):
    fake = {"CoOp/2/base": "error", "ALIGN/3/new": "crash", "ALIGN/1/base": "silent"}
    done = checkout.base2new(fake=fake, code=1)
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
    told = checkout.run(sys.executable, "-m", "benchmark", "report", checkout.output).stdout
    assert "- CoOp, base: failed: The loss is not finite at step 31 [seed 2]" in told
    assert "52.00 ± 1.41 (2 of 3)" in told
    count = len(checkout.calls())
    whole = checkout.base2new()
    missing = ["ALIGN/1/base", "ALIGN/1/new", "ALIGN/3/new", "CoOp/2/base", "CoOp/2/new"]
    assert sorted(checkout.runs()[count:]) == missing
    assert "Not complete" not in whole.stdout


def test_a_method_that_failed_everywhere_has_its_row(checkout):
    done = checkout.base2new(*ONE, fake={"CoOp/1/base": "error"}, code=1)
    row = next(line for line in done.stdout.splitlines() if line.startswith("CoOp "))
    assert row.split() == ["CoOp", "failed", "not", "run", "-", "-", "-", "-"]


def test_interrupted_then_resumed(checkout):
    with working(checkout, *ONE) as process:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert told.endswith("Interrupted. Running the same command again continues.\n")
        assert not alive(checkout.calls()[0]["pid"])
    unfinished = checkout.run(sys.executable, "-m", "benchmark", "report").stdout
    assert "- CoOp, base: unfinished: no results yet [seed 1]" in unfinished
    listed = checkout.base2new(*ONE, "--dry-run").stdout
    assert "# resume: CoOp on emoji, seed 1, base" in listed
    done = checkout.base2new(*ONE)
    assert "going on from its checkpoint" in done.stderr
    assert checkout.calls()[1]["resume"] == str(checkout.folder("CoOp", 1))
    assert checkout.calls()[2]["resume"] == ""


def test_a_closed_terminal_or_a_kill_leaves_no_child(checkout):
    with working(checkout, *ONE) as process:
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 130
        assert not alive(checkout.calls()[0]["pid"])


def test_an_unfinished_run_with_other_options_starts_anew(checkout):
    with working(checkout, *ONE, "OPTIM.MAX_EPOCH", "4"):
        pass
    checkout.base2new(*ONE)
    again = checkout.calls()[1]
    assert again["resume"] == "" and not again["checkpoint"]


def test_a_finished_run_with_other_options_is_refused(checkout):
    checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "4")
    refused = checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "5", code=2)
    assert "another run (OPTIM.MAX_EPOCH 4, not 5): choose another --output" in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "4")
    assert len(checkout.calls()) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"accuracy": NaN}', '{"accuracy": null}'])
def test_corrupt_results_are_named_and_redone(checkout, text):
    checkout.base2new(*ONE)
    results = checkout.folder("CoOp", 1, "test_new") / "results.json"
    results.write_text(text)
    told = checkout.run(sys.executable, "-m", "benchmark", "report").stdout
    assert f"- CoOp, new: corrupt: {results.relative_to(checkout.root)}" in told
    again = checkout.base2new(*ONE)
    assert str(results) in again.stderr and "taken as unfinished" in again.stderr
    assert checkout.runs() == ["CoOp/1/base", "CoOp/1/new", "CoOp/1/new"]


def test_an_evaluation_is_redone_with_its_training(checkout):
    checkout.base2new(*ONE)
    (checkout.folder("CoOp", 1) / "results.json").unlink()
    failed = checkout.base2new(*ONE, fake={"CoOp/1/new": "silent"}, code=1)
    assert "- CoOp, new: failed: it ended without results.json" in failed.stdout
    assert checkout.runs()[2:] == ["CoOp/1/base", "CoOp/1/new"]


def test_results_of_prompts_that_are_gone_are_not_shown(checkout):
    checkout.base2new(*ONE)
    (checkout.folder("CoOp", 1) / "results.json").unlink()
    checkout.base2new(*ONE, fake={"CoOp/1/base": "error"}, code=1)
    told = checkout.run(sys.executable, "-m", "benchmark", "report").stdout
    row = next(line for line in told.splitlines() if line.startswith("CoOp "))
    assert row.split() == ["CoOp", "failed", "unfinished", "-", "-", "-", "-"]


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


def test_console_keeps_what_a_terminal_would(checkout):
    checkout.base2new(*ONE)
    lines = (checkout.folder("CoOp", 1) / "console.txt").read_text().splitlines()
    assert lines[0].startswith("$ ") and "--trainer CoOp" in lines[0]
    assert "epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01" in lines
    assert not any("10%" in line for line in lines)


def test_dry_run_prints_commands_and_writes_nothing(checkout):
    listed = checkout.base2new(*ONE, "--root", "some data", "--dry-run", "OPTIM.LR", "0.01").stdout
    assert not checkout.output.exists() and not checkout.calls()
    comment, train, _, test = listed.splitlines()
    assert comment == "# run: CoOp on emoji, seed 1, base"
    train, test = shlex.split(train), shlex.split(test)
    root, folder = checkout.root, checkout.folder("CoOp", 1)
    assert train == [
        sys.executable, str(root / "train.py"), "--root", str(root / "some data"),
        "--seed", "1", "--trainer", "CoOp",
        "--dataset-config-file", str(root / "configs/datasets/emoji.yaml"),
        "--config-file", str(root / "configs/trainers/CoOp/emoji.yaml"),
        "--output-dir", str(folder),
        "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.LR", "0.01",
    ]  # fmt: skip
    assert test[test.index("--model-dir") :] == [
        "--model-dir", str(folder), "--eval-only",
        "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "new", "OPTIM.LR", "0.01",
    ]  # fmt: skip
    checkout.base2new(*ONE)
    listed = checkout.base2new(*ONE, "--dry-run").stdout
    assert listed.splitlines() == [
        "# skip: CoOp on emoji, seed 1, base (finished)",
        "# skip: CoOp on emoji, seed 1, new (finished)",
    ]


def test_zero_shot_loads_nothing(checkout):
    listed = checkout.base2new("--trainers", "ZeroshotCLIP", "--seeds", "1", "--dry-run").stdout
    assert "--eval-only" in listed and "--model-dir" not in listed


def test_the_config_follows_the_data_set(checkout):
    listed = checkout.base2new("dtd", "--trainers", "ALIGN", "--dry-run").stdout
    assert "ALIGN/base2new.yaml" in listed and "dtd/shots_16/ALIGN/base2new/seed1" in listed
    other = checkout.root / "configs/trainers/ALIGN/other.yaml"
    other.touch()
    asked = ("emoji", "--trainers", "ALIGN", "--config", "other", "--dry-run")
    assert str(other) in shlex.split(checkout.base2new(*asked).stdout, comments=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["emojy"], "There is no data set 'emojy': did you mean 'emoji'?"),
        (["--trainers", "ALGIN"], "There is no trainer 'ALGIN': did you mean 'ALIGN'?"),
        (["--trainers", "coop"], "There is no trainer 'coop': did you mean 'CoOp'?"),
        (["--trainers", " "], "--trainers names none"),
        (["--seeds", "1 two"], "argument --seeds: 'two' is not a whole number from 0 on"),
        (["--seeds", "-1"], "argument --seeds"),
        (["--seeds", ","], "--seeds names none"),
        (["--shots", "0"], "argument --shots: '0' is not a whole number from 1 on"),
        (["--shots", "1.5"], "argument --shots"),
        (["--jobs", "0"], "argument --jobs"),
        (["--config", "emojis"], "'emojis': did you mean 'emoji'?"),
        (["dtd"], "There is no config of ZeroshotCLIP for dtd 'base2new'"),
        (["OPTIM.LR"], "the option OPTIM.LR has no value"),
        (["DATASET.NUM_SHOTS", "4"], "DATASET.NUM_SHOTS cannot be given as an option: --shots"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_is_one_sentence(checkout, words, sentence):
    refused = checkout.base2new(*words, code=2)
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    assert not checkout.output.exists()


def test_unknown_command(checkout):
    refused = checkout.run(sys.executable, "-m", "benchmark", "base2nwe")
    assert refused.returncode == 2
    assert "There is no command 'base2nwe': did you mean 'base2new'?" in refused.stderr


def test_missing_requirement(checkout):
    (checkout.root / "tqdm.py").write_text("raise ModuleNotFoundError(name='tqdm')")
    refused = checkout.base2new(code=2)
    assert "tqdm is missing: `pip install -r requirements.txt`" in refused.stderr


@pytest.mark.parametrize("command", ["", "report", *PROTOCOLS])
def test_help(checkout, command):
    told = checkout.run(sys.executable, "-m", "benchmark", *command.split(), "--help")
    assert told.returncode == 0 and told.stdout.startswith("usage: python -m benchmark")


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


def test_script_takes_variables_and_runs_from_anywhere(checkout, tmp_path):
    script = checkout.root / "scripts" / "base2new.sh"
    asked = {"TRAINERS": "ALIGN CoOp", "SEEDS": "4", "SHOTS": "2", "DATA": "my data"}
    asked |= {"OUTPUT": "my output", "CONFIG": "emoji", "BACKBONE": "ViT-B/16", "JOBS": "1"}
    words = ("emoji_food", "--dry-run", "OPTIM.LR", "0.01")
    done = checkout.run("bash", script, *words, cwd=tmp_path, **asked)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 8, done.stderr
    first = shlex.split(lines[1])
    folder = "base2new/train_base/emoji_food/shots_2/ALIGN/emoji/seed4"
    for flag, value in {
        "--trainer": "ALIGN", "--seed": "4", "--root": str(tmp_path / "my data"),
        "--backbone": "ViT-B/16", "DATASET.NUM_SHOTS": "2", "OPTIM.LR": "0.01",
        "--output-dir": str(tmp_path / "my output" / folder),
    }.items():  # fmt: skip
        assert first[first.index(flag) + 1] == value
    defaults = checkout.run("bash", script, "--dry-run", cwd=tmp_path).stdout
    assert defaults.count("# run: ") == 18 and "--root" not in defaults
    assert f"{tmp_path}/output/base2new/train_base/emoji/shots_16/ALIGN/emoji/seed3" in defaults


def test_script_runs_to_the_table(checkout):
    script = checkout.root / "scripts" / "base2new.sh"
    done = checkout.run("bash", script, TRAINERS="CoOp", SEEDS="1")
    assert done.returncode == 0 and "Base-to-new on emoji" in done.stdout
