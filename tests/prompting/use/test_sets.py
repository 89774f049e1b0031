"""Answers with a chosen error, of a trained run: predict, load_run, export, info."""

import csv
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import tiny
import torch
from paths import ROOT
from PIL import Image

from benchmark.__main__ import main
from trainers.prompting import UserError, load_run
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.trainer import evaluation
from trainers.prompting.use.commands.export import ERRORS, metadata

FILE = "prompt_learner/model.pth.tar-1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return images, a run with validation images, and what it was calibrated on."""
    root, streams, seen = tmp_path_factory.mktemp("sets"), (sys.stdout, sys.stderr), []
    fit = evaluation.Calibration.fit
    images = tiny.write_halves(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.Calibration, "fit", lambda *x: seen.append(x) or fit(*x))
        assert tiny.run(images, "CoOp", root / "run", 1, extra=[*tiny.OF_HALVES, "all"]) == 0
    sys.stdout, sys.stderr = streams
    return images, root / "run", seen[-1]


def test_checkpoint_and_record_keep_temperature_and_scores(trained):
    _, folder, (logits, labels, temperature) = trained
    expected = 1 - (logits / temperature).softmax(1)[torch.arange(10), labels]
    saved = Saved.read(str(folder / FILE))
    assert {k for k, x in saved.calibration.items() if x is not None} == {
        "temperature",
        "scores",
        "seconds",
    }
    torch.testing.assert_close(saved.calibration["scores"], expected.sort().values)
    record = json.loads((folder / "results.json").read_text())
    assert record["temperature"] == saved.calibration["temperature"] == temperature
    assert record["lac_scores"] == pytest.approx(sorted(expected.tolist()), abs=1e-6)
    assert saved.optimizer is not None and saved.rng is not None  # it still resumes


def test_every_door_gives_the_same_answers(trained, capsys):
    images, folder, _ = trained
    run, paths = load_run(folder), sorted(images.glob("*/*.png"))[::6]
    x = torch.stack([run.preprocess(Image.open(path)) for path in paths])
    limit = run.calibration.threshold(0.2)
    p = (run.model(x) / run.calibration.temperature).softmax(1)
    sets = [{run.classnames[k] for k in range(5) if 1 - row[k] <= limit} for row in p]
    answers = run.classify(x, error=0.2)
    assert [{*answer.classes} for answer in answers] == sets and len({*map(len, sets)}) > 1
    asked = ["predict", "--model-dir", str(folder), "--error", "0.2", *map(str, paths)]
    assert run.temperature == run.calibration.temperature
    assert json.loads(metadata(run)["temperature"]) == run.temperature
    assert main([*asked[:3], *map(str, paths), "--format", "json"]) == 0
    for row, listed in zip(p, json.loads(capsys.readouterr().out), strict=True):
        best = row.sort(descending=True).values.tolist()
        assert [c["probability"] for c in listed["classes"]] == pytest.approx(best)
    other = load_run(folder, [*reversed(run.classnames)])
    assert other.temperature == run.temperature  # a fact about the method, not about its classes
    found = {}
    for form in ("text", "csv", "json"):
        assert main([*asked, "--format", form]) == 0
        found[form], err = capsys.readouterr()
    assert "About 20% of images like the 10 that calibrated this run lack their class" in err
    table, listed = csv.DictReader(io.StringIO(found["csv"])), json.loads(found["json"])
    lines = found["text"].splitlines()
    for path, answer, row, item, line in zip(paths, answers, table, listed, lines, strict=True):
        assert row["image"] == item["image"] == str(path) and row["likeness"] == ""
        assert row["answer"] == item["answer"] == answer.answer and item["likeness"] is None
        assert row["classes"].split("; ") == [c["class"] for c in item["classes"]] == answer.classes
        values = [float(text) for text in row["p"].split("; ")]
        assert values == pytest.approx(answer.p, rel=1e-4)
        assert [c["probability"] for c in item["classes"]] == pytest.approx(answer.p, rel=1e-4)
        pairs = zip(answer.classes, answer.p, strict=True)
        text = ", ".join(f"{name} {100 * p:.1f}%" for name, p in pairs)
        several = "several: " if len(answer.p) > 1 else ""
        assert line == f"{path}: {several}{text}"


def test_the_line_of_the_page_gives_the_classes_from_an_exported_file(trained):
    images, folder, _ = trained
    page = (ROOT / "docs" / "use.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (code,) = [block for block in blocks if "lac_thresholds" in block]
    run = load_run(folder)
    x = torch.stack([run.preprocess(Image.open(path)) for path in sorted(images.glob("*/0.png"))])
    found = metadata(run)
    assert [*map(float, json.loads(found["lac_thresholds"]))] == [*ERRORS]
    for error in ERRORS:
        for row, answer in zip(run.model(x).numpy(), run.classify(x, error), strict=True):
            place = {"np": np, "json": json, "names": run.classnames}
            place |= {"logits": row[None], "facts": found}
            exec(code.replace('"0.05"', f'"{error}"'), place)
            assert place["answer"] == answer.classes


SHAPES = ("flat", "beyond")
BAD = {
    "lax": "no error can be chosen with '{}', which is not calibrated: lax (docs/use.md says",
    None: "its checkpoint does not say one",
    7: "'{}' has no valid 'calibration' (ValueError other fields): take another one, or train",
    "flat": "'{}' has no valid 'calibration'",
    "beyond": "'{}' has no valid 'calibration'",
}


@pytest.mark.parametrize("case", BAD)
def test_runs_that_are_not_calibrated_are_refused(trained, tmp_path, capsys, case):
    images, folder, _ = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    state = torch.load(tmp_path / FILE, weights_only=True)
    n = len(state["calibration"]["scores"])
    more = {"likeness": torch.ones(n), "centre": torch.ones(3), "classes": torch.ones(5, 3)}
    more |= {"ranks": torch.arange(n) + (2 if case == "beyond" else 1), "effective": 9.5}
    more |= {"strangers": torch.ones((3, 1) if case == "flat" else 3)}
    state["calibration"] = state["calibration"] | more if case in SHAPES else case
    torch.save(state, tmp_path / FILE)
    image = str(next(images.glob("sea/*.png")))
    asked = ["predict", "--model-dir", str(tmp_path), image]
    assert main([*asked, "--error", "0.2"]) == 2
    out, err = capsys.readouterr()
    assert BAD[case].format(tmp_path / FILE) in err and not out
    if "valid" in BAD[case]:
        return
    run = load_run(tmp_path)
    assert "lac_thresholds" not in metadata(run)
    with pytest.raises(UserError, match="not calibrated"):
        run.classify(run.preprocess(Image.open(image))[None])
    assert main(asked) == 0  # without an error it classifies


def test_other_class_names_and_wrong_options_are_refused(trained, capsys):
    images, folder, _ = trained
    assert load_run(folder, ["sea", "road"]).calibration == "it is for the classes of the training"
    asked = ["predict", "--model-dir", str(folder), str(images)]
    for more, sentence in {
        ("--error", "0"): "The error is 0.0, but must be between 0 and 1: take 0.05",
    }.items():
        assert main([*asked, *more]) == 2
        out, err = capsys.readouterr()
        assert sentence in err and err.count("\n") == 1 and not out


def test_info_says_what_is_promised(trained, capsys):
    assert main(["info", str(trained[1])]) == 0
    said = capsys.readouterr().out
    assert "Answers:    10 images calibrated this run. With fewer than 19 of them," in said
