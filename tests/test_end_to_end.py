"""Base-to-new by the script, on the embedded benchmark: from images to the table."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT
from PIL import Image

from benchmark.__main__ import main

SMALL = {"SEEDS": "1", "SHOTS": "1", "TRAINERS": "ZeroshotCLIP CoOp ALIGN"}


def bash(tmp_path, *args, **environment):
    """Run scripts/base2new.sh in an empty folder; return the finished process."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "base2new.sh"), *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "OUTPUT": str(tmp_path / "out"),
             "DATA": str(ROOT / "data"), **SMALL, **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )  # fmt: skip


def command(tmp_path, dataset):
    """Return the words of the same command, for this process, without the trainers."""
    words = ["base2new", dataset, "--seeds", "1", "--shots", "1", "OPTIM.MAX_EPOCH", "1"]
    return [*words, "--output", str(tmp_path / "out"), "--root", str(ROOT / "data")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and process of the script with one seed, one shot and one epoch."""
    tmp_path = tmp_path_factory.mktemp("base2new")
    process = bash(tmp_path, "emoji", "OPTIM.MAX_EPOCH", "1")
    assert process.returncode == 0, process.stdout + process.stderr
    return tmp_path, process


@pytest.mark.slow
def test_the_table_holds_the_results_of_the_runs(finished):
    tmp_path, process = finished
    for trainer in SMALL["TRAINERS"].split():
        accuracy = {}
        for path in (tmp_path / "out").rglob("results.json"):
            record = json.loads(path.read_text())
            if record["trainer"] == trainer:
                accuracy[record["subsample_classes"]] = record["accuracy"]
        assert set(accuracy) == {"base", "new"}
        row = next(x for x in process.stdout.splitlines() if x.startswith(f"{trainer} "))
        base, new = accuracy["base"], accuracy["new"]
        for number in (base, new, 2 * base * new / (base + new)):
            assert f"{number:.1f}" in row or f"{number:.2f}" in row


@pytest.mark.slow
def test_the_embedded_clip_is_above_chance(finished):
    tmp_path, _ = finished
    for path in (tmp_path / "out").rglob("results.json"):
        record = json.loads(path.read_text())
        if record["trainer"] == "ZeroshotCLIP":
            assert record["accuracy"] > 2 * 100 / record["num_classes"]


@pytest.mark.slow
def test_a_second_call_repeats_nothing(finished, capsys):
    tmp_path, first = finished
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("results.json")}
    assert main([*command(tmp_path, "emoji"), "--trainers", SMALL["TRAINERS"]]) == 0
    again = capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("results.json")} == files
    assert first.stdout.splitlines()[-8:] == again.splitlines()[-8:]


def test_a_failed_run_is_named_and_the_others_continue_and_detect_other_classes(tmp_path, capsys):
    words = ["--trainers", "ALIGN PLOT", "--ood", "emoji_food", "TRAINER.ALIGN.DEPTH", "9"]
    assert main([*command(tmp_path, "emoji_animals"), *words]) == 1
    assert "has 4 blocks" in "".join(capsys.readouterr())
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("results.json")]
    assert sorted(record["subsample_classes"] for record in records) == ["base", "new"]
    for record in records:
        assert record["trainer"] == "PLOT"
        (found,) = record["ood"].values()
        assert record["ood"].keys() == {"EmojiFood"} and found.pop("images") == 128
        assert found.keys() == {"auroc_mcm", "fpr95_mcm", "auroc_gl_mcm", "fpr95_gl_mcm"}
        assert all(0 < number < 100 for number in found.values())


@pytest.mark.slow
def test_transport_plans_are_drawn(finished, capsys):
    tmp_path, _ = finished
    run = next((tmp_path / "out" / "base2new" / "train_base").rglob("ALIGN")) / "emoji" / "seed1"
    picture = tmp_path / "plans.png"
    command = ["visualize", "--model-dir", str(run)]
    assert main([*command, "--output", str(picture)]) == 0
    assert min(Image.open(picture).size) > 300
    out = capsys.readouterr().out
    assert out.startswith(f"{picture}: ") and out.endswith(" against 'heart'\n")
