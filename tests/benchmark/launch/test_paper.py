"""The command `paper`: its steps and what stops it, and all of it on made data."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from dassl.data.datasets import DATASET_REGISTRY
from paths import ROOT
from PIL import Image

import datasets  # noqa: F401 (registers them)
from benchmark.__main__ import main
from benchmark.launch import paper
from benchmark.launch.locks import LOCK
from benchmark.protocols.configs import TEN, dataset_name
from trainers.prompting.backbones import openai
from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import hold_lock

SMALL = ["--backbone", "emoji", "--trainers", "CoOp", "--seeds", "1"]


class Called:
    """Stands in for the other commands: notes them, and ends with a given code each."""

    def __init__(self):
        self.lines, self.codes = [], {}

    def __call__(self, name, argv):
        self.lines.append([name, *argv])
        print(f"{name} says this")
        return self.codes.get(name, 0)

    @property
    def names(self):
        return [line[0] for line in self.lines if "--estimate" not in line]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in an empty folder, on a machine without weights, data, network and GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(openai, "CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ["download", "check-data", "base2new", "report", "report"]


def test_a_bare_machine_is_told_what_is_missing_and_nothing_is_begun(place, capsys):
    started = time.process_time()
    assert main(["paper"]) == 2
    assert time.process_time() - started < 10
    said = capsys.readouterr()
    assert len((said.out + said.err).splitlines()) < 20
    assert re.search(rf"\nmissing for \d+ runs: {TEN[0]} ", said.out)
    assert "ViT-B/16 are not on" in said.out
    assert re.match(r"\d+ runs, into .*downloaded first.*\nDisk: .* GB are free.*\nHours: --est.*\n"
                    r"On a login node: --slurm", said.out)  # fmt: skip
    assert re.fullmatch(
        r"python -m benchmark paper: PyTorch finds no GPU, and \d+ runs may take weeks on a CPU: "
        r"use a machine with one, submit them with --slurm, or continue with --anyway\n",
        said.err,
    )
    assert not list(place.iterdir())


def test_dry_run_lists_the_steps(place, capsys):
    words = ["dtd", "imagenet", "--also", "few_shot transfer", *SMALL, "OPTIM.LR", "0.1"]
    assert main(["paper", *words, "--dry-run"]) == 0
    lines = [x.split()[4:] for x in capsys.readouterr().out.splitlines() if x[0] == "$"]
    assert [line[:3] for line in lines][:7] == [
        ["download", "caltech101", "oxford_pets"], ["check-data", "caltech101", "oxford_pets"],
        ["base2new", "dtd", "--root"], ["base2new", "imagenet", "--root"],
        ["few_shot", "dtd", "imagenet"], ["cross_dataset", "--root", f"{place}/data"],
        ["domain_generalization", "--root", f"{place}/data"],
    ]  # fmt: skip
    assert {"imagenetv2", "imagenet_r", "--zero-shot", "emoji"} <= set(lines[1])
    assert all(line[-2:] == ["OPTIM.LR", "0.1"] for line in lines[2:7])
    assert [line[0] for line in lines[7:]] == ["report", "report"]
    assert not list(place.iterdir())


def test_steps_and_what_is_kept_of_them(place, capsys):
    call, words = Called(), ["dtd", *SMALL, "--anyway", "--output", "out"]
    assert paper.main(words, call) == 0 and call.names == ALL
    (estimate,) = (line for line in call.lines if "--estimate" in line)
    assert estimate[:-1] == call.lines[3] and estimate == call.lines[2]
    assert "report says this" not in capsys.readouterr().out
    (place / "out/zero_shot.txt").write_text("")  # as a power loss leaves it
    call.lines.clear()
    assert paper.main(words, call) == 0 and call.names == ALL
    assert (place / "out/report.html").read_text() == "report says this\n"
    call.lines.clear()
    call.codes["base2new"] = 1  # some runs fail, and the report shows the others
    assert paper.main(words, call) == 1
    assert call.names == [name for name in ALL if name != "check-data"]
    said = capsys.readouterr()
    assert "some runs have failed" in said.err
    assert f"# done: '{place}/out/zero_shot.txt'\ncheck-data says this\n" in said.out


def test_slurm_gets_the_runs_and_a_later_call_reports(place, capsys, monkeypatch):
    words = ["dtd", *SMALL, "--slurm", "--partition=gpu", "--output", "out"]
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(UserError, match="where Slurm's commands are installed"):
        paper.main(words, Called())
    monkeypatch.setattr(paper, "ask", lambda *words: "")
    call = Called()
    assert paper.main(words, call) == 0 and call.names == ALL[:3]
    _, check, submit = call.lines
    assert "--zero-shot" not in check and "--slurm=--partition=gpu" in submit
    said = capsys.readouterr().err
    assert f"call `python -m benchmark {shlex.join(check)} --zero-shot --backbone emoji`" in said
    assert "2 of 2 runs are not done: rerun when" in said
    for part, half in (("train_base", "base"), ("test_new", "new")):
        folder = place / f"out/base2new/{part}/dtd/shots_16/CoOp/base2new@emoji/seed1"
        folder.mkdir(parents=True)
        record = {"trainer": "CoOp", "dataset": "DescribableTextures", "seed": 1, "shots": 16}
        record |= {"subsample_classes": half, "accuracy": 50.0}
        (folder / "results.json").write_text(json.dumps(record))
    call = Called()
    assert paper.main(words, call) == 0
    assert call.names == [name for name in ALL if name != "check-data"]


def test_estimate_times_the_runs_and_does_nothing_else(place):
    call = Called()
    assert paper.main(["dtd", "imagenet", *SMALL, "--estimate"], call) == 0
    assert [line[:2] for line in call.lines] == [["base2new", "dtd"], ["base2new", "imagenet"]]
    assert all(line[-1] == "--estimate" for line in call.lines) and not list(place.iterdir())


def test_a_proof_that_fails_stops_what_follows(place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    call, words = Called(), ["dtd", *SMALL]
    call.codes["download"] = 1
    with pytest.raises(UserError, match="not all data sets are complete .* rerun to resume"):
        paper.main(words, call)
    assert call.names == ALL[:1]
    call.codes = {"check-data": 1}
    for _ in range(2):  # it is repeated: the data may have been mended
        call.lines.clear()
        with pytest.raises(
            UserError, match="not as published .* mend that, or continue with --any"
        ):
            paper.main(words, call)
        assert call.names == ALL[:2]
    call.lines.clear()
    assert paper.main([*words, "--anyway"], call) == 0
    assert call.names == [name for name in ALL if name != "check-data"]
    call.lines.clear()
    assert paper.main([*words, "--root", "others", "--anyway"], call) == 0
    assert call.names == ALL


def test_another_process_in_the_output_stops_it(place):
    words = ["emoji", *SMALL, "--anyway", "--output", "out"]
    (place / "out").mkdir()
    with (
        hold_lock(place / "out" / paper.LOCK),
        pytest.raises(UserError, match="`paper` of another"),
    ):
        paper.main(words, Called())
    run = place / "out/base2new/train_base/emoji/shots_16/CoOp/emoji/seed1"
    run.mkdir(parents=True)
    with (
        hold_lock(run / LOCK),
        pytest.raises(UserError, match=f"base of another .* '{place}/out': "),
    ):
        paper.main(words, Called())
    call = Called()
    assert paper.main(words, call) == 0 and call.names == ALL[2:]  # nothing to download


@pytest.mark.parametrize("words, why", [
    (["dtdd"], "dtdd"),
    (["dtd", "--also", "ablation"], "'ablation' is not one of few_shot, transfer"),
    (["dtd", "--slurm", "--array=1"], "--slurm: --array cannot be given"),
    (["dtd", "--slurm", "x", "--estimate"], "--estimate times this machine: leave --slurm"),
    (["dtd", "--estimate", "--dry-run"], "--estimate times this machine: leave --slurm"),
    (["dtd", "OPTIM.LRR", "1"], "OPTIM.LRR"),
    (["dtd", "--trainers", "TipAdapter"], "TipAdapter has parameters for each class"),
    (["dtd", "--output", __file__], "is a file: give a folder"),
])  # fmt: skip
def test_mistakes_are_found_before_the_first_step(place, capsys, words, why):
    try:
        code = main(["paper", *words, "--backbone", "emoji", "--anyway"])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2 and said.err.count("\n") == 1 and why in said.err and "$" not in said.out


# ---- all of it

CLASSES = "cat", "dog", "cow", "ant"  # two are base classes, two are new


def make_sets(root: Path) -> None:
    """Write ten data sets in CoOp's layout: 4 classes of 6 images, 3, 1 and 2 of the parts."""
    table = yaml.safe_load((ROOT / "configs" / "downloads.yaml").read_text())
    for number, name in enumerate(TEN):
        kind = DATASET_REGISTRY.get(dataset_name(name))
        folder = root / kind.dataset_dir
        parts = {"train": [], "val": [], "test": []}
        for label, word in enumerate(CLASSES):
            for i, part in enumerate(("train", "train", "train", "val", "test", "test")):
                path = folder / kind.image_dir / f"{word}_{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (80 * label, 20 * number, 40 * i)).save(path)
                parts[part].append([path.name, label, word])
        if kind.split_file:
            (folder / kind.split_file).write_text(json.dumps(parts))
        else:  # Aircraft's own lists
            (folder / "variants.txt").write_text("\n".join(CLASSES) + "\n")
            for part, rows in parts.items():
                lines = "".join(f"{Path(file).stem} {word}\n" for file, _, word in rows)
                (folder / f"images_variant_{part}.txt").write_text(lines)
        for file in table[name]["files"]:  # what `download` looks for besides
            for needed in file.get("holds", [file["name"]]):
                if not (folder / needed).exists():
                    (folder / needed).mkdir(parents=True)


def records(output: Path) -> dict[Path, int]:
    """Return the times of the records of runs in an output."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("results.json")}


@pytest.mark.slow
@pytest.mark.processes
def test_from_made_data_to_a_report_with_two_kills(tmp_path):
    make_sets(tmp_path / "data")
    output, console = tmp_path / "output", tmp_path / "console.txt"
    words = ["bash", ROOT / "scripts" / "paper.sh", "--anyway", "OPTIM.STEPS", "2"]
    asked = {"DATA": "data", "OUTPUT": "output", "TRAINERS": "CoOp", "SEEDS": "1", "JOBS": "1"}
    asked |= {"BACKBONE": "emoji", "CONFIG": "emoji", "PYTHON": sys.executable}
    asked |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def call(end: signal.Signals | None = None, after: int = 0) -> int:
        """Call the script; end it when it has done so many runs."""
        with (
            open(console, "a") as file,
            subprocess.Popen(
                words, cwd=tmp_path, env=os.environ | asked, stdout=file, stderr=file
            ) as script,
        ):
            while end and script.poll() is None and len(records(output)) < after:
                time.sleep(0.1)
            if end:
                script.send_signal(end)
            return script.wait()

    assert call(signal.SIGTERM, after=3) != 0, console.read_text()
    first = records(output)
    assert call(signal.SIGKILL, after=len(first) + 3) == -signal.SIGKILL, console.read_text()
    second = records(output)
    assert 3 <= len(first) < len(second) < 20
    busy = "of another process works in"  # a run outlives its launcher for a moment
    console.write_text(busy)
    while busy in console.read_text():
        console.write_text("")
        code = call()
    told = console.read_text()
    assert code == 0, told
    assert "runs to do: " in told
    last = records(output)
    assert first.items() <= second.items() <= last.items() and len(last) == 20  # none done twice
    assert "zero_shot.txt" in told and "0 of 10 agree with the published" in told
    assert "average over 10 data sets" in (output / "report.txt").read_text()
