"""The scripts of the protocols, and scripts/paper.sh: its steps, what stops it, and all of it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, hear_interrupts
from dassl.data.datasets import DATASET_REGISTRY
from own_images import registered
from paths import ROOT
from PIL import Image

from benchmark.protocols import PROTOCOLS
from benchmark.protocols.configs import GROUPS


def test_scripts_take_variables_and_run_from_anywhere(checkout, tmp_path):
    program, root = tmp_path / "python", checkout.root
    program.write_text('#!/bin/bash\nprintf "%q " "${@:3}"; echo\n')  # notes its words
    program.chmod(0o755)

    def script(name: str, *words: str, **variables: str) -> list[dict[str, str]]:
        """Return the flags and KEY VALUE pairs of the commands that the script lists."""
        command = ["bash", root / "scripts" / f"{name}.sh", *words, "--dry-run"]
        done = checkout.run(*command, cwd=tmp_path, **{"PYTHON": str(program)} | variables)
        assert done.returncode == 0, done.stderr
        listed = done.stdout
        if "PYTHON" not in variables:
            listed = "".join(checkout.protocol(*shlex.split(x)).stdout for x in listed.splitlines())
        commands = [shlex.split(line)[2:] for line in listed.splitlines() if line[0] != "#"]
        for command in commands:
            if "--eval-only" in command:
                command.remove("--eval-only")
        return [dict(zip(words[::2], words[1::2], strict=True)) for words in commands]

    shared = {"SEEDS": "4", "DATA": "my data", "OUTPUT": "my output", "CONFIG": "emoji"}
    shared |= {"BACKBONE": "ViT-B/16", "JOBS": "1", "TRAINERS": "ALIGN"}
    more = {"SHOTS": "2", "OOD": "emoji_animals dtd"}
    first, second = script("base2new", "emoji_food", "OPTIM.LR", "0.01", **shared, **more)
    folder = "my output/base2new/train_base/emoji_food/shots_2/ALIGN/emoji@ViT-B-16/seed4"
    expected = {"--trainer": "ALIGN", "--seed": "4", "--root": str(root / "my data")}
    expected |= {"--backbone": "ViT-B/16", "--output-dir": str(root / folder)}
    expected |= {"DATASET.NUM_SHOTS": "2", "OPTIM.LR": "0.01"}
    assert (expected | {"TEST.OOD": "['Emoji_Animals', 'Dtd']"}).items() <= first.items()
    assert second["--model-dir"] == first["--output-dir"]
    defaults = script("base2new", PYTHON=sys.executable)  # a separate process
    assert len(defaults) == 20 and not any("--root" in call for call in defaults)
    folder = tmp_path / "output/base2new/train_base/emoji/shots_16/ALIGN/emoji/seed3"
    assert str(folder) in [call["--output-dir"] for call in defaults]
    shots = [call["DATASET.NUM_SHOTS"] for call in script("few_shot", SHOTS="2 8", **shared)]
    assert shots == ["2", "8"]
    options = ("--shots", "4", "--shots", "1", "OPTIM.LR", "1", "OPTIM.LR", "2")
    (call,) = script("few_shot", *options, SHOTS="2 8", **shared)  # over variables; the last wins
    assert (call["DATASET.NUM_SHOTS"], call["OPTIM.LR"]) == ("1", "2")
    halves = [script("several_labels", HALVES=x, SEEDS="1", TRAINERS="CoOp") for x in "01"]
    assert [*map(len, halves)] == [1, 3]
    both = {"SOURCE": "emoji_food", "TARGETS": "emoji_pixels dtd", "SHOTS": "2"}
    for name in ("cross_dataset", "domain_generalization"):
        calls = script(name, **shared, **both)
        sets = [call["--dataset-config-file"].rpartition("/")[2] for call in calls]
        assert sets == ["emoji_food.yaml", "emoji_pixels.yaml", "dtd.yaml"]
        folder = root / "my output" / name / "emoji_food/dtd/shots_2/ALIGN/emoji@ViT-B-16/seed4"
        assert calls[2]["--output-dir"] == str(folder)
        assert calls[2]["--root"] == str(root / "my data")
        assert calls[2]["--backbone"] == "ViT-B/16"
    assert len(script("cross_dataset", SOURCE="emoji", TRAINERS="CoOp", SEEDS="1")) == 3
    words = {"SHOTS": "2", "BETAS": "0.3 0", "FORMS": "convex additive", "MN": "2,2 1,3"}
    calls = script("ablation", "OPTIM.LR", "0.1", **shared, **words)
    place = "my output/base2new/train_base/emoji/shots_2/ALIGN/emoji@ViT-B-16"
    key = "+TRAINER.ALIGN."
    assert [Path(call["--output-dir"]).relative_to(root).parent.as_posix()
            for call in calls if "--model-dir" not in call] == [
        *(f"{place}{key}BETA={beta}{key}BETA_FORM={form}"
          for form in ("convex", "additive") for beta in ("0.3", "0")),
        f"{place}{key}M=2{key}N=2", f"{place}{key}M=1{key}N=3",
    ]  # fmt: skip
    assert {call["OPTIM.LR"] for call in calls} == {"0.1"}
    for more, number in (({}, 5), ({"MN": "2,2 4,4"}, 2), ({"MN": "2,2", "BETAS": "0.3"}, 2),
                         ({"MN": "2,2", "FORMS": "additive"}, 6)):  # fmt: skip
        assert len(script("ablation", SEEDS="1", **more)) == 2 * number


def test_after_its_last_call_ablation_shows_all_variants_in_one_table(checkout):
    script = checkout.root / "scripts" / "ablation.sh"
    asked = {"SEEDS": "1", "BETAS": "0 1", "MN": "2,4"}
    done = checkout.run("bash", script, **asked, FAKE=json.dumps({"ALIGN/1/new": "error"}))
    assert done.returncode == 1 and done.stdout.count("not finite") == 2 + 1 + 3, done.stderr
    last = done.stdout.rpartition("Base-to-new on emoji: ")[2]
    for name in ("BETA 0, BETA_FORM convex", "BETA 1, BETA_FORM convex", "M 2, N 4"):
        assert f"ALIGN, {name}" in last.partition("not finite")[0]
    done = checkout.run("bash", script, MN="1,1 2,4", PYTHON="echo")  # nothing fails
    called = [line.partition(" --")[0] for line in done.stdout.splitlines()]
    assert called == [
        *["-m benchmark base2new"] * 2, "-m benchmark report output/ablation"
    ] and done.returncode == 0  # fmt: skip
    refused = checkout.run("bash", script, MN="4")
    assert refused.returncode == 2 and "'4', which is not a pair M,N" in refused.stderr


def test_every_protocol_has_a_script():
    scripts = {path.stem for path in (REPOSITORY / "scripts").glob("*.sh")}
    shared = {"several_base2new"}  # by HALVES of several_labels.sh
    assert {*PROTOCOLS, "run"} - shared <= scripts
    assert all(
        name in (REPOSITORY / "scripts" / "several_labels.sh").read_text() for name in shared
    )


SCRIPT = ROOT / "scripts" / "paper.sh"
# Stands in for Python: notes its arguments, says so, and ends with the code in CODES, or $DRY for
# a dry run.
PROGRAM = """#!/usr/bin/env bash
shift 2
printf '%s\\n' "$*" >>calls
echo "$1 says this"
[[ $1 != status ]] || echo "2 runs: ${STATUS:-2 done}. Nothing remains."
[[ " $* " != *" --dry-run "* ]] || exit "${DRY:-0}"
for pair in ${CODES:-}; do [[ ${pair%=*} != "$1" ]] || exit "${pair#*=}"; done
"""
DATA = ["download", "check-data"]
ALL = [*DATA, "base2new", "status", "report", "report"]


@pytest.fixture
def paper(tmp_path):
    """A function that calls the script; it returns the exit code, the steps, and what was said."""
    program = tmp_path / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def call(*words, **variables):
        kept = {key: value for key, value in os.environ.items() if key != "SLURM"}
        done = subprocess.run(
            ["bash", SCRIPT, *words], cwd=tmp_path, text=True, capture_output=True,
            env=kept | {"PYTHON": str(program)} | variables,
        )  # fmt: skip
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done.returncode, lines, done.stdout + done.stderr

    return call


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if "--dry-run" not in line]


def test_the_steps_and_their_words(paper, tmp_path):
    shared = {"ALSO": "few_shot transfer", "TRAINERS": "CoOp MaPLe", "SEEDS": "1 2", "DATA": "my"}
    code, lines, said = paper("dtd", "emoji", "--jobs", "2", "OPTIM.LR", "0.1", **shared)
    assert code == 0, said
    four = ["base2new", "few_shot", "cross_dataset", "domain_generalization"]
    assert [line.split()[0] for line in lines[:4]] == four  # a check of the settings
    assert all(line.endswith("OPTIM.LR 0.1 --dry-run") for line in lines[:4])
    assert names(lines) == [*DATA, *four, *ALL[3:]]
    sets = "all imagenet_variants dtd --root my"
    assert lines[4:6] == [f"download {sets}", f"check-data {sets} --zero-shot"]
    more = "--seeds 1 2 --root my --output output/paper --trainers CoOp MaPLe --jobs 2 OPTIM.LR 0.1"
    of_sets = more.replace("paper ", "paper dtd emoji ")
    assert lines[6:10] == [f"{name} {of_sets}" for name in four[:2]] + [
        f"{name} {more}" for name in four[2:]
    ]
    assert (tmp_path / "output/paper/report.txt").read_text() == "report says this\n"
    assert lines[-1] == "report output/paper --format html"
    assert paper()[1][0] == "base2new --root data --output output/paper ten --dry-run"
    code, lines, _ = paper("dtd", "--dry-run")
    assert lines == ["base2new --root data --output output/paper dtd --dry-run"]
    assert names(paper("emoji")[1]) == ALL[2:]  # nothing to download


def test_later_protocols_come_after_a_failed_run(paper):
    code, lines, _ = paper("dtd", ALSO="few_shot", CODES="base2new=1")
    assert code == 1 and names(lines) == [*ALL[:3], "few_shot", *ALL[3:]]
    code, lines, _ = paper("dtd", ALSO="few_shot", CODES="base2new=130")  # Ctrl-C
    assert code == 130 and names(lines) == ["download", "base2new"]


def test_the_proof_is_done_once(paper, tmp_path):
    assert names(paper("dtd")[1]) == ALL
    assert names(paper("dtd")[1]) == [name for name in ALL if name != "check-data"]
    assert names(paper("dtd", "eurosat")[1]) == names(paper("dtd", DATA="others")[1]) == ALL
    (tmp_path / "output/paper/zero_shot.txt").write_text("")  # as a power loss leaves it
    assert names(paper("dtd")[1]) == ALL


def test_a_proof_that_fails_stops_what_follows(paper):
    code, lines, _ = paper("dtd", CODES="download=1")
    assert code == 1 and names(lines) == ALL[:1]
    for _ in range(2):  # it is repeated: the data may have been mended
        code, lines, said = paper("dtd", CODES="check-data=1")
        assert code == 1 and names(lines) == DATA
        assert "mend that, or continue with ANYWAY=1" in said
    code, lines, _ = paper("dtd", CODES="check-data=1", ANYWAY="1")
    assert code == 0 and names(lines) == ALL
    code, lines, _ = paper("dtd", CODES="check-data=1", ANYWAY="1")
    assert code == 0 and names(lines) == [name for name in ALL if name != "check-data"]
    assert names(paper("dtd", CODES="check-data=1")[1]) == DATA  # accepted there, not here


@pytest.mark.parametrize("state", ["1 done, 1 running", "2 queued"])
def test_there_is_no_report_while_jobs_are_open(paper, tmp_path, state):
    code, lines, said = paper("dtd", SLURM="--partition=gpu", STATUS=state)
    assert code == 0 and names(lines) == ALL[:4] and "jobs are open: rerun when" in said
    assert (
        "--zero-shot" not in lines[2] and "on a GPU, call `python -m benchmark check-data" in said
    )
    assert "--slurm=--partition=gpu" in lines[3]
    assert not (tmp_path / "output/paper/report.txt").exists()
    assert (
        names(paper("dtd", SLURM="--partition=gpu", STATUS="1 failed, 1 not queued")[1])[-1]
        == "report"
    )


def test_mistakes_are_found_before_the_first_step(paper):
    code, lines, _ = paper("dtdd", DRY="2")
    assert code == 2 and not names(lines)
    code, lines, said = paper("dtd", ALSO="few_shot ablation")
    assert (code, lines) == (2, []) and "ALSO has 'ablation'" in said


# ---- all of it

CLASSES = "cat", "dog", "cow", "ant"  # two are base classes, two are new


def make_sets(root: Path) -> None:
    """Write ten data sets in CoOp's layout: 4 classes of 6 images, 3, 1 and 2 of the parts."""
    table = yaml.safe_load((ROOT / "configs" / "downloads.yaml").read_text())
    for number, name in enumerate(GROUPS["ten"]):
        kind = DATASET_REGISTRY.get(registered(name))
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
    words = ["bash", SCRIPT, "OPTIM.STEPS", "2"]
    asked = {"DATA": "data", "OUTPUT": "output", "TRAINERS": "CoOp", "SEEDS": "1", "JOBS": "1"}
    asked |= {"BACKBONE": "emoji", "CONFIG": "emoji", "PYTHON": sys.executable, "ANYWAY": "1"}
    asked |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def call(end: signal.Signals | None = None, after: int = 0) -> int:
        """Call the script; end all of it, as a terminal does, when it has done so many runs."""
        with (
            open(console, "a") as file,
            subprocess.Popen(
                words, cwd=tmp_path, env=os.environ | asked, stdout=file, stderr=file,
                start_new_session=True, preexec_fn=hear_interrupts,
            ) as script,
        ):  # fmt: skip
            while end and script.poll() is None and len(records(output)) < after:
                time.sleep(0.1)
            if end:
                os.killpg(script.pid, end)
            return script.wait()

    assert call(signal.SIGINT, after=3) != 0, console.read_text()
    first = records(output)
    assert call(signal.SIGKILL, after=len(first) + 3) == -signal.SIGKILL, console.read_text()
    second = records(output)
    assert 3 <= len(first) < len(second) < 20
    console.write_text("")
    code = call()
    told = console.read_text()
    assert code == 0, told
    last = records(output)
    assert first.items() <= second.items() <= last.items() and len(last) == 20  # none done twice
    assert "0 of 10 agree with the published" in (output / "zero_shot.txt").read_text()
    assert "average over 10 data sets" in (output / "report.txt").read_text()
