"""An edited `clip` folder next to the plug-in, as in public checkouts, does no harm."""

import importlib.metadata
import shutil

import pytest
from fresh import run_fresh
from paths import GOLDEN, HALF_WRITTEN, ROOT

from trainers.prompting import UserError
from trainers.prompting.backbones import openai_clip

CHECK = """
import sys

import torch

sys.path.insert(0, ".")
before = {before}
if before:
    import clip
from mine.prompting import build_method, load_clip
from mine.prompting.backbones import openai

model = load_clip({weights!r})
assert openai.model.CLIP is type(model) and openai.model.__file__.startswith({installed!r})
assert "pkg_resources" not in sys.modules
assert before or "clip" not in sys.modules

import clip

assert clip is sys.modules["clip"] and clip.EDITED and clip.clip.__file__.startswith({here!r})
arguments = (64, 32, 4, 128, 8, 77, 49408, 128, 2, 4)
stock = clip.model.CLIP(*arguments, **{extra}).float().eval()
stock.load_state_dict(model.state_dict())
assert type(stock) is not type(model)
images = torch.randn(2, 3, 32, 32)
deep = {{"PROMPT_DEPTH": 2}}
for method, node in ("CoOp", {{}}), ("MaPLe", deep), ("UPT", deep):
    logits = []
    for backbone in model, stock:
        torch.manual_seed(0)
        logits.append(build_method(method, node, backbone, ["forest", "sea"]).eval()(images))
    assert torch.equal(*logits)
assert load_clip("emoji").visual.input_resolution == 64
"""


def replace(path, *pairs):
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def vendored(folder, with_details: bool):
    """Copy OpenAI's package, edited as in CoOp's checkout, or further as in MaPLe's."""
    shutil.copytree(
        openai_clip.installed_folder(), folder, ignore=shutil.ignore_patterns(HALF_WRITTEN)
    )
    replace(folder / "__init__.py", ("from .clip import *", "from .clip import *\nEDITED = True"))
    replace(
        folder / "clip.py",
        ("from pkg_resources import packaging\n", "import packaging.version\n"),
        (", download_root: str = None", ""),
        ("download_root or ", ""),
    )
    if with_details:
        replace(
            folder / "model.py",
            ("def build_model(state_dict: dict):", "def build_model(state_dict, design_details):"),
            (
                "transformer_layers: int\n                 ):",
                "transformer_layers: int,\n                 design_details\n                 ):",
            ),
        )


@pytest.mark.parametrize(
    "before, with_details",
    [
        pytest.param(True, False, id="CoOp's, imported before", marks=pytest.mark.slow),
        pytest.param(False, True, id="MaPLe's, imported after"),
    ],
)
def test_an_edited_clip_is_neither_used_nor_disturbed(tmp_path, before, with_details):
    vendored(tmp_path / "clip", with_details)
    package = ROOT / "trainers" / "prompting"
    shutil.copytree(
        package, tmp_path / "mine" / "prompting", ignore=shutil.ignore_patterns(HALF_WRITTEN)
    )
    code = CHECK.format(
        before=before,
        weights=str(GOLDEN / "tiny_clip_seed0.safetensors"),
        here=str(tmp_path),
        installed=str(openai_clip.installed_folder()),
        extra={"design_details": {"trainer": "MaPLe"}} if with_details else {},
    )
    result = run_fresh(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_missing_package_says_what_to_install(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(openai_clip, "distribution", none)
    with pytest.raises(UserError, match="pip install clip-anytorch"):
        openai_clip.installed_folder()


def test_another_package_called_clip_is_ignored(monkeypatch, tmp_path):
    """PyPI's `clip` is a clipboard manager."""
    (tmp_path / "clip").mkdir()
    expected, found = openai_clip.installed_folder(), openai_clip.distribution
    names = ("other", *openai_clip.DISTRIBUTIONS)
    monkeypatch.setattr(openai_clip, "DISTRIBUTIONS", names)

    class Other:
        def locate_file(self, name):
            return tmp_path / name

    monkeypatch.setattr(
        openai_clip, "distribution", lambda name: Other() if name == "other" else found(name)
    )
    assert openai_clip.installed_folder() == expected
