"""docs/extending.md: its code, as it stands on the page."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")


def block(language: str, having: str) -> str:
    """The only code block of a language that has this text in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [b for b in blocks if having in b]
    return found


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository with the page's two files, where the page says that they are."""
    for name in ("assets", "benchmark", "configs", "datasets", "scripts", "trainers", "train.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    for recipe in ROOT.glob("recipe"):
        shutil.copytree(recipe, tmp_path / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "anchored.py").write_text(block("python", "class AnchoredCoOp"))
    config = tmp_path / "configs" / "trainers" / "AnchoredCoOp" / "emoji.yaml"
    config.parent.mkdir()
    config.write_text(block("yaml", "OPTIM"))
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
    command = block("bash", "PLUGINS").strip() + " OPTIM.MAX_EPOCH 2 OPTIM.WARMUP_EPOCH 1"
    printed = call(checkout, command)
    assert re.search(r"^\W*CoOp ", printed, re.MULTILINE)
    row = re.search(r"^.*AnchoredCoOp.*$", printed, re.MULTILINE).group()
    assert "512" in row, "4 context vectors of width 128"
    (run,) = (checkout / "output").glob("base2new/train_base/emoji/*/AnchoredCoOp/emoji/seed1")
    record = json.loads((run / "results.json").read_text())
    assert record["trainer"] == "AnchoredCoOp"
    assert (run / "prompt_learner" / "model.pth.tar-2").is_file()
    assert "apart" in (run / "log.txt").read_text()


def test_plain_pytorch():
    names = {}
    exec(block("python", "build_method"), names)
    assert names["logits"].shape == (4, 2)
    assert all(p.grad is not None for p in names["method"].model.trained().parameters())
