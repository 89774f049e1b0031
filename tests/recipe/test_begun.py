"""A plug-in that was edited after a training, or while it was interrupted: runs say so."""

import sys

import pytest
from dassl.engine import TRAINER_REGISTRY
from tiny import killed_after, results, run

from trainers.prompting import plugins
from trainers.prompting.conformance import stamp

METHOD = """
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

@register
class Halved(CoOp):
    def logits(self, image, text):
        return 0.5 * super().logits(image, text)
"""


EVAL = ("--eval-only", "--model-dir")


@pytest.fixture
def halved(tmp_path, monkeypatch):
    """A function that runs the plug-in with a factor, as if in a new process; its exit code."""
    monkeypatch.setattr(stamp, "SECONDS", -1)  # no check begins: they are tested elsewhere
    path = tmp_path / "halved.py"
    trainers = dict(TRAINER_REGISTRY._objects)

    def call(factor="0.5", *flags, epochs=1):
        path.write_text(METHOD.replace("0.5", factor))
        monkeypatch.setattr(plugins, "_loaded", set())
        monkeypatch.setattr(plugins, "_plugins", [])
        monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(trainers))
        sys.modules.pop("halved", None)
        return run(tmp_path, "Halved", None, epochs, "--plugin", str(path), *flags)

    yield call
    sys.modules.pop("halved", None)


SAID = "The code has changed since this training began: "


def test_a_finished_training_of_other_code(tmp_path, halved, capsys):
    out = tmp_path / "output"
    assert halved() == 0
    assert "halved.py" in results(out)["code"] and results(out)["edited"] == []
    assert halved() == 0, "the same code"
    assert SAID not in capsys.readouterr().out
    before = results(out)
    assert halved("0.75") == 0, "it is only evaluated again"
    assert capsys.readouterr().out.count(f"{SAID}halved.py\n") == 1
    again = results(out)
    assert again["code"] != before["code"] and again["edited"] == ["halved.py"]


def test_a_training_that_was_edited_on_the_way(tmp_path, halved, capsys):
    with killed_after(epoch=1):
        assert halved(epochs=2) == 130
    assert halved("0.25", epochs=2) == 0
    said = capsys.readouterr().out
    assert "will resume training" in said and f"{SAID}halved.py\n" in said
    assert results(tmp_path / "output")["edited"] == ["halved.py"]
    assert halved("0.25", epochs=2) == 0
    assert SAID not in capsys.readouterr().out
    assert results(tmp_path / "output")["edited"] == ["halved.py"]
    evaluated = run(tmp_path, "Halved", tmp_path / "again", 2, *EVAL, str(tmp_path / "output"))
    assert evaluated == 0 and results(tmp_path / "again")["edited"] == ["halved.py"]


def test_an_edit_of_the_package_counts_for_every_method(tmp_path, capsys, monkeypatch):
    out = tmp_path / "output"
    with monkeypatch.context() as before:
        before.setattr(plugins, "package_hash", lambda: "0" * 16)
        assert run(tmp_path, "CoOp", None, 1) == 0
    evaluate = (*EVAL, str(out))
    assert run(tmp_path, "CoOp", tmp_path / "again", 1, *evaluate) == 0
    assert results(tmp_path / "again")["edited"] == ["trainers/prompting"]
    assert run(tmp_path, "CoOp", None, 1) == 0
    assert f"{SAID}trainers/prompting\n" in capsys.readouterr().out
    assert results(out)["edited"] == ["trainers/prompting"]


def test_a_folder_has_one_method(tmp_path, capsys):
    assert run(tmp_path, "CoOp", None, 1) == 0
    before = (tmp_path / "output" / "run.json").read_bytes()
    assert run(tmp_path, "VPT", None, 1) == 2
    assert "was begun otherwise (the method is 'VPT' here and 'CoOp' there)" in (
        capsys.readouterr().err
    )
    assert run(tmp_path, "CoOp", tmp_path / "other", 2) == 0
    assert run(tmp_path, "CoOp", None, 2, "--resume", str(tmp_path / "other")) == 2
    assert "(OPTIM.MAX_EPOCH is 2 here and 1 there)" in capsys.readouterr().err
    assert (tmp_path / "output" / "run.json").read_bytes() == before
