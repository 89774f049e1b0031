"""train.py: its files, its determinism, and its messages about mistakes."""

import hashlib
import io
import json
import shlex
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch
from paths import GOLDEN, ROOT
from tiny import arguments, killed_after, results, run

import train
from benchmark.__main__ import main
from benchmark.records import value_of
from trainers.prompting import list_methods
from trainers.prompting.trainer.trainer import PromptTrainer


def prompts(folder, epoch, model="MultiModalPromptLearner"):
    return torch.load(folder / model / f"model.pth.tar-{epoch}", weights_only=True)["state_dict"]


def test_a_finished_run_that_is_evaluated_again_keeps_its_peak_memory(tmp_path):
    out = tmp_path / "out"
    assert run(tmp_path, "CoOp", out, 1) == 0
    record = results(out)
    for peak in (98765.5, "much"):
        (out / "results.json").write_text(json.dumps(record | {"peak_memory_mib": peak}))
        assert run(tmp_path, "CoOp", out, 1) == 0
        assert (results(out)["peak_memory_mib"] == peak) == (peak != "much")


def test_a_record_has_the_hash_of_the_weights_that_were_loaded(tmp_path, monkeypatch):
    loaded = (GOLDEN / "tiny_clip_seed0.safetensors").read_bytes()
    file = tmp_path / "clip.safetensors"
    file.write_bytes(loaded)

    def test(trainer, *words, own=PromptTrainer.test):
        file.write_bytes(b"others")
        return own(trainer, *words)

    monkeypatch.setattr(PromptTrainer, "test", test)
    assert (
        run(tmp_path, "ZeroshotCLIP", tmp_path / "out", 1, extra=["MODEL.BACKBONE.NAME", str(file)])
        == 0
    )
    assert results(tmp_path / "out")["backbone_sha256"] == hashlib.sha256(loaded).hexdigest()


def test_a_run_writes_log_curves_checkpoint_and_results(tmp_path, capfd):
    out = tmp_path / "out"
    assert run(tmp_path, "ALIGN", out) == 0
    console = capfd.readouterr().out
    record = results(out)
    assert record["trainer"] == "ALIGN" and record["dataset"] == "TinyColours"
    assert (record["seed"], record["shots"], record["split"]) == (1, 4, "test")
    assert (record["num_classes"], record["num_test"]) == (4, 16)
    assert 0 <= record["accuracy"] <= 100 and record["train_seconds"] > 0
    assert record["train_steps"] == 8  # 16 images of training, 4 in a batch, 2 epochs
    assert value_of(record, "TRAINER.ALIGN.M") == 2
    assert record["versions"]["torch"] == torch.__version__
    assert record["peak_memory_mib"] > 100 and record["versions"]["device"] == "cpu"
    assert "\nDevice: cpu\n" in console
    weights = (GOLDEN / "tiny_clip_seed0.safetensors").read_bytes()
    assert record["backbone_sha256"] == hashlib.sha256(weights).hexdigest()
    log = (out / "log.txt").read_text()
    assert "epoch [2/2]" in log and log.count("nothing will be recomputed") == 1
    changed = f"(all are in '{out / 'log.txt'}'):\n"
    for text in (console, log):
        settings = text.split(changed)[1].split("\n\n")[0].splitlines()
        assert "TRAINER.ALIGN.M: 2" in settings and "TRAINER.NAME: ALIGN" in settings
        assert "TRAINER.ALIGN.COUPLING: project" not in settings
    assert "COUPLING: project" in log and "COUPLING" not in console
    assert list((out / "tensorboard").iterdir())
    command = console.partition("Classify images with this run:\n")[2]
    assert log.endswith(command)
    command = command.replace("\\\n", "")
    assert main(shlex.split(command.partition("python -m benchmark ")[2])) == 0
    image = str(tmp_path / "tiny_colours" / "test_forest_0.png")
    assert capfd.readouterr().out.startswith(f"{image}: ")
    folder = out / "MultiModalPromptLearner"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-2"]
    assert sum(v.numel() for v in prompts(out, 2).values()) == record["num_params"]


def test_same_seed_same_bits_and_resuming_changes_nothing(tmp_path):
    whole, again, parts = (tmp_path / name for name in ("whole", "again", "parts"))
    assert run(tmp_path, "ALIGN", whole) == run(tmp_path, "ALIGN", again) == 0
    with killed_after(1):
        assert run(tmp_path, "ALIGN", parts) == 130
    assert not (parts / "results.json").exists()
    assert run(tmp_path, "ALIGN", parts, 2, "--resume", str(parts)) == 0
    expected = prompts(whole, 2)
    for other in (again, parts):
        state = prompts(other, 2)
        assert all(torch.equal(v, state[k]) for k, v in expected.items())
        assert results(other)["accuracy"] == results(whole)["accuracy"]
        assert results(other)["test_seconds"] > 0
        counts = results(other)["training_images"]
        assert 0 < counts["least"] <= counts["most"] <= results(other)["shots"]
    left = [p.name for p in (parts / "MultiModalPromptLearner").glob("model*")]
    assert left == ["model.pth.tar-2"]
    moved = tmp_path / "moved"  # nothing is left to train there
    assert run(tmp_path, "ALIGN", moved, 2, "--resume", str(parts)) == 0
    assert all(torch.equal(v, prompts(moved, 2)[k]) for k, v in expected.items())
    assert results(moved)["accuracy"] == results(whole)["accuracy"]


def test_a_run_that_is_not_tested_keeps_its_results(tmp_path):
    out = tmp_path / "out"
    assert run(tmp_path, "CoOp", out, 1) == 0
    assert run(tmp_path, "CoOp", out, 1, extra=["TEST.NO_TEST", "True"]) == 0
    assert results(out)["accuracy"] > 0


def test_evaluation_of_a_trained_model(tmp_path):
    out, evaluated = tmp_path / "out", tmp_path / "eval"
    assert run(tmp_path, "CoOp", out, 1) == 0
    flags = ("--eval-only", "--model-dir", str(out))
    assert run(tmp_path, "CoOp", evaluated, 1, *flags) == 0
    assert results(evaluated)["accuracy"] == results(out)["accuracy"]
    assert results(evaluated)["train_seconds"] == results(evaluated)["train_steps"] == 0


@pytest.mark.slow
def test_training_learns_and_only_prompts_move(tmp_path):
    """A random CLIP cannot tell four colours apart; a few epochs must be clearly above chance."""
    out = tmp_path / "out"
    assert run(tmp_path, "ALIGN", out, 12) == 0
    assert results(out)["accuracy"] >= 50


def test_zero_shot_needs_no_training(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tmp_path, "ZeroshotCLIP", out) == 0
    record = results(out)
    assert (record["num_params"], record["train_seconds"]) == (0, 0)


def test_amp_on_the_cpu_is_bfloat16_and_fp16_says_that_it_is_fp32(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.prompting.running.precision.bfloat16_factor", lambda clip: 2.94)
    for precision in ("amp", "fp16", "fp32"):
        out = tmp_path / precision
        assert run(tmp_path, "ALIGN", out, 1, extra=["TRAINER.ALIGN.PREC", precision]) == 0
    same = [prompts(tmp_path / p, 1) for p in ("fp16", "fp32", "amp")]
    assert all(torch.equal(v, same[1][k]) for k, v in same[0].items())
    assert any(not torch.equal(v, same[1][k]) for k, v in same[2].items())
    assert all(v.isfinite().all() for v in same[2].values())
    said = (tmp_path / "fp16" / "log.txt").read_text()
    assert "computes in fp32\nthis processor computes 2.9 times as fast in bfloat16" in said
    assert "times as fast" not in (tmp_path / "amp" / "log.txt").read_text()
    found = {p: results(tmp_path / p)["precision"] for p in ("amp", "fp16", "fp32")}
    assert found == {"amp": "bfloat16", "fp16": "float32", "fp32": "float32"}
    flags = "--eval-only", "--model-dir", str(tmp_path / "amp")
    assert run(tmp_path, "ALIGN", tmp_path / "both", 1, *flags) == 0
    assert results(tmp_path / "both")["precision"] == "bfloat16 + float32"


def test_whole_numbers_are_accepted_for_decimal_keys(tmp_path):
    args = train.parse_args([*arguments(tmp_path), "TRAINER.ALIGN.BETA", "0", "OPTIM.LR", "1"])
    cfg = train.setup_cfg(args)
    assert cfg.TRAINER.ALIGN.BETA == 0.0 and cfg.OPTIM.LR == 1.0


def test_a_small_memory_budget_changes_no_result(tmp_path):
    assert run(tmp_path, "ALIGN", tmp_path / "plenty", 1) == 0
    assert (
        run(tmp_path, "ALIGN", tmp_path / "little", 1, extra=["TRAINER.MEMORY_BUDGET", "0.0022"])
        == 0
    )
    assert "blocks will be recomputed" in (tmp_path / "little/log.txt").read_text()
    plenty, little = (prompts(tmp_path / name, 1) for name in ("plenty", "little"))
    assert all(torch.allclose(plenty[key], little[key], atol=1e-6) for key in plenty)


def test_one_class_is_too_few(tmp_path, capsys, monkeypatch):
    import tiny

    monkeypatch.setattr(tiny, "COLOURS", {"sea": (40, 40, 200)})
    assert run(tmp_path) == 2
    assert "at least 2" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    forward_backward = PromptTrainer.forward_backward

    def poisoned(self, batch):
        if (self.epoch, self.batch_idx) == (1, 2):
            self.model.prompt_learner.ctx.data.fill_(float("nan"))
        return forward_backward(self, batch)

    monkeypatch.setattr(PromptTrainer, "forward_backward", poisoned)
    assert run(tmp_path, "CoOp", out, 3) == 1
    assert "not finite in epoch 2, step 3" in capsys.readouterr().err
    state = prompts(out, 1, "prompt_learner")
    assert state["ctx"].isfinite().all()
    assert not (out / "results.json").exists()


def test_a_console_without_the_letters_of_a_class_name_does_not_stop_a_run(tmp_path, monkeypatch):
    import tiny

    monkeypatch.setattr(tiny, "COLOURS", {"forêt": (40, 200, 40), "海 1": (40, 40, 200)})
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    out = tmp_path / "out"
    with redirect_stdout(console):
        assert run(tmp_path, "ZeroshotCLIP", out, extra=["TEST.PER_CLASS_RESULT", "True"]) == 0
    console.flush()
    assert rb"class: 0 (for\xeat)" in console.buffer.getvalue()
    assert "class: 0 (forêt)" in (out / "log.txt").read_text(encoding="utf-8")


def test_help_and_a_missing_method_do_not_wait_for_pytorch():
    code = "import sys, train\nassert train.run([]) == 2\n"
    code += "try: train.run(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.startswith("error: No method is named: give --trainer")
    assert "--dataset-config-file" in done.stdout and done.stdout.endswith("False\n")
    assert {*list_methods()} <= {*done.stdout.split()}
