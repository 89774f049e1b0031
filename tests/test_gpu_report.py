"""Tests of scripts/gpu_report.sh on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT


def report(*words, **variables):
    """Run the script on the CPU with some variables; return the process."""
    environment = {**os.environ, "DEVICE": "cpu", "PYTHON": sys.executable, **variables}
    command = ["bash", "scripts/gpu_report.sh", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)


@pytest.mark.slow
def test_the_page_has_all_parts_and_names_a_failed_one(tmp_path):
    python = tmp_path / "python"  # prints the calls; `solver` fails
    python.write_text(
        f'#!/bin/bash\n[[ $1 == - ]] && exec {sys.executable} "$@"\necho "called: $*"\n'
        "[[ $4 != solver ]]\n"
    )
    python.chmod(0o755)
    made = {"OUTPUT": str(tmp_path / "gpu"), "PYTHON": str(python), "TRAINERS": "CoOp ALIGN"}
    run = report(**made, CLASSES="5", PRECISIONS="fp32")
    assert run.returncode == 1, run.stderr
    (page,) = (tmp_path / "gpu").iterdir()
    assert run.stdout == f"{page}\n"
    text = page.read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Correctness", "## Steps of 4 images", "## Steps of 32 images", "## Transport solver",
    ]  # fmt: skip
    assert "PyTorch " in text and text.count("called: -m ") == 4
    assert "called: -m pytest -q --tb=line -m slow or not slow tests/accelerator" in text
    common = "--device cpu --format markdown --classes 5"
    for batch in (4, 32):
        more = f"--batch {batch} --trainers CoOp ALIGN --precision fp32"
        assert f"called: -m benchmark measure speed {common} {more}\n" in text
    assert text.endswith(
        f"called: -m benchmark measure solver {common}\n\n**It ended with code 1.**\n"
    )
    public = tmp_path / "public"
    for name in ("train.py", "trainers", "clip"):
        (public / name).mkdir(parents=True)
    assert report(**made, PARTS="speed", PUBLIC=str(public)).returncode == 0
    assert page.read_text().count(f"--precision fp32 amp fp16 --public {public}") == 4


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        pytest.param({"DEVICE": "tpu"}, "DEVICE is tpu, but", marks=pytest.mark.slow),
        pytest.param({"PUBLIC": "nowhere"}, "--public 'nowhere' has no", marks=pytest.mark.slow),
        ({"PARTS": "speeed"}, "PARTS has 'speeed' but there are only tests, speed and solver"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, variables, sentence):
    run = report(OUTPUT=str(tmp_path), **variables)
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.startswith(f"gpu_report.sh: {sentence}") and run.stderr.count("\n") == 1


def test_help_is_the_head_of_the_script(tmp_path):
    run = report("--help", OUTPUT=str(tmp_path / "none"))
    assert run.returncode == 0 and run.stdout.startswith("Measure a GPU: tests on it")
    assert "DEVICE (cuda; cpu tries the script), PYTHON." in run.stdout and "#" not in run.stdout
    run = report("--part", OUTPUT=str(tmp_path / "none"))
    assert run.returncode == 2 and "'--part' is no option" in run.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_message_names_the_variable(tmp_path):
    run = report(OUTPUT=str(tmp_path), DEVICE="cuda")
    assert run.returncode == 2 and run.stderr.endswith("can use no such GPU: choose cpu\n")
