"""What the system around a command lacks or refuses is one sentence, too."""

import sys

import pytest
from tiny import arguments, run

import train
from benchmark.__main__ import main


def test_a_run_on_the_hub_is_named_with_the_commands_that_take_it(tmp_path, capsys):
    flags = ["--eval-only", "--model-dir", "hf://user/run"]
    assert run(tmp_path, "CoOp", tmp_path / "out", 1, *flags) == 2
    said = capsys.readouterr().err
    assert "'hf://user/run', on the hub" in said and "`python -m benchmark predict`" in said


def test_a_working_directory_that_was_deleted(tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(tmp_path, "CoOp", "out") == main(["few_shot", "emoji", "--dry-run"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("The working directory has been deleted" in line for line in said)


def test_a_name_of_300_characters(tmp_path, capsys):
    name = "a" * 300
    output = ["--output", str(tmp_path / name)]
    assert main(["report", name]) == main(["few_shot", "emoji", "--trainers", name]) == 2
    assert main(["few_shot", "emoji", "--dry-run", *output]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all("has 300 characters: shorten it" in line for line in said)


@pytest.mark.slow
def test_a_closed_standard_output(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["info"]) == 0
    sys.stdout.close()
    monkeypatch.setattr(sys, "stdout", None)
    assert train.run(arguments(tmp_path, "CoOp", tmp_path / "out", 1, "--no-train")) == 0
