"""The command `report`, and its refusals."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest
from outcomes import COLUMNS, few_shot, leave, outcome
from paths import ROOT

from benchmark.__main__ import main
from benchmark.protocols import PROTOCOLS
from benchmark.report.command import keep_table


def test_a_closed_pipe_gives_no_traceback(tmp_path):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    command = [sys.executable, "-m", "benchmark", "report", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (1, "")


def test_report_finds_all_protocols(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    leave(tmp_path, few_shot("CoOp", 1, (48,)))
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 0
    told = capsys.readouterr().out
    assert "Few-shot on DTD" in told and "Base-to-new on emoji" in told
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    names = "base2new", "few_shot"
    assert drawn == [f"{name}.{form}" for name in names for form in ("pdf", "png", "svg")]
    only = ["report", str(tmp_path), "--protocol", "base2new"]
    assert main(only) == 0
    assert "Few-shot" not in capsys.readouterr().out


def test_the_folder_of_a_protocol_is_that_protocol(tmp_path, capsys, monkeypatch):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    leave(tmp_path, few_shot("CoOp", 1, (48,)))
    monkeypatch.chdir(tmp_path / "base2new")
    for folder in (str(tmp_path / "base2new"), "."):
        assert main(["report", folder]) == 0
        told = capsys.readouterr().out
        assert "Base-to-new on emoji" in told and "Few-shot" not in told
    assert main(["report", str(tmp_path / "few_shot"), "--classes"]) == 0
    assert "Few-shot recognition, DTD" in capsys.readouterr().out


def test_seeds_choose_the_runs(tmp_path, capsys):
    for seed, accuracy in ((1, 40.0), (2, 50.0), (3, 70.0)):
        leave(tmp_path, [outcome("CoOp", seed, part, accuracy) for part in ("base", "new")])
    assert main(["report", str(tmp_path), "--seeds", "1 2"]) == 0
    assert "45.00" in capsys.readouterr().out


def test_runs_are_found_in_subfolders(tmp_path, capsys):
    for name, accuracy in (("small", 40.0), ("large", 50.0)):
        place = tmp_path / "sizes" / name
        leave(place, [outcome("CoOp", 1, part, accuracy) for part in ("base", "new")])
        leave(place / "again", few_shot("CoOp", 1, (48,)))  # inside another output: not searched
    assert main(["report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "CoOp (large)" in told and "CoOp (small)" in told and "Few-shot" not in told
    assert main(["status", str(tmp_path)]) == 0
    assert "4 runs: 4 done." in capsys.readouterr().out
    assert main(["report", str(tmp_path / "sizes" / "small")]) == 0
    told = capsys.readouterr().out
    assert "CoOp " in told and "(small)" not in told


def test_with_several_outputs_each_method_names_its_origin(tmp_path, capsys):
    places = [tmp_path / name for name in ("mine", "yours", "more/mine")]
    for place in places:
        leave(place, [outcome(name, 1, "base", 50.0) for name in ("ALIGN", "CoOp")], COLUMNS)
    both = ["report", str(places[0]), str(places[1])]
    assert main([*both, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    methods = ["CoOp (mine)", "CoOp (yours)", "ALIGN (mine)", "ALIGN (yours)"]
    assert [row["method"] for row in rows] == methods
    assert [row["origin"] for row in rows] == ["mine", "yours"] * 2
    assert main([*both, "--compare", "ALIGN (mine)", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    differences = {one["other"]: one["difference"] for one in found if one["column"] == "base"}
    assert differences == {name: 0 for name in methods if name != "ALIGN (mine)"}
    assert main(["report", str(places[0]), str(places[2])]) == 0
    assert f"ALIGN ({places[2]})" in capsys.readouterr().out


def test_a_zip_is_reported_after_it_is_unpacked(tmp_path, capsys):
    leave(tmp_path / "runs", [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    assert main(["report", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    file = shutil.make_archive(str(tmp_path / "runs"), "zip", tmp_path / "runs")
    shutil.unpack_archive(file, tmp_path / "unpacked")
    assert main(["report", str(tmp_path / "unpacked")]) == 0
    assert capsys.readouterr().out == said


def test_a_single_run_is_shown_with_its_classes(tmp_path, capsys):
    tmp_path = tmp_path / "mine" / "run"
    tmp_path.mkdir(parents=True)
    (o,) = few_shot("ALIGN", -1, (61.25,))
    classes = {"cat": 90.0, "=dog": 32.5, "cow": None}
    record = o.result | {"trainer": "ALIGN", "shots": -1, "per_class_accuracy": classes}
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert main(["report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert ["Accuracy", "(%)", "61.25"] in lines and ["Method", "ALIGN"] in lines
    assert ["Shots", "all", "training", "images"] in lines
    at = lines.index(["=dog", "32.50"])
    assert lines[at + 1 : at + 3] == [["cat", "90.00"], ["cow", "-"]]
    for form in ("markdown", "latex", "csv", "json"):
        assert main(["report", str(tmp_path), "--format", form]) == 0
        told = capsys.readouterr().out
        assert "dog" in told and ("32.5" in told)
    assert json.loads(told)[0]["per_class_accuracy"] == classes
    assert main(["report", str(tmp_path.parent)]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    # where the path is long, a second table has the last columns
    assert [str(tmp_path), "ALIGN"] in [words[:2] for words in said]
    assert main(["report", str(tmp_path.parent), "--format", "latex"]) == 0
    assert r"\caption{Single runs." in capsys.readouterr().out
    assert "61.25" in [words[-1] for words in said if words]


def test_missing_plots_are_reported(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, "base", 50.0)])
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "none")]) == 0
    assert "no plots: there are no means of finished runs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_published_numbers_are_on_off_or_all(tmp_path, capsys):
    leave(tmp_path, few_shot("CoOp", 1, (48,)))
    for form, which, ours, plotpp in (("text", "off", False, False), ("text", "on", True, False),
                                      ("text", "all", True, True), ("html", "on", True, False),
                                      ("html", "all", True, True)):  # fmt: skip
        assert main(["report", str(tmp_path), "--published", which, "--format", form]) == 0
        told = capsys.readouterr().out
        assert ("48.40" in told, "54.57" in told) == (ours, plotpp), (form, which)


def test_no_table_is_kept_where_no_folder_of_a_run_could_be_made(tmp_path):
    keep_table(PROTOCOLS["few_shot"], tmp_path)
    assert not any(tmp_path.iterdir())


# Words of the command, in the folder of `folders`, and what its refusal names.
REFUSED = [
    ("out --compare Align", "'Align'", "did you mean 'ALIGN'"),
    ("one --compare CoOp", "only CoOp was found"),
    ("out --metrics --classes --format csv", "csv takes one of --metrics and --classes"),
    ("out --protocol few-shot", "invalid choice: 'few-shot'"),
    ("out --protocol cross_dataset", "no runs of cross_dataset in", "benchmark cross_dataset`"),
    ("out --seeds 7", "no runs of any protocol with seed 7 in"),
    ("out/transfer", "transfer' is not a folder: check the path"),
    ("out uot", "uot' is not a folder: check the path"),
    ("out.zip out", "out.zip' is not a folder: check the path"),
    ("single/run --compare single/run", "only ALIGN was found: run another method"),
    ("single/run other", "single run"),
    ("damaged", "damaged/results.json cannot be read"),
    ("out --logs none", "--logs: 'none' cannot be read (No such file"),
    ("out --logs CoOp=none", "--logs: 'none' cannot be read (No such file"),
    ("out --logs logs", "'logs' has no log.txt in a folder whose name says which run it is of"),
]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Work in a folder with outputs of protocols, single runs and logs."""
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "out", few_shot("CoOp", 1, (48,)) + few_shot("ALIGN", 1, (48,)))
    leave(tmp_path / "one", [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    for name in ("single/run", "damaged", "logs/seed1"):
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
