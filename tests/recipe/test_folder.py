"""The output folder: one run at a time, no partial files, clear errors of the file system."""

import errno
import subprocess
import sys

import filelock
import pytest
import torch
from cases import slow_but
from paths import ROOT
from tiny import results, run

from recipe import folder
from trainers.prompting.record import environment
from trainers.prompting.trainer.trainer import PromptTrainer

HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recipe.folder import output_folder
with output_folder(Path(sys.argv[2])):
    print("held", flush=True)
    input()
"""


def test_a_second_run_into_one_folder_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, ROOT, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for flags in ([], ["--eval-only"]):
            assert run(tmp_path, "CoOp", out, 1, *flags) == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert f"'{out}' is being written by another run: wait until" in line
        assert [path.name for path in out.iterdir()] == [".lock"]
        assert run(tmp_path, "ZeroshotCLIP", tmp_path / "elsewhere") == 0
        other.kill()
    assert run(tmp_path, "ZeroshotCLIP", out) == 0


def test_a_lock_of_a_machine_that_has_died_is_named(tmp_path, capsys, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out/.lock.soft"
    lock.write_text("17\nanother-machine\n")
    assert run(tmp_path, "CoOp", tmp_path / "out", 1) == 2
    assert f"if its machine has died, remove '{lock}'" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["", "cat/out", "../photos/out"])
def test_an_output_folder_among_own_images_is_refused(tmp_path, capsys, output):
    root = tmp_path / "photos"
    root.mkdir()
    named = ["DATASET.NAME", "ImageFolder"]
    assert run(root, "ZeroshotCLIP", root / output, extra=named) == 2
    assert f"is in the folder of your images, '{root}'" in capsys.readouterr().err
    assert not [*root.iterdir()]


def test_a_run_without_an_output_folder_or_without_locks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, "ZeroshotCLIP", extra=["OUTPUT_DIR", ""]) == 0
    assert (tmp_path / "log.txt").exists() and not (tmp_path / "results.json").exists()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert run(tmp_path, "ZeroshotCLIP", "networked") == 0
    monkeypatch.setattr(environment, "resource", None)
    assert run(tmp_path, "ZeroshotCLIP", "windows") == 0
    assert results(tmp_path / "windows")["peak_memory_mib"] == 0 or torch.cuda.is_available()


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    out = tmp_path / "out"
    names = ("results.json", "prompt_learner/model.pth.tar-1", "prompt_learner/checkpoint")
    halves = [out / f"{name}.17.tmp" for name in names]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.touch()
    with folder.output_folder(out):
        assert not any(half.exists() for half in halves)


BELONGS = "File exists): a folder belongs there: remove that"


@pytest.mark.parametrize(("there", "folder", "why"), [
    ("out/results.json/", "out", "Is a directory"), ("out/tensorboard", "out", BELONGS),
    ("out/prompt_learner", "out", BELONGS), ("out", "out", BELONGS),
    ("a", "a/x", "Not a directory"),
])  # fmt: skip
def test_what_is_in_the_way_is_named(tmp_path, capsys, there, folder, why):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if there.endswith("/") else path.touch()
    assert run(tmp_path, "CoOp", tmp_path / folder, 1) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: '") and f"' cannot be written or read ({why}" in line
    assert f"'{path if folder in there else tmp_path / folder}'" in line


def test_results_of_an_earlier_run_do_not_outlive_the_start_of_another(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(tmp_path, "CoOp", out, 1) == 0
    assert run(tmp_path, "KgCoOp", out, 1, "--eval-only", "--model-dir", "nowhere") == 2
    assert run(tmp_path, "KgCoOp", out, 1, "--no-train") == 0
    assert results(out)["trainer"] == "CoOp"
    monkeypatch.setattr(PromptTrainer, "test", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "CoOp", out, 1)
    assert not (out / "results.json").exists()


# KiB left, so that the disk is full in the log, the curves, a checkpoint or the results.
FULL = [("CoOp", 0), ("CoOp", 4), ("CoOp", 8), ("CoOp", 12), ("CoOp", 44), ("CoOp", 52)]
FULL += [("ZeroshotCLIP", 8), ("ZeroshotCLIP", 12)]


@pytest.mark.parametrize("full", slow_but(FULL, ("CoOp", 8), ("ZeroshotCLIP", 12)), ids=str)
def test_a_full_disk_is_one_sentence_and_no_result(full, small_disk, tmp_path, capsys):
    trainer, kib = full
    disk = small_disk(kib)
    out = disk / "out"
    out.mkdir(exist_ok=True)
    assert run(tmp_path, trainer, out) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: '{out}") and said.endswith(
        "' cannot be written or read (No space left on device): free some disk space, then rerun\n"
    )
    sys.stdout.flush()  # as at the end of the process
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert not [name for name in left if name.startswith("results") or name.endswith(".tmp")]
    (disk / "ballast").unlink()
    assert run(tmp_path, trainer, out) == 0
    assert results(out)["num_test"] == 16


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_that_cannot_be_written_end_the_run_in_a_sentence(tmp_path, capsys, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    assert run(tmp_path, "CoOp", tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_other_errors_of_the_system_name_the_file(tmp_path, capsys, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "/images/a")

    monkeypatch.setattr("recipe.run.build_trainer", refused)
    assert run(tmp_path) == 1
    assert "'/images/a' cannot be written or read (Permission denied): change its permissions" in (
        capsys.readouterr().err
    )
