"""Runs are found by their run.json, wherever their folders are and whatever they are called."""

import json
import shutil

import pytest
from outcomes import few_shot, leave, outcome, transfer

from benchmark.__main__ import main
from benchmark.launch.engine import Engine, Settings
from benchmark.protocols import FEW_SHOT
from benchmark.protocols.configs import TrainerConfigs
from benchmark.protocols.places import runs_in
from trainers.prompting import UserError

PLACE = "few_shot/dtd/shots_4/CoOp/emoji/seed1"


@pytest.fixture
def output(tmp_path):
    """Return an output with two runs of CoOp."""
    leave(tmp_path / "output", few_shot("CoOp", 4, (50.0, 60.0)))
    return tmp_path / "output"


def report(capsys, *words, code=0) -> tuple[str, str]:
    assert main(["report", *map(str, words)]) == code
    return tuple(capsys.readouterr())


def test_moved_and_renamed_folders_are_read(output, capsys):
    shown = report(capsys, output)
    (output / PLACE).rename(output / "few_shot/the first")
    (output / "few_shot").rename(output / "mine")
    assert report(capsys, output) == shown and "55.00" in shown[0]
    output.rename(output.with_name("elsewhere"))
    assert report(capsys, output.with_name("elsewhere")) == shown
    assert report(capsys, output.with_name("elsewhere") / "mine/the first/..") == shown


def test_names_of_folders_do_not_count(output, capsys):
    folder = output / PLACE
    folder.rename(folder.with_name("seed1+TRAINER.COOP.N_CTX=4"))
    (output / "few_shot/dtd/shots_4").rename(output / "few_shot/dtd/shots_16")
    assert "DTD, 4 shots: the accuracy of CoOp is 55.0" in report(capsys, output)[0]


def test_copies_of_a_run_are_named_and_its_planned_place_counts(output, capsys):
    copy = shutil.copytree(output / PLACE, output / "a copy")
    record = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(record | {"accuracy": 99.0}))
    for command in ("report", "status"):
        assert main([command, str(output)]) == 0
        said = capsys.readouterr()
        assert "99.00" not in said.out
        note = f"left out: '{copy}', the same run as '{output / PLACE}' (CoOp on dtd, 4 shots, s"
        assert said.err.startswith(note)


@pytest.mark.parametrize("name", ["seed1.old", "seed1.old2", ".hidden"])
def test_folders_that_were_set_aside_are_skipped(output, capsys, name):
    shutil.copytree(output / PLACE, (output / PLACE).with_name(name))
    assert report(capsys, output)[1] == ""
    assert len(runs_in(output)) == 2


def changed(**values):
    return lambda text: json.dumps({"launch": json.loads(text)["launch"] | values})


BAD = {
    "damaged": (lambda text: text[:40], "cannot be read"),
    "foreign": (lambda text: '{"version": "0.2.0"}', "KeyError 'launch'"),
    "a list": (lambda text: "[]", "run.json"),
    "a protocol": (changed(protocol="one_shot"), "KeyError 'one_shot'"),
    "a part": (changed(part="base"), "KeyError 'base'"),
    "a seed": (changed(seed="one"), "'one'"),
    "keys": (changed(keys=[]), "AttributeError"),
}


@pytest.mark.parametrize("change, sentence", BAD.values(), ids=BAD)
def test_what_is_damaged_or_foreign_is_named(output, capsys, change, sentence):
    path = output / PLACE / "run.json"
    path.write_text(change(path.read_text()))
    for command in ("report", "status"):
        assert main([command, str(output)]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("left out: ") and said.err.count("\n") == 1
        assert str(path) in said.err and sentence in said.err
        assert "60.00" in said.out and "50.00" not in said.out


def test_runs_of_older_launchers_are_named(output, capsys):
    (output / PLACE / "run.json").unlink()
    (output / PLACE / "console.txt").write_text("$ train.py\n")
    out, err = report(capsys, output)
    assert err == f"left out: '{output / PLACE}', made by 0.6: run again\n" and "60.00" in out


def test_the_launcher_looks_at_the_planned_place_and_refuses_what_is_not_its_own(output):
    runs = FEW_SHOT.plan(output, ["dtd"], (1, 2), TrainerConfigs("emoji"), ["CoOp"], [4])
    assert not Engine(runs, Settings()).todo
    (output / PLACE).rename(output / "elsewhere")
    assert [*Engine(runs, Settings()).todo] == runs[:1]
    (output / PLACE).with_name("seed2").rename(output / PLACE)
    with pytest.raises(UserError, match=r"holds another run \(CoOp on dtd, 4 shots, seed 2\)"):
        Engine(runs, Settings())
    (output / PLACE / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds a run without run.json, as of 0.6"):
        Engine(runs, Settings())


def test_a_folder_of_tests_brings_their_training(tmp_path, capsys):
    for one in transfer("CoOp", "emoji", {"emoji": 60.0, "emoji_food": 40.0}):
        leave(tmp_path, [one])
    shown = report(capsys, tmp_path / "cross_dataset")[0]
    assert "60.00" in shown and shown == report(capsys, tmp_path)[0]
    (tmp_path / "transfer/emoji/shots_16/CoOp/emoji/seed1/run.json").write_text("{")
    shown, said = report(capsys, tmp_path / "cross_dataset")
    assert "40.00" in shown and "60.00" not in shown and "transfer/emoji" in said


def test_links_in_a_circle_and_twice_are_followed_once(output, capsys):
    (output / "again").symlink_to(output, target_is_directory=True)
    (output / "a link").symlink_to(output / "few_shot", target_is_directory=True)
    (output / "latest").symlink_to(output / PLACE, target_is_directory=True)
    assert [run.folder for run in runs_in(output)] == [
        output / PLACE, (output / PLACE).with_name("seed2")
    ]  # fmt: skip
    assert report(capsys, output)[1] == ""


def test_runs_of_several_protocols_are_in_order(tmp_path):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("new", "base")])
    leave(tmp_path, few_shot("CoOp", 4, (50.0,)))
    assert [run.part for run in runs_in(tmp_path)] == ["all", "base", "new"]
