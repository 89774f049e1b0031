"""A plug-in with a trainer of Dassl's registry: run, recorded, resumed and evaluated."""

import json
from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY
from tiny import results, run

from benchmark.__main__ import main
from benchmark.records import value_of
from trainers.prompting.checkpoint.identity import RUN
from trainers.prompting.method import METHODS

TOY = (Path(__file__).parent / "dassl" / "toy_trainer.py").read_text()
PAIRS = ["INPUT.SIZE", "(8, 8)", "MODEL.BACKBONE.NAME", "toy"]


@pytest.fixture
def toy(tmp_path):
    """The file of a trainer like those of public code."""
    path = tmp_path / "their_trainer.py"
    path.write_text(TOY.replace("ToyPrompts", "Theirs"))
    return path


def trained(toy, *extra, flags=(), out=None, epochs=2):
    """Run the trainer, and return the exit code."""
    flags = ("--plugin", str(toy), *flags)
    return run(toy.parent, "Theirs", out, epochs, *flags, extra=[*PAIRS, *extra])


def test_a_trainer_of_other_code_has_a_record_and_a_table(tmp_path, toy, capsys):
    assert trained(toy, "TRAINER.TOYPROMPTS.N_CTX", "3") == 0
    said = capsys.readouterr()
    assert f"Plug-in '{toy}': Theirs\n" in said.err
    assert "Theirs is not a method of this project, so" in said.out
    lacks = "num_params, seeded, train_steps, beyond, teacher, precision"
    assert f"lacks {lacks}, and there are no" in said.out
    record = json.loads((tmp_path / "output" / "results.json").read_text())
    assert {"accuracy", "macro_f1", "num_test", "versions", "git"} < record.keys()
    assert record["trainer"] == "Theirs" and record["train_seconds"] > 0 < record["test_seconds"]
    assert value_of(record, "TRAINER.TOYPROMPTS.N_CTX") == 3
    assert not {*lacks.split(", ")} & record.keys()
    assert main(["report", str(tmp_path / "output")]) == 0
    assert f"{record['accuracy']:.2f}" in capsys.readouterr().out


def test_it_resumes_only_with_the_settings_that_it_began_with(tmp_path, toy, capsys):
    assert trained(toy, "TRAIN.CHECKPOINT_FREQ", "1") == 0
    record = (tmp_path / "output" / "results.json").read_bytes()
    assert trained(toy, "OPTIM.LR", "0.5") == 2
    said = capsys.readouterr().err
    assert "begun otherwise (OPTIM.LR is 0.5 here and 0.01 there): go back to what is there" in said
    assert (tmp_path / "output" / "results.json").read_bytes() == record
    assert trained(toy, "TRAIN.PRINT_FREQ", "1") == 0
    assert "will resume training" in capsys.readouterr().out
    begun = tmp_path / "output" / RUN
    for content in ("{", "[]", '{"run": []}', '{"run": {"method": 1}}', '{"run": {"a": 1}}'):
        text = begun.read_text()
        begun.write_text(content)
        assert trained(toy) == 2
        assert f"'{begun}'" in (said := capsys.readouterr().err) and "delete that folder" in said
        begun.write_text(text)
    begun.unlink()
    assert trained(toy) == 0
    assert "has no settings: check that they agree" in capsys.readouterr().out


def test_an_edit_of_it_is_named(tmp_path, toy, capsys):
    assert trained(toy, "TRAIN.CHECKPOINT_FREQ", "1") == 0
    begun = tmp_path / "output" / RUN
    content = json.loads(begun.read_text())
    content["run"]["code"][toy.name] = "0"
    begun.write_text(json.dumps(content))
    for _ in range(2):  # the second time it is known
        assert trained(toy) == 0
        assert results(tmp_path / "output")["edited"] == [toy.name]
    said = capsys.readouterr().out
    assert said.count(f"The code has changed since this training began: {toy.name}\n") == 1


def test_its_evaluation_takes_the_last_epoch(tmp_path, toy, capsys):
    assert trained(toy) == 0
    flags = ("--eval-only", "--model-dir", str(tmp_path / "output"))
    assert trained(toy, flags=flags, out=tmp_path / "again") == 0
    assert "prompt_learner/model.pth.tar-2 (epoch = 2)" in capsys.readouterr().out
    first, again = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("output", "again")
    )
    assert first["accuracy"] == again["accuracy"] and "train_seconds" not in again
    assert trained(toy, flags=(*flags[:2], str(tmp_path / "no")), out=tmp_path / "third") == 2
    assert "There is no checkpoint '" in capsys.readouterr().err
    assert not (tmp_path / "third" / "results.json").exists()


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["TEST.OOD", "['TinyOthers']"], "TEST.OOD is ['TinyOthers'], but only methods of this"),
        (["OPTIM.STEPS", "5"], "OPTIM.STEPS is 5, but only methods of this project read it"),
        (
            ["DATASET.NAME", "EmojiScenes"],
            "Theirs, a trainer of other code, is for images with one",
        ),
        (["TRAINER.TOYPROMPTS.N_CTXX", "5"], "TOYPROMPTS has no 'N_CTXX': did you mean 'N_CTX'?"),
    ],
)
def test_keys_that_it_does_not_read_are_refused(tmp_path, toy, capsys, pairs, sentence):
    assert trained(toy, *pairs) == 2
    assert sentence in capsys.readouterr().err


def test_a_trainer_without_results_is_refused(tmp_path, toy, capsys):
    toy.write_text(toy.read_text() + "\n    def test(self, split=None):\n        return 50.0\n")
    assert trained(toy) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: Theirs leaves no accuracy in `test_results`")
    assert not (tmp_path / "output" / "results.json").exists()


def test_the_name_of_a_method_is_taken(toy, capsys, monkeypatch):
    toy.write_text(TOY.replace("ToyPrompts", "CoOp"))
    others = {name: kind for name, kind in TRAINER_REGISTRY._objects.items() if name != "CoOp"}
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", others)
    assert "CoOp" in METHODS and trained(toy) == 2
    assert "registers a trainer 'CoOp', but that is a method of this" in capsys.readouterr().err
