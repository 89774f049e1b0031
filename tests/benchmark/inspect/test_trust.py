"""Settings in a checkpoint are values or refused; the code that it names runs only with trust."""

import sys

import pytest
import torch

from benchmark.__main__ import main
from trainers.prompting import UserError, load_run
from trainers.prompting.method import METHODS
from trainers.prompting.plugins import load_plugins

NO_SETTINGS = {
    "a value for a node": {"MODEL": "3"},
    "nothing for a node": {"MODEL.BACKBONE": "None"},
    "a node for a method": {"TRAINER.COOP": "'x'"},
    "a node for a value": {"TRAINER.NAME.X": "1"},
    "a number for a list": {"INPUT.TRANSFORMS": "7"},
    "a word for a number": {"DATASET.NUM_SHOTS": "many"},
    "too deep to read": {"DATASET.NUM_SHOTS": "-" * 100_000 + "1"},
    "no key of a mapping": {"DATASET.NUM_SHOTS": "{[]: 1}"},
}


@pytest.mark.parametrize("case", NO_SETTINGS)
def test_settings_that_cannot_be(runs, tmp_path, case):
    state = torch.load(runs / "CoOp" / "prompt_learner" / "model.pth.tar-1", weights_only=True)
    (tmp_path / "prompt_learner").mkdir()
    state["settings"] |= NO_SETTINGS[case]
    torch.save(state, tmp_path / "prompt_learner" / "model.pth.tar-1")
    (place,) = NO_SETTINGS[case]
    with pytest.raises(UserError, match=f"for the setting {place}, which is impossible") as error:
        load_run(tmp_path)
    assert len(str(error.value)) < 500


PLUGIN = """
from pathlib import Path
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

Path(__file__).with_name("imported").touch()


@register
class Mine(CoOp):
    node = "MINE"
"""


@pytest.fixture
def run_of_plugin(runs, tmp_path, monkeypatch):
    """The folder of a run whose checkpoint names a plug-in: `mine.py` in that folder."""
    monkeypatch.setattr("trainers.prompting.plugins._loaded", set())
    known = dict(METHODS)
    folder = tmp_path / "run"
    (folder / "prompt_learner").mkdir(parents=True)
    (folder / "mine.py").write_text(PLUGIN)
    state = torch.load(runs / "CoOp" / "prompt_learner" / "model.pth.tar-1", weights_only=True)
    state |= {"trainer": "Mine", "plugins": [str(folder / "mine.py")]}
    settings = state["settings"].items()
    state["settings"] = {k.replace("TRAINER.COOP", "TRAINER.MINE"): v for k, v in settings}
    torch.save(state, folder / "prompt_learner" / "model.pth.tar-1")
    yield folder
    METHODS.clear()
    METHODS.update(known)
    sys.modules.pop("mine", None)


def commands(folder, runs):
    use = {
        "predict": [str(next((runs / "tiny_colours").glob("test_*.png")))],
        "export": ["--output", str(folder / "x.safetensors")],
        "words": [],
        "visualize": [],
    }
    return [[name, "--model-dir", str(folder), *more] for name, more in use.items()]


@pytest.mark.parametrize("i", range(4), ids=["predict", "export", "words", "visualize"])
def test_a_plugin_that_only_a_checkpoint_names_is_not_imported(run_of_plugin, runs, capsys, i):
    plugin = run_of_plugin / "mine.py"
    command = commands(run_of_plugin, runs)[i]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is of Mine, a method of the plug-in '{plugin}', which is code" in line
    assert "--plugin" in line and "--trust-run" in line
    assert not (run_of_plugin / "imported").exists()
    with pytest.raises(UserError, match="which is code"):
        load_run(run_of_plugin)


@pytest.mark.parametrize("how", ["--plugin", "--trust-run", "plugins", "trust", "imported"])
def test_a_plugin_that_the_user_names_or_trusts_is_imported_and_printed(
    run_of_plugin, runs, capsys, how
):
    plugin = str(run_of_plugin / "mine.py")
    if how.startswith("--"):
        command, *_ = commands(run_of_plugin, runs)
        assert main([*command, how, *([plugin] if how == "--plugin" else [])]) == 0
    else:
        if how == "imported":
            load_plugins([plugin])
        load_run(run_of_plugin, **{"plugins": {how: [plugin]}, "trust": {how: True}}.get(how, {}))
    out = capsys.readouterr()
    assert f"Plug-in '{plugin}': Mine" in out.err.splitlines() and "Plug-in" not in out.out
    assert (run_of_plugin / "imported").exists()
