"""Fixtures: what `report` prints of outcomes that are written into an output, and what it draws."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmark.__main__ import main
from benchmark.protocols.configs import dataset_name
from benchmark.protocols.launches import write_launch


@pytest.fixture
def reported(tmp_path, capsys):
    """Return a function that writes records, and returns what `report` prints of them, and says.

    Outcomes are of `outcomes.py` or `answered`. Those of an earlier call are removed.
    """

    def reported(outcomes, *words, status=0):
        folders = {}
        for one in outcomes:
            run = replace(one.run, folder=tmp_path / one.run.folder)
            folders[run] = keys = dict(one.result or {})
            keys |= {"trainer": one.run.trainer, "seed": one.run.seed}
            keys |= {"dataset": dataset_name(one.run.dataset) or one.run.dataset}
            keys |= {"shots": one.run.shots, "subsample_classes": one.run.subsample}
        for record in [*(tmp_path / "nowhere").rglob("results.json")]:
            if record.parent not in [run.folder for run in folders]:
                shutil.rmtree(record.parent)
        for run, keys in folders.items():
            run.folder.mkdir(parents=True, exist_ok=True)
            write_launch(run)
            (run.folder / "results.json").write_text(json.dumps(keys))
        capsys.readouterr()
        code = main(["report", str(tmp_path / "nowhere"), *words])
        said = capsys.readouterr()
        assert code == status, said.err
        return said.err if status else said.out

    return reported


@pytest.fixture
def drawn(reported, tmp_path, capsys, monkeypatch):
    """Return a function as `reported`, which returns the figures of `--plots` by name."""

    def drawn(outcomes, *words):
        figures, files = [], []
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
            patch.setattr("benchmark.report.plots.write_output", lambda path, _: files.append(path))
            reported(outcomes, "--plots", str(tmp_path / "plots"), *words)
        return {Path(file).stem: figure for file, figure in zip(files, figures, strict=True)}

    return drawn
