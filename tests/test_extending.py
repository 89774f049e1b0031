"""docs/extending.md: its code runs unmodified, and its tables are complete."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from paths import ROOT

from trainers.prompting import Contexts, Method, Parts, PromptSpec, build_method, scores
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures
from trainers.prompting.method import METHODS
from trainers.prompting.storage.public import PublicFiles

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")


def block(language: str, having: str) -> str:
    """Return the only code block of a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [b for b in blocks if having in b]
    return found


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository with the files of the page in the places that it names."""
    folders = "assets benchmark configs dassl-lite datasets recipe scripts trainers"
    for name in (*folders.split(), "train.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    (tmp_path / "anchored.py").write_text(block("python", "class AnchoredCoOp"))
    config = tmp_path / "configs" / "trainers" / "AnchoredCoOp" / "emoji.yaml"
    config.parent.mkdir()
    config.write_text(block("yaml", "OPTIM"))
    (tmp_path / "adapted.py").write_text(block("python", "class TwoCosines"))
    (tmp_path / "TwoCosines").mkdir()
    shutil.copy(config, tmp_path / "TwoCosines")
    return tmp_path


def call(checkout, command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {
        "PYTHON": sys.executable,
        "SEEDS": "1",
        "SHOTS": "1",
        "DATA": str(ROOT / "data"),
    }
    result = subprocess.run(
        ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_from_nothing_to_a_row_in_a_table(checkout):
    """The page's second command gives the table of its first, with one more row."""
    first, second = block("bash", "PLUGINS=anchored"), block("bash", 'PLUGINS="anchored')
    assert second == first.replace("anchored.py", '"anchored.py adapted.py"').replace(
        'CoOp"', 'CoOp TwoCosines"'
    )
    printed = call(checkout, second.strip() + " OPTIM.MAX_EPOCH 2 OPTIM.WARMUP_EPOCH 1")
    assert re.search(r"^\W*CoOp ", printed, re.MULTILINE)
    row = re.search(r"^.*AnchoredCoOp.*$", printed, re.MULTILINE).group()
    assert "512" in row, "4 context vectors of width 128"
    (run,) = (checkout / "output").glob("base2new/train_base/emoji/*/AnchoredCoOp/emoji/seed1")
    record = json.loads((run / "results.json").read_text())
    assert record["trainer"] == "AnchoredCoOp"
    assert (run / "prompt_learner" / "model.pth.tar-2").is_file()
    assert "apart" in (run / "log.txt").read_text()
    trained = re.search(r"^.*TwoCosines.*$", printed, re.MULTILINE).group()
    assert "4,369" in trained, "an adapter of rank 16, 128 weights, and a share"


def test_a_fork_that_inherits(tiny_clip, monkeypatch):
    monkeypatch.setattr("trainers.prompting.method.METHODS", dict(METHODS))
    exec(block("python", "class CloseMaPLe"), {})
    names, images, labels = ["cat", "dog"], torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 0])
    ours, theirs = (
        build_method(name, {"PROMPT_DEPTH": 2}, tiny_clip, names)
        for name in ("CloseMaPLe", "MaPLe")
    )
    ours.model.load_state_dict(theirs.model.state_dict())
    found, expected = (kind.losses(images, labels) for kind in (ours, theirs))
    assert torch.equal(found["ce"], expected["loss"]) and 0 < found["apart"] < 2
    ours.backward(found)


def rows(first: str) -> dict[str, list[str]]:
    """Return the other cells of each row of a table, by the names in its first cell.

    `first` is the first cell of the table's header.
    """
    (table,) = re.findall(rf"^\| {first} \|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {name: row[1:] for row in cells for name in re.findall(r"`(\w+)[`(]", row[0])}


def test_every_field_of_a_point_is_on_the_page():
    found = {name: ast.literal_eval(row[0].strip("`")) for name, row in rows("field").items()}
    assert found == {field.name: field.default for field in dataclasses.fields(PromptSpec)}


def test_every_place_for_parts_is_on_the_page():
    found = rows("function")
    assert found.keys() == {name for name in vars(Parts) if not name.startswith("_")} - {"prefix"}
    types = {"contexts": Contexts, "image": ImageFeatures, "text": TextFeatures}
    for name, fields in types.items():
        assert set(re.findall(r"`(\w+)`", found[name][-1])) == set(fields._fields)


def test_all_attributes_and_hooks_of_a_class_are_on_the_page():
    kinds = Method.__annotations__ | PublicFiles.__annotations__
    declared = {name for name, kind in kinds.items() if "ClassVar" in str(kind)}
    hooks = {"point", "setup", "loss", "backward", "after_epoch", "make_room", "load_checkpoint"}
    hooks |= {"support_passes", "take_support", "searches", "take_validation", "takes"}
    hooks |= {"read_public", "write_public", "keep_classes"}
    assert rows("in the class").keys() == declared - {"defaults"} | hooks | {"Settings"}


def test_the_score_of_the_page(monkeypatch):
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    exec(block("python", "register_score"), {})
    spec = PromptSpec(M=2, N=3, beta=0, score="best pair", templates=("X X",) * 3)
    z, h = torch.rand(4, 2, 8), torch.rand(3, 5, 8)
    found = scores.score(spec, ImageFeatures(z, None), TextFeatures(h, h), torch.ones(()), 1)
    expected = [[(z[j] @ h[:, k].T).max() for k in range(5)] for j in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_plain_pytorch():
    names = {}
    exec(block("python", "build_method"), names)
    assert names["logits"].shape == (4, 2)
    assert all(p.grad is not None for p in names["method"].model.trained().parameters())


def test_a_model_without_a_loss_and_the_solver():
    names = {}
    exec(block("python", "prompt_spec"), names)
    assert names["logits"].shape == (4, 2) and names["result"].plan.shape == (8, 16, 5)
