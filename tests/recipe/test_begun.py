"""A plug-in that was edited after a training: refused, done anew or accepted."""

import sys

import pytest
from dassl.engine import TRAINER_REGISTRY
from tiny import killed_after, results, run

from trainers.prompting import plugins
from trainers.prompting.checkpoint.cfg_texts import BEGUN
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


def test_a_finished_training_of_other_code(tmp_path, halved, capsys):
    out = tmp_path / "output"
    assert halved() == 0
    assert "halved.py" in results(out)["code"] and results(out)["edited"] == []
    assert halved() == 0, "the same code"
    before = results(out)
    assert halved("0.75") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"error: '{out}' holds a run of other code (halved.py has been edited since): add --redo "
        "to rename that folder and do the run anew, or --accept-edited (in another train.py "
        "TRAINER.ACCEPT_EDITED True) to keep it, which tables then say"
    )
    assert results(out) == before
    assert halved("0.75", "--redo") == 0
    assert results(tmp_path / "output.old") == before
    again = results(out)
    assert again["code"] != before["code"] and again["edited"] == []
    assert (out / "prompt_learner" / "model.pth.tar-1").is_file()
    assert halved("0.75", "--redo") == 0, "there is nothing to redo now"
    assert not (tmp_path / "output.old2").exists()


def test_a_training_that_was_edited_on_the_way(tmp_path, halved, capsys):
    with killed_after(epoch=1):
        assert halved(epochs=2) == 130
    (tmp_path / "output" / BEGUN).unlink()  # as of another train.py
    assert halved("0.25", epochs=2) == 2
    assert "(halved.py has been edited since)" in capsys.readouterr().err
    assert halved("0.25", "--accept-edited", epochs=2) == 0
    assert "will resume training" in capsys.readouterr().out
    assert results(tmp_path / "output")["edited"] == ["halved.py"]
    assert halved("0.25", epochs=2) == 0, "it was accepted"
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
    assert run(tmp_path, "CoOp", None, 1) == 2
    assert "(trainers/prompting has been edited since)" in capsys.readouterr().err
    assert run(tmp_path, "CoOp", None, 1, extra=["TRAINER.ACCEPT_EDITED", "True"]) == 0
    assert results(out)["edited"] == ["trainers/prompting"]


def test_a_training_of_unknown_code_is_redone(tmp_path):
    assert run(tmp_path, "CoOp", None, 1) == 0
    (tmp_path / "output" / BEGUN).unlink()
    assert run(tmp_path, "CoOp", None, 1, "--redo") == 0
    assert (tmp_path / "output.old" / "results.json").is_file()
    assert (tmp_path / "output" / BEGUN).is_file()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--redo", "--resume", "x"], "--redo begins anew and --resume continues: leave one of"),
        (["--redo", "--eval-only"], "--redo and --accept-edited are for trainings: leave them"),
        (["--accept-edited", "--no-train"], "--redo and --accept-edited are for trainings"),
    ],
)
def test_options_that_contradict(tmp_path, capsys, flags, sentence):
    assert run(tmp_path, "CoOp", None, 1, *flags) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"code": {"a.py": 1}}', '{"code": []}', '{"edited": 1}']
)
def test_a_broken_file(tmp_path, capsys, content):
    model = tmp_path / "output" / "prompt_learner"
    model.mkdir(parents=True)
    (model / "checkpoint").write_text("model.pth.tar-1\n")
    (tmp_path / "output" / BEGUN).write_text(content)
    assert run(tmp_path, "CoOp", None, 1, "--redo") == 2
    assert f"{BEGUN}'" in (said := capsys.readouterr().err) and "delete that folder" in said
