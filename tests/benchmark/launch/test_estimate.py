"""Guesses of the time of runs, from a few steps and tests."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from benchmark.__main__ import main
from benchmark.launch import estimate, timed
from benchmark.launch.engine import Engine, Settings, command
from benchmark.launch.estimate import (
    FILE,
    Guesses,
    Work,
    guess,
    length,
    read_guesses,
    time_range,
    work_of,
)
from benchmark.protocols import BASE2NEW, FEW_SHOT
from benchmark.protocols.configs import TrainerConfigs
from trainers.prompting.method import find_method

# seconds of the processor; those by the clock are ten times as many
PAIRS = {"build": 2.0, "first": 0.01, "step": 0.5, "test": 3.0, "again": 2.0, "whole": 12.0}
FEW = {"classes": 10, "batch": 8, "steps": 4, "images": 100, "device": "cpu", "threads": 2}
FEW |= {name: [10 * seconds, seconds] for name, seconds in PAIRS.items()}
MANY = FEW | {"classes": 30, "step": [15.0, 1.5]}


def runs_of(output, trainers=("CoOp",), protocol=BASE2NEW, shots=16, seeds=(1,)):
    options = {"trainers": list(trainers), "shots": shots}
    return protocol.plan(output, ["emoji"], seeds, TrainerConfigs(), **options)


def test_a_guess_is_steps_and_images_and_what_is_done_once():
    once = 12.0 - 4 * 0.5 - 3.0  # all but the steps and the test
    text, image = 3.0 - 2.0, 2.0 / 100
    steps = 100 * (0.5 - 8 * 0.01) + 160 * 0.01  # an image takes longer the first time
    on_cpu = guess(Work(10, 100, 1000, 160), False, [FEW])
    assert on_cpu == pytest.approx((once + steps + text + 1000 * image) / 2)  # two threads
    on_gpu = [timings | {"device": "a GPU"} for timings in (FEW, MANY)]
    assert guess(Work(10, 100, 1000, 160), False, on_gpu) == pytest.approx(20 * on_cpu)
    assert guess(Work(10, 0, 1000), True, [FEW]) == pytest.approx((2 + text + 1000 * image) / 2)


def test_seconds_are_a_line_in_the_number_of_classes():
    low, high = (guess(Work(K, 1000, 0), False, [FEW, MANY]) for K in (10, 30))
    assert high - low == pytest.approx((1000 - 4) * 1.0 / 2)
    assert guess(Work(15, 1000, 0), False, [FEW, MANY]) == pytest.approx(low + (high - low) / 4)
    for beyond, end in ((2, low), (100, high)):
        assert guess(Work(beyond, 1000, 0), False, [FEW, MANY]) == pytest.approx(end)


@pytest.mark.parametrize("trainer", ["CoOp", "TipAdapter", "ZeroshotCLIP", "PromptKD"])
def test_the_work_of_a_run_is_that_of_its_loaders(trainer, tmp_path):
    for run in runs_of(tmp_path, [trainer], shots=4)[: 1 if trainer == "TipAdapter" else 2]:
        work = work_of(run, Settings())
        trains = trainer in ("CoOp", "PromptKD") and run.part == "base"
        assert (work.classes, work.steps > 0) == (19 if run.part == "base" else 18, trains)
    assert work_of(SimpleNamespace(trainer="Other"), Settings()) is None


@pytest.mark.slow
def test_a_short_run_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timed, "IMAGES", 20)
    (run,) = runs_of(tmp_path, protocol=FEW_SHOT, shots=[1])
    words = command(run, Settings(opts=("OPTIM.STEPS", "4")))[2:]
    found = timed.measure_run(words)
    assert (found["classes"], found["steps"], found["device"]) == (37, 4, "cpu")
    assert 0 < found["images"] <= timed.IMAGES and found["batch"] == 32
    whole, parts = found["whole"][1], ("build", "test")
    assert whole > sum(found[part][1] for part in parts) + 4 * 0.5 * found["step"][1] > 0
    assert work_of(run, Settings()).images > found["images"]
    (run,) = runs_of(tmp_path, ["TPT"], FEW_SHOT, [1])  # in an order of its own
    found = timed.measure_run(command(run, Settings())[2:])
    assert found["steps"] == 0 < found["images"] <= timed.IMAGES


def test_an_epoch_is_timed_of_a_method_that_plans_it(tmp_path):
    (run,) = runs_of(tmp_path, ["NLPrompt"], protocol=FEW_SHOT, shots=[1])
    assert length(find_method("CoOp"), 4) == ["OPTIM.STEPS", "4"]
    found = timed.measure_run([*command(run, Settings())[2:], *length(find_method("NLPrompt"), 4)])
    assert found["steps"] in (2, 3)  # 37 images in batches of 32, some of them clean
    assert found["step"][0] > 0


def test_estimate_keeps_what_is_found_and_all_commands_use_it(tmp_path, capsys, monkeypatch):
    asked = []

    def measured(run, settings, steps, environment):
        asked.append((run.trainer, steps))
        return None if run.trainer == "CoOp" else FEW | {"classes": 19}

    monkeypatch.setattr(estimate, "_time", measured)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = ["base2new", "emoji", "--trainers", "ZeroshotCLIP CoOp MaPLe", "--seeds", "1 2"]
    words += ["--output", str(tmp_path), "--jobs", "2"]
    assert main([*words, "--estimate"]) == 0
    assert asked == [("ZeroshotCLIP", 0), ("CoOp", estimate.STEPS), ("MaPLe", estimate.STEPS)]
    told = capsys.readouterr().out
    assert told.startswith("runs to do: 4 with training, 6 without; finished: 0; ")
    assert re.search(r"; at least \S+ minutes, 2 at once on cpu, unknown for 4\n$", told)
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"# {told.strip()}"
    asked.clear()
    assert main([*words, "--estimate"]) == 0 and asked == [("CoOp", estimate.STEPS)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as with more runs at once
    assert main([*words, "--estimate"]) == 0 and len(asked) == 1 + 3
    capsys.readouterr()
    seconds = json.loads((tmp_path / FILE).read_text())["runs"]
    assert len(seconds) == 4
    place = "base2new/train_base/emoji/shots_16/MaPLe/emoji"
    for seed in (1, 2):
        (tmp_path / place / f"seed{seed}").mkdir(parents=True)
    assert main(["status", str(tmp_path)]) == 0
    hours = 2 * seconds[place] / 3600
    assert f"about {hours:.2f} hours on the CPU for 2 runs." in capsys.readouterr().out
    for broken in ("{}", "[", '{"device": "", "timed": {}, "runs": {"a": "b"}}'):
        (tmp_path / FILE).write_text(broken)
        assert read_guesses(tmp_path) == Guesses({}, "")


def test_done_runs_and_progress_replace_guesses(tmp_path):
    runs = [run for run in runs_of(tmp_path, ["CoOp", "MaPLe"], seeds=(1, 2)) if not run.needs]
    guesses = dict.fromkeys(runs, 100.0)
    engine = Engine(runs, Settings(), guesses)
    assert engine.remaining() == (400.0, 0)
    child = SimpleNamespace(run=runs[0], seconds=30.0, seconds_left=None)
    assert engine.remaining([child]) == (370.0, 0)
    child.seconds_left = 10.0  # by its own progress, so runs like it take 40 seconds
    assert engine.remaining([child]) == (10.0 + 40.0 + 200.0, 0)
    assert time_range(Engine(runs, Settings()), Guesses({}), 1) == ""
    long = Engine(runs, Settings(), dict.fromkeys(runs, 3600.0))
    assert time_range(long, Guesses({}, "A100"), 2) == "about 1.5 to 2.6 hours, 2 at once on A100"


@pytest.mark.parametrize("more", [["--dry-run"], ["--slurm"], ["--only", "x"]], ids=str)
def test_estimate_is_of_this_machine_and_alone(more, tmp_path, capsys):
    words = ["base2new", "emoji", "--estimate", "--output", str(tmp_path / "output"), *more]
    assert main(words) == 2
    assert "--estimate times this machine: leave" in capsys.readouterr().err


def test_only_what_earlier_timings_do_not_cover_is_timed():
    ends = [(None, Work(12, 100, 50)), (None, Work(30, 100, 50))]
    assert estimate._cover([FEW, MANY], ends) and not estimate._cover(None, ends)
    assert not estimate._cover([FEW], ends) and not estimate._cover([MANY], ends)
    assert estimate._cover([FEW | {"classes": 26}], ends[1:])


def test_a_run_that_cannot_be_timed_is_named(tmp_path, capsys, monkeypatch):
    (run,) = runs_of(tmp_path, protocol=FEW_SHOT, shots=[1])
    monkeypatch.setattr(estimate, "sys", SimpleNamespace(executable="false", stderr=sys.stderr))
    assert estimate._time(run, Settings(), 4, {}) is None
    assert "CoOp on emoji, 1 shot, seed 1 cannot be timed: without a message" in (
        capsys.readouterr().err
    )
