"""Tests of tools/card.py, which decides between two calls in scripts/card_benchmark.sh."""

import itertools
import json
import tarfile

import numpy as np
import pytest
import yaml
from paths import ROOT

from benchmark.__main__ import main as benchmark
from recipe.predictions import read_predictions
from tools import card

EARLIER = ROOT / "tests" / "earlier" / "version_0_2"


def write_record(path, *rows):
    """Write a tuning record from rows of (average, values of keys as text), the best first."""
    settings = [{"setting": pairs, "average": average} for average, pairs in rows]
    path.write_text(json.dumps({"settings": settings}))
    return path


def rates(*values):
    return [(50.0 - i, {"OPTIM.LR": str(rate)}) for i, rate in enumerate(values)]


@pytest.mark.parametrize(
    "tried, missing",
    [
        ([0.003, 0.001, 0.01], None),  # the best first
        ([0.01, 0.001, 0.003], 0.03),
        ([0.03, 0.001, 0.003, 0.01], 0.1),
        ([0.0003, 0.001, 0.003], 0.0001),
        ([0.0001, 0.001, 0.0003], 0.00003),
        ([1e-05, 3e-05, 0.0001], 0.000003),
        ([1.0, 0.3], 3.0),
        ([3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003], None),  # three more than six
    ],
)
def test_rates_are_added_until_the_best_is_not_at_an_edge(tmp_path, capsys, tried, missing):
    record, space = write_record(tmp_path / "r.json", *rates(*tried)), tmp_path / "s.yaml"
    card.main(["wider", str(record), str(space)])
    if missing is None:
        assert capsys.readouterr().out == "done\n" and not space.exists()
    else:
        found = [grid["OPTIM.LR"][0] for grid in yaml.safe_load(space.read_text())]
        assert found == [*tried, pytest.approx(missing)]


def test_an_edge_is_found_among_settings_like_the_best(tmp_path):
    record = write_record(
        tmp_path / "r.json",
        (9, {"OPTIM.LR": "0.003", "W": "8.0", "INIT": "['a', 'b']"}),
        (8, {"OPTIM.LR": "0.01", "W": "1.0", "INIT": "['a', 'b']"}),
        (7, {"OPTIM.LR": "0.001", "W": "8.0", "INIT": "['a', 'b']"}),
    )
    card.main(["wider", str(record), str(tmp_path / "s.yaml")])
    found = yaml.safe_load((tmp_path / "s.yaml").read_text())
    assert found[-1] == {"OPTIM.LR": [0.01], "W": [8.0], "INIT": [["a", "b"]]}
    card.main(["finalists", str(record), str(tmp_path / "s.yaml")])
    best = yaml.safe_load((tmp_path / "s.yaml").read_text())
    assert [grid["OPTIM.LR"] for grid in best] == [[0.003], [0.01]]


def test_a_rate_that_failed_ends_the_search(tmp_path, capsys):
    tried = [(9, {"OPTIM.LR": "0.3"}), (8, {"OPTIM.LR": "0.1"}), (None, {"OPTIM.LR": "1.0"})]
    record, space = write_record(tmp_path / "r.json", *tried), tmp_path / "s.yaml"
    card.main(["wider", str(record), str(space)])
    assert capsys.readouterr().out == "done\n"
    write_record(record, tried[0], tried[2])
    card.main(["finalists", str(record), str(space)])
    assert yaml.safe_load(space.read_text()) == [{"OPTIM.LR": [0.3]}]


def test_variants_of_align_keep_its_settings(tmp_path):
    config = tmp_path / "emoji_tuned.yaml"
    node = {"M": 4, "N": 4, "CTX_INIT": ["a"] * 4, "BETA": 1.0, "DEPTH": 3}
    config.write_text(yaml.safe_dump({"OPTIM": {"LR": 0.03}, "TRAINER": {"ALIGN": node}}))
    card.main(["variants", str(config), str(tmp_path / "variants")])
    for name, keys in card.VARIANTS.items():
        found = yaml.safe_load((tmp_path / "variants" / f"{name}.yaml").read_text())
        assert found == {"OPTIM": {"LR": 0.03}, "TRAINER": {"ALIGN": node | keys}}


def test_families_of_plans_from_the_space_to_their_configs(tmp_path, capsys):
    config, space = tmp_path / "emoji_tuned.yaml", tmp_path / "space.yaml"
    node = {"M": 4, "PLAN": "scaled", "LAMBDA": 0.3}
    config.write_text(
        yaml.safe_dump({"OPTIM": {"LR": 0.03, "NAME": "adam"}, "TRAINER": {"ALIGN": node}})
    )
    card.main(["plans", str(config), str(space)])
    settings = [
        dict(zip(grid, values, strict=True))
        for grid in yaml.safe_load(space.read_text())
        for values in itertools.product(*grid.values())
    ]
    assert len(settings) == 16 and {s["OPTIM.LR"] for s in settings} == {0.03, 0.01}
    rows = [(50 - i, {k: str(v) for k, v in s.items()}) for i, s in enumerate(settings)]
    rows[0] = (None, rows[0][1])  # it failed
    rows[7] = (1, rows[7][1])  # the better of the uniform plan has the lower rate
    assert rows[7][1] == {"OPTIM.LR": "0.01", "TRAINER.ALIGN.PLAN": "uniform"}
    rows[6], rows[7] = (1, rows[6][1]), (2, rows[7][1])
    values = rows.pop(8)
    assert values[1]["TRAINER.ALIGN.PATCHES"] == "values"
    rows = [(60, values[1]), *sorted(rows[1:], key=lambda row: -row[0]), rows[0]]
    record = write_record(tmp_path / "emoji_tuned.json", *rows)
    card.main(["families", str(record), str(tmp_path / "families")])
    assert capsys.readouterr().out == "plan_values plan_values_uniform\n"
    found = {path.stem: yaml.safe_load(path.read_text()) for path in tmp_path.glob("families/*")}
    assert found.keys() == card.FAMILIES.keys()
    assert found["plan_uniform"] == {
        "OPTIM": {"LR": 0.01, "NAME": "adam"},
        "TRAINER": {"ALIGN": {"M": 4, "PLAN": "uniform"}},
    }
    best = found["plan_sinkhorn"]
    assert best["TRAINER"]["ALIGN"] == {"M": 4, "PLAN": "sinkhorn", "LAMBDA": 0.01}
    assert best["OPTIM"]["LR"] == 0.03


def test_an_archive_of_runs_gives_the_same_intervals(tmp_path, capsys):
    file = tmp_path / "runs.tar.xz"
    card.main(["archive", str(EARLIER), str(file)])
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path, filter="data")
    kept = tmp_path / EARLIER.name
    tables = []
    for runs in (EARLIER, kept):
        assert benchmark(["report", str(runs), "--compare", "ALIGN", "--format", "json"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and "difference" in tables[0]
    (folder,) = {
        path.parent
        for path in kept.rglob("CoOp/emoji/seed1/predictions.npz")
        if "test_new" in path.parts
    }
    arrays, whole = (read_predictions(x) for x in (folder, EARLIER / folder.relative_to(kept)))
    assert arrays["probability"].shape == (len(whole["image"]), 1)
    np.testing.assert_allclose(
        arrays["label_log_probability"], whole["label_log_probability"], rtol=1 / 16
    )
    assert str(tmp_path) not in (folder / "results.json").read_text()
