"""docs/use.md: its programs that use an exported file, in a process without this project."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from benchmark.__main__ import main
from trainers.prompting import load_run

PAGE = (ROOT / "docs" / "use.md").read_text("utf-8")
OURS = ["trainers", "promptedclip", "benchmark", "recipe", "dassl", "clip"]
WITHOUT = """
import sys


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Without())
"""


def program(having: str) -> str:
    """The Python block of the page that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if having in block]
    return found


@pytest.mark.slow  # traces a model, and imports PyTorch or onnxruntime in another process
@pytest.mark.parametrize(
    ("file", "missing"), [("mine.pt2", OURS), ("mine.onnx", [*OURS, "torch", "torchvision"])]
)
def test_an_exported_file_is_used_without_this_project(runs, tmp_path, file, missing):
    if file == "mine.onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    export = ["export", "--model-dir", str(runs / "CoOp"), "--output", str(tmp_path / file)]
    assert main(export) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (41, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.jpg")
    code = WITHOUT.format(names=missing) + program(file)
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                           text=True, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    assert found.returncode == 0, found.stderr
    run = load_run(runs / "CoOp")
    image = run.preprocess(Image.open(tmp_path / "cat.jpg").convert("RGB"))
    p = run.model(image[None]).softmax(-1)[0].tolist()
    said = dict(line.rsplit(" ", 1) for line in found.stdout.splitlines())
    assert list(said) == run.classnames
    assert list(map(float, said.values())) == pytest.approx(p, abs=1e-4)
