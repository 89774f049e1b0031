"""Invalid settings are refused before the first run, and in a dry run."""

from dataclasses import replace

import pytest
from outcomes import leave, outcome
from paths import ROOT

from benchmark.__main__ import main
from benchmark.launch import checks
from trainers.prompting.errors import UserError

PROTOCOL = ["base2new", "emoji", "--trainers", "CoOp ALIGN", "--seeds", "1"]
NO_WORDS = ["TRAINER.COOP.CTX_INIT", ""]
TUNE = ["few_shot", "emoji", "--shots", "4", "--trainers", "CoOp ALIGN", "--vary"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*PROTOCOL, "OPTIM.LRR", "0.1"], "OPTIM has no 'LRR': did you mean 'LR'?"),
        ([*PROTOCOL, "OPTIM.LR", "x"], "'OPTIM.LR' to 'x', but it must be of type float"),
        ([*PROTOCOL, "OPTIM.MAX_EPOCH", "-5"], "MAX_EPOCH is -5 but must be a whole number"),
        ([*PROTOCOL, "TEST.SPLIT", "vla"], "Unknown TEST.SPLIT 'vla'"),
        ([*PROTOCOL, "TRAINER.ALIGN.M", "-2"], "M is -2"),
        ([*PROTOCOL, "TRAINER.ALIGN.PREC", "fp8"], "PREC is 'fp8' but must be one of"),
        ([*PROTOCOL, "OPTIM.NAME", "sdg"], "Unknown optimizer OPTIM.NAME 'sdg'"),
        ([*PROTOCOL, "OPTIM.LR_SCHEDULER", "cos"], "Unknown scheduler OPTIM.LR_SCHEDULER 'cos'"),
        ([*PROTOCOL, "INPUT.TRANSFORMS", "['flip']"], "transform in INPUT.TRANSFORMS 'flip'"),
        ([*PROTOCOL, *NO_WORDS, "TRAINER.COOP.N_CTX", "-3"], "N_CTX is -3: at least 1 is needed"),
        ([*PROTOCOL, "--backbone", "ViT-B-16"], "no file is called 'ViT-B-16': did you mean"),
        (
            ["base2new", "dtd", "--trainers", "CLAP"],
            "CLAP has parameters for each class and cannot be tested on new classes",
        ),
        (["base2new", "dtd", "--trainers", "SOTGLP"], "SOTGLP has parameters for each class and"),
        (
            ["cross_dataset", "--trainers", "GDA", "TRAINER.GDA.FORM", "shrunk"],
            "GDA has parameters for each class and cannot be tested on new classes",
        ),
        ([*PROTOCOL, "--sentences", "clip7"], "CoOp does not start from given sentences"),
        (
            ["few_shot", "dtd", "--trainers", "GDA", "--sentences", "a/b.json"],
            "a/b.json' cannot be read",
        ),
        (["cross_dataset", "--trainers", "TipAdapterF"], "new classes, as cross_dataset does: run"),
        (
            ["cross_dataset", "--trainers", "PromptKD"],
            "run it in few_shot on each target, with --config cross_dataset",
        ),
        (
            [*PROTOCOL, "TRAINER.MAPLE.N_CTX", "4"],
            "sets TRAINER.MAPLE.N_CTX, which CoOp does not read (its node is TRAINER.COOP): set TR",
        ),
        ([*TUNE, "LR=x,y"], "sets 'LR', but the cfg has no 'LR'"),
        ([*TUNE, "OPTIM.LR=x,y"], "'OPTIM.LR' to 'x', but it must be of type float"),
        (
            ["few_shot", "emoji", "--trainers", "TipAdapter", "--vary", "OPTIM.LR=0.1,0.2"],
            "TipAdapter does the same with OPTIM.LR 0.2 as with OPTIM.LR 0.1: give keys that mean",
        ),
        (
            [*TUNE, "TRAINER.MAPLE.N_CTX=2,4"],
            "--vary TRAINER.MAPLE.N_CTX: none of CoOp, ALIGN has this key",
        ),
        (
            [*PROTOCOL[:3], "CoOp", "--vary", "OPTIM.LR=0.1,0.2", "--vary", "OPTIM.LR=0.3"],
            "OPTIM.LR is given twice",
        ),
        ([*TUNE, "OPTIM.MAX_EPOCH=2,0"], "MAX_EPOCH is 0 but must be a whole number"),
    ],
)
def test_invalid_settings_are_refused(words, sentence, tmp_path, capsys):
    output = tmp_path / "output"
    assert main([*words, "--output", str(output), "--dry-run"]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and not said.out and not output.exists()


@pytest.mark.parametrize("more", [["--slurm", "--dry-run"], []], ids=str)
def test_they_are_refused_before_runs_and_jobs(more, tmp_path, capsys):
    output = tmp_path / "output"
    assert main([*PROTOCOL, "OPTIM.LR", "x", "--output", str(output), *more]) == 2
    said = capsys.readouterr()
    assert "'OPTIM.LR' to 'x', but" in said.err and not said.out and not output.exists()


def test_a_key_of_one_method_is_for_several_and_config_files_are_named(tmp_path, capsys):
    words = ["base2new", "emoji", "--seeds", "1", "--output", str(tmp_path), "--dry-run"]
    key = ["TRAINER.ALIGN.BETA", "0.5"]
    assert main([*words, "--trainers", "CoOp ALIGN", *key]) == 0
    said = capsys.readouterr()
    assert said.out.count("--shared ") == 4 and "does not read" not in said.err
    config = ["--config", str(ROOT / "configs/trainers/ALIGN/emoji.yaml")]
    assert main([*words, "--trainers", "CoOp", *config]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("warning: config files set TRAINER.ALIGN.BETA, TRAINER.ALIGN.")


def test_without_pytorch_runs_are_listed_unchecked(tmp_path, capsys, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(checks, "import_module", missing)
    assert main([*PROTOCOL, "--output", str(tmp_path), "--dry-run", "OPTIM.LRR", "0.1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("# run: ") == 4 and "settings are not checked here" in said.err


def test_a_misspelled_key_beside_finished_runs_is_refused(tmp_path, capsys):
    one = ["base2new", "emoji", "--trainers", "ZeroshotCLIP", "--seeds", "1"]
    one += ["--output", str(tmp_path)]
    leave(tmp_path, [outcome("ZeroshotCLIP", 1, part, 50.0) for part in ("base", "new")])
    for record in tmp_path.rglob("results.json"):
        record.write_text(record.read_text().replace('"dataset": "emoji"', '"dataset": "Emoji"'))
    assert main(one) == 0 and "ZeroshotCLIP" in capsys.readouterr().out
    assert main([*one, "TRAINER.ALIGN.BETTA", "0"]) == 2
    said = capsys.readouterr()
    assert "TRAINER.ALIGN has no 'BETTA': did you mean 'BETA'?" in said.err and not said.out


def test_methods_that_a_stream_does_not_change_are_skipped(capsys):
    runs = [outcome(name, 1, "base", 1.0).run for name in ("CoOp", "TDA", "StatA", "Unknown")]
    assert checks.for_streams(runs, ()) == runs
    assert checks.for_streams(runs, ("TEST.STREAM", "separate:8")) == runs[1:]
    said = capsys.readouterr().err
    assert said == "Skipped: CoOp classifies each image by itself, in any TEST.STREAM\n"
    varied = [replace(run, opts=("TEST.STREAM", "shuffled")) for run in runs[:1]] + runs[1:]
    assert checks.for_streams(varied, ("TEST.STREAM", "separate:8")) == varied
    with pytest.raises(UserError, match="TEST.STREAM changes none of these methods: choose TDA"):
        checks.for_streams(runs[:1], ("TEST.STREAM", "separate:8"))
