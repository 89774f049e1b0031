"""The command `report`."""

import pytest
from outcomes import few_shot, leave, outcome

from benchmark.__main__ import main


def test_report_finds_all_protocols(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    leave(tmp_path, few_shot("CoOp", 1, (48,)))
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 0
    told = capsys.readouterr().out
    assert "Few-shot on dtd" in told and "Base-to-new on emoji" in told
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["few_shot.png", "few_shot.svg"]
    only = ["report", str(tmp_path), "--protocol", "base2new"]
    assert main([*only, "--plots", str(tmp_path / "none")]) == 0
    told = capsys.readouterr()
    assert "Few-shot" not in told.out and not (tmp_path / "none").exists()
    assert told.err == "no plots: they show few-shot runs and the ablation of beta\n"


def test_no_runs_are_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--protocol", "few_shot"]) == 2
    told = capsys.readouterr().err
    assert "no runs of few_shot in" in told and told.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path), "--protocol", "few-shot"])
    told = capsys.readouterr().err
    assert "invalid choice: 'few-shot'" in told and told.count("\n") == 1
