"""Records that do not fit their run, are invalid, or cannot be read."""

import io
import json
import math
import os
import re
from contextlib import redirect_stdout

import pytest
from outcomes import leave, outcome, ran

from benchmark.__main__ import main
from benchmark.records import asked_of, misfit


def test_a_record_must_fit_its_run():
    run = outcome("CoOp", 1, "base", 50.0).run
    result = {"trainer": "CoOp", "dataset": "Emoji", "seed": 1, "shots": 16}
    result |= {"subsample_classes": "base", "run": ran(OPTIM={"LR": 0.002, "NAMES": ["a"]})}

    def why(keys=None, **other):
        return misfit(result | other, asked_of(run, keys))

    assert why() is None
    assert why(seed=2) == "SEED is 2 here and 1 there"
    assert why(dataset="DescribableTextures").startswith("DATASET.NAME is 'DescribableTextures' ")
    assert why({"OPTIM.LR": "2e-3", "OPTIM.NAMES": "('a',)", "NO.KEY": 1, "SEED": None}) is None
    assert why({"OPTIM.LR": 0.01}) == "OPTIM.LR is 0.002 here and 0.01 there"
    assert why({"MODEL.BACKBONE.NAME": "RN50"}, run={"clip": {"name": "/x/RN50.pt"}}) == (
        "the CLIP is RN50.pt here and RN50 there"
    )
    for key in ("DATASET.SENTENCES", "TEST.STREAM"):  # whose file is not here to be compared
        assert why({key: "/gone/a.json"}, run=ran(**{key: "a.json 1a2b"})) is None


BROKEN = {
    "list": ([1], "holds no accuracy"),
    "no accuracy": ({"accuracy": None}, "holds no accuracy"),
    "too high": ({"accuracy": 500}, "holds accuracy 500, which is not from 0 to 100"),
    "too low": ({"accuracy": -5}, "holds accuracy -5, which is not from 0 to 100"),
    "a switch": ({"accuracy": True}, "holds accuracy true, which is not from 0 to 100"),
    "words": ({"accuracy": "55"}, 'holds accuracy "55", which is not from 0 to 100'),
    "nan": ({"accuracy": math.nan}, "holds accuracy NaN, which is not from 0 to 100"),
    "f1": ({"macro_f1": [1]}, "holds macro_f1 [1], which is not from 0 to 100"),
    "ECE": ({"calibration_error": 101.0}, "holds calibration_error 101.0, which is not"),
    "parameters": ({"num_params": "many"}, 'holds num_params "many", which is not a number'),
    "seconds": ({"train_seconds": -1}, "holds train_seconds -1, which is not a number, 0 or more"),
    "memory": ({"peak_memory_mib": {}}, "holds peak_memory_mib {}, which is not a number"),
    "joint": ({"joint_accuracy": -1}, "holds joint_accuracy -1, which is not from 0 to 100"),
    "run": ({"run": "x"}, "does not say what its run is"),
    "of 0.6": ({"config": {}}, "is of 0.6, which is not read: run again"),
    "infinity": ({"train_seconds": math.inf}, "train_seconds Infinity, which is not a number"),
    "digits": ({"train_seconds": 10**400}, "which is not a number, 0 or more"),
    "lines": ({"trainer": "CoOp\n\\input{x}"}, "the method is 'CoOp\\n"),
    "escape": ({"trainer": "\x1b[2J"}, "the method is '\\x1b[2J' here and 'CoOp' there"),
}


def test_invalid_records_are_named_and_not_tabulated(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", seed, "base", 40.0) for seed, _ in enumerate(BROKEN)])
    for seed, (change, _) in enumerate(BROKEN.values()):
        path = next(tmp_path.rglob(f"seed{seed}/results.json"))
        whole = json.loads(path.read_text())
        path.write_text(json.dumps(change if isinstance(change, list) else whole | change))
    leave(tmp_path, [outcome("CoOp", len(BROKEN), "base", 60.0)])
    assert main(["report", str(tmp_path)]) in (0, 1)
    report = capsys.readouterr()
    main(["status", str(tmp_path)])
    for said in (report.out + report.err, capsys.readouterr().out):
        lines = said.splitlines()
        for seed, (_, sentence) in enumerate(BROKEN.values()):
            named = [line for line in lines if re.search(rf"seed {seed}\b", line)]
            assert any(sentence in line for line in named), sentence
    assert "60.00" in report.out and "40.00" not in report.out


def folder(path):
    path.unlink()
    path.mkdir()


def deep(path):
    path.write_text("[" * 200_000)


IN_ITS_PLACE = {
    folder: "[Errno 21] Is a directory",
    deep: "maximum recursion depth exceeded",
}


@pytest.mark.parametrize("what", IN_ITS_PLACE, ids=lambda what: what.__name__)
def test_an_unreadable_record_is_named(what, tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, "base", 40.0), outcome("CoOp", 2, "base", 60.0)])
    path = next(tmp_path.rglob("seed1/results.json"))
    what(path)
    assert main(["report", str(tmp_path)]) in (0, 1)
    said = capsys.readouterr()
    assert f"{path} cannot be read (" in said.out and IN_ITS_PLACE[what] in said.out
    assert "60.00" in said.out


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_names_from_records_and_folders_stay_on_one_line(form, tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, "base", 40.0), outcome("A\n\\input{x}", 1, "base", 60.0)])
    path = next(tmp_path.rglob("CoOp/emoji/seed1/results.json"))
    path.write_text(path.read_text().replace('"CoOp"', '"C\\n\\\\input{y}\\u001b[2J"'))
    assert main(["report", str(tmp_path), "--format", form]) == 0
    said = capsys.readouterr().out
    assert "60.00" in said and "\x1b" not in said
    assert not [line for line in said.splitlines() if line.startswith("\\input")]


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_an_ascii_console(form, tmp_path):
    leave(tmp_path, [outcome("CoOp", seed, "base", 40.0 + seed) for seed in (1, 2)])
    console = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(console, encoding="ascii")) as stream:
        assert main(["report", str(tmp_path), "--format", form]) == 0
        stream.flush()
    shown = "41.50 &#177; 0.71" if form == "html" else r"41.50 \xb1 0.71"
    assert shown in console.getvalue().decode("ascii")


def test_a_run_in_a_folder_with_an_odd_name_stays_on_one_line(tmp_path, capsys):
    leave(tmp_path, [outcome("A\x1b[2J\nB", 1, "base", 40.0)])
    assert main(["status", str(tmp_path)]) == 0
    assert "A\\x1b[2J\\nB on emoji, seed 1, base: done (40.00%)\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["report", "status"])
@pytest.mark.parametrize("place", ["base2new/test_new", "base2new/train_base/emoji/shots_16"])
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    command, place, tmp_path, capsys, monkeypatch
):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(tmp_path / place):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main([command, str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"'{tmp_path / place}' cannot be written or read (Permission denied)" in said.err
    assert said.err.count("\n") == 1 and not said.out
