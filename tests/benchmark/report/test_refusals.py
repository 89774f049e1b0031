"""Refusals of `report`, and what their sentences name."""

import json
import shlex

import pytest
from outcomes import few_shot, leave, outcome

from benchmark.__main__ import main

# Words of the command, in the folder of `folders`, and what its refusal names.
REFUSED = [
    ("out --compare Align", "'Align'", "did you mean 'ALIGN'"),
    ("one --compare CoOp", "only CoOp was found"),
    ("out --compare ALIGN --metric openworld_auc", "--metric openworld_auc", "base and new"),
    ("out --compare ALIGN --metric joint", "invalid choice: 'joint'"),
    ("out --metric joint_accuracy", "--metric joint_accuracy needs --compare METHOD"),
    ("out --deviations", "--deviations needs --format latex"),
    ("out --bins 20", "--bins 20 is for the tables of --metrics"),
    ("out --metrics --bins 20 --plots x", "--bins 20 is for the tables of --metrics"),
    ("out --metrics --bins 20 --format html", "--bins 20 is for the tables of --metrics"),
    ("out --gains --metrics --format csv", "csv takes one of --gains and --metrics"),
    ("out --protocol few-shot", "invalid choice: 'few-shot'"),
    ("out --protocol cross_dataset", "no runs of cross_dataset in", "benchmark cross_dataset`"),
    ("out --seeds 7", "no runs of any protocol with seed 7 in"),
    ("out/transfer", "transfer' does not exist: check the path"),
    ("out uot", "uot' does not exist: check the path"),
    ("out.zip", "out.zip' is a file: unpack it, and name the folder"),
    ("out.zip out", "out.zip' is a file: unpack it, and name the folder"),
    ("single/run --compare CoOp", "is one run: name the folders of two or more"),
    ("single/run other", "single run"),
    ("single --metrics", "--metrics needs runs of protocols, and '"),
    ("single --classes", "--classes needs runs of protocols, and '"),
    ("single --compare CoOp", "--compare needs runs of protocols, and '"),
    ("damaged", "damaged/results.json cannot be read"),
    ("out --logs none", "none", "is not a folder"),
    ("out --logs CoOp=none", "none", "is not a folder"),
    ("out --logs empty", "contain no log.txt"),
    ("out --logs logs", "says which run it is of: name folders as"),
]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Work in a folder with outputs of protocols, single runs and logs."""
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "out", few_shot("CoOp", 1, (48,)) + few_shot("ALIGN", 1, (48,)))
    leave(tmp_path / "one", [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    for name in ("single/run", "damaged", "empty", "logs/seed1"):
        (tmp_path / name).mkdir(parents=True)
    (found,) = few_shot("ALIGN", -1, (61.25,))
    record = json.dumps(found.result | {"trainer": "ALIGN", "shots": -1})
    (tmp_path / "single" / "run" / "results.json").write_text(record)
    (tmp_path / "damaged" / "results.json").write_text("{")
    (tmp_path / "logs" / "seed1" / "log.txt").write_text("=> result\n* accuracy: 81.2%\n")
    (tmp_path / "out.zip").touch()


@pytest.mark.parametrize("words, named", [(row[0], row[1:]) for row in REFUSED])
def test_refused(folders, capsys, words, named):
    try:
        code = main(["report", *shlex.split(words)])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2 and not said.out
    assert all(name in said.err for name in named) and said.err.count("\n") == 1, said.err
