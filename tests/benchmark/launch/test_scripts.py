"""The scripts of the protocols."""

import json
import shlex
from pathlib import Path

from checkout import REPOSITORY

from benchmark.protocols import (
    PROTOCOLS,
)
from benchmark.protocols.transfer import TRANSFER as TRANSFER_PROTOCOLS

TRANSFER = [protocol.name for protocol in TRANSFER_PROTOCOLS]


def test_script_takes_variables_and_runs_from_anywhere(checkout, tmp_path):
    script = checkout.root / "scripts" / "base2new.sh"
    asked = {"TRAINERS": "ALIGN CoOp", "SEEDS": "4", "SHOTS": "2", "DATA": "my data"}
    asked |= {"OUTPUT": "my output", "CONFIG": "emoji", "BACKBONE": "ViT-B/16", "JOBS": "1"}
    asked |= {"OOD": "emoji_animals dtd"}
    words = ("emoji_food", "--dry-run", "OPTIM.LR", "0.01")
    done = checkout.run("bash", script, *words, cwd=tmp_path, **asked)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 9, done.stderr
    first = shlex.split(lines[1])
    folder = "base2new/train_base/emoji_food/shots_2/ALIGN/emoji@ViT-B-16/seed4"
    for flag, value in {
        "--trainer": "ALIGN", "--seed": "4", "--root": str(tmp_path / "my data"),
        "--backbone": "ViT-B/16", "DATASET.NUM_SHOTS": "2", "OPTIM.LR": "0.01",
        "--output-dir": str(tmp_path / "my output" / folder),
        "TEST.OOD": "['Emoji_Animals', 'Dtd']",
    }.items():  # fmt: skip
        assert first[first.index(flag) + 1] == value
    defaults = checkout.run("bash", script, "--dry-run", cwd=tmp_path).stdout
    assert defaults.count("# run: ") == 20 and "--root" not in defaults
    assert f"{tmp_path}/output/base2new/train_base/emoji/shots_16/ALIGN/emoji/seed3" in defaults


def test_script_runs_to_the_table(checkout):
    script = checkout.root / "scripts" / "base2new.sh"
    done = checkout.run("bash", script, TRAINERS="CoOp", SEEDS="1")
    assert done.returncode == 0 and "Base-to-new on emoji" in done.stdout


def test_scripts_take_variables_and_run_from_anywhere(checkout, tmp_path):
    def script(name: str, *words: str, **variables: str) -> list[dict[str, str]]:
        """Return the flags and KEY VALUE pairs of the commands that the script lists."""
        path = checkout.root / "scripts" / f"{name}.sh"
        done = checkout.run("bash", path, *words, "--dry-run", cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        commands = [shlex.split(line)[2:] for line in done.stdout.splitlines() if line[0] != "#"]
        for command in commands:
            if "--eval-only" in command:
                command.remove("--eval-only")
        return [dict(zip(words[::2], words[1::2], strict=True)) for words in commands]

    shared = {"SEEDS": "4", "DATA": "my data", "OUTPUT": "my output", "CONFIG": "emoji"}
    shared |= {"BACKBONE": "ViT-B/16", "JOBS": "1", "TRAINERS": "ALIGN"}
    shots = [call["DATASET.NUM_SHOTS"] for call in script("few_shot", SHOTS="2 8", **shared)]
    assert shots == ["2", "8"]
    options = ("--shots", "4", "--shots", "1", "OPTIM.LR", "1", "OPTIM.LR", "2")
    (call,) = script("few_shot", *options, SHOTS="2 8", **shared)  # over variables; the last wins
    assert (call["DATASET.NUM_SHOTS"], call["OPTIM.LR"]) == ("1", "2")
    both = {"SOURCE": "emoji_food", "TARGETS": "emoji_pixels dtd", "SHOTS": "2"}
    for name in TRANSFER:
        calls = script(name, **shared, **both)
        datasets = [call["--dataset-config-file"].rpartition("/")[2] for call in calls]
        assert datasets == ["emoji_food.yaml", "emoji_pixels.yaml", "dtd.yaml"]
        folder = tmp_path / "my output" / name / "emoji_food/dtd/shots_2/ALIGN/emoji@ViT-B-16/seed4"
        assert calls[2]["--output-dir"] == str(folder)
        assert calls[2]["--root"] == str(tmp_path / "my data")
        assert calls[2]["--backbone"] == "ViT-B/16"
    assert len(script("cross_dataset", SOURCE="emoji", TRAINERS="CoOp", SEEDS="1")) == 3
    words = {"SHOTS": "2", "BETAS": "0.3 0", "FORMS": "convex additive", "MN": "2,2 1,3"}
    calls = script("ablation", "OPTIM.LR", "0.1", **shared, **words)
    place = "my output/base2new/train_base/emoji/shots_2/ALIGN/emoji@ViT-B-16"
    key = "+TRAINER.ALIGN."
    assert [Path(call["--output-dir"]).relative_to(tmp_path).parent.as_posix()
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
    asked = {"SEEDS": "1", "BETAS": "0 1", "MN": "1,1 2,4"}
    failing = json.dumps({"ALIGN/1/new": "error"})
    done = checkout.run("bash", script, **asked, FAKE=failing)
    assert done.returncode == 1 and done.stdout.count("not finite") == 2 + 1 + 1 + 4
    done = checkout.run("bash", script, **asked)
    assert done.returncode == 0, done.stderr
    last = done.stdout.rpartition("Base-to-new on emoji: ")[2]
    for name in ("BETA 0, BETA_FORM convex", "BETA 1, BETA_FORM convex", "M 1, N 1", "M 2, N 4"):
        assert f"ALIGN, {name}" in last
    refused = checkout.run("bash", script, MN="4")
    assert refused.returncode == 2 and "'4', which is not a pair M,N" in refused.stderr


def test_every_protocol_has_a_script():
    scripts = {path.stem for path in (REPOSITORY / "scripts").glob("*.sh")}
    assert {*PROTOCOLS, "run"} <= scripts
