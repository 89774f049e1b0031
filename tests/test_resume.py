"""A checkpoint that a run cannot resume from: one sentence, with the file and the remedies."""

import json
import sys

import pytest
import torch
from dassl import utils
from dassl.engine import build_trainer
from tiny import arguments, run

import train
from trainers.prompting import UserError
from trainers.prompting.checkpoint.saved import Saved

REFUSED = UserError, utils.UserError

MISSING = "missing"
NONSENSE = ["nonsense", [3], 7, MISSING]
# The flaw in the message, by the broken part.
DASSL = "lacks a part, or has a broken one"
PARTS = {
    "optimizer": DASSL,
    "scheduler": DASSL,
    "rng": DASSL,
    "method": "has no valid 'method'",
    "computed": "has no valid 'computed'",
    "classnames": "has no valid 'classnames'",
    "images": "has no valid 'images'",
    "train_seconds": DASSL,
}
OTHERWISE = {
    ("optimizer", MISSING): "lacks optimizer",
    ("scheduler", MISSING): "lacks scheduler",
    ("rng", MISSING): "lacks rng",
    ("method", MISSING): "lacks method",
    ("computed", MISSING): "lacks computed",
    ("classnames", MISSING): "lacks classnames",
    ("images", MISSING): "lacks images",
    ("train_seconds", MISSING): "lacks train_seconds",
}
# public code saves no settings; [3] is another class
FINE = [("train_seconds", 7), ("settings", MISSING), ("classnames", [3])]
CASES = [(key, value) for key in PARTS for value in NONSENSE if (key, value) not in FINE]
CASES += [("computed", {"precision": "float32"})]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a finished run, its last checkpoint, and the content of that."""
    root, streams = tmp_path_factory.mktemp("killed"), (sys.stdout, sys.stderr)
    assert run(root) == 0
    sys.stdout, sys.stderr = streams
    file = root / "output" / "MultiModalPromptLearner" / "model.pth.tar-2"
    return root, file, torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def trainer(killed):
    """The trainer of the same command, before it looks for a checkpoint."""
    return build_trainer(train.setup_cfg(train.parse_args(arguments(killed[0]))))


def broken(checkpoint, key, value) -> dict:
    if value is MISSING:
        return {k: v for k, v in checkpoint.items() if k != key}
    return {**checkpoint, key: value}


@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_broken_part(killed, trainer, key, value):
    root, file, checkpoint = killed
    torch.save(broken(checkpoint, key, value), file)
    with pytest.raises(REFUSED) as error:
        trainer.resume_model_if_exist(str(root / "output"))
    said = str(error.value)
    assert said.startswith(
        f"The checkpoint '{file}' {OTHERWISE.get((key, str(value)), PARTS[key])}"
    )
    assert said.endswith(f": delete '{file.parent}/checkpoint' to train from the start")
    assert "\n" not in said


def test_an_earlier_checkpoint_is_offered(killed, trainer):
    root, file, checkpoint = killed
    torch.save(checkpoint | {"epoch": 1}, file.with_name("model.pth.tar-1"))
    for key in ("method", "optimizer"):  # reported by the trainer, and by dassl-lite
        torch.save(broken(checkpoint, key, "x"), file)
        with pytest.raises(REFUSED, match="or write 'model.pth.tar-1' into it to resume from"):
            trainer.resume_model_if_exist(str(root / "output"))
    file.with_name("model.pth.tar-1").unlink()


def test_another_precision_or_kind_of_processor_is_said(killed, capsys):
    root, file, checkpoint = killed
    now = checkpoint["computed"]
    began = {"precision": "float16", "processor": "NVIDIA H100 80GB HBM3"}
    torch.save(checkpoint | {"computed": began}, file)
    assert run(root) == 0
    torch.save(checkpoint, file)
    here = f"float32 ({now['processor']})"
    line = f"Computed in {here}; begun in float16 (NVIDIA H100 80GB HBM3)\n"
    assert capsys.readouterr().out.count(line) == 1
    record = json.loads((root / "output" / "results.json").read_text())
    assert record["precision"] == "float16 + float32"
    run_now = Saved(computed=now)
    assert Saved.of(checkpoint).extend(run_now).computed == now
    assert not capsys.readouterr().out
    then = Saved(computed=now | {"processor": "cpu, \x1b"})
    both = {"precision": "float32", "processor": f"cpu, \x1b + {now['processor']}"}
    for _ in range(2):  # the second time as if it was killed on this processor, too
        then = then.extend(run_now)
        assert then.computed == both
        said = capsys.readouterr().out
        assert said.startswith(f"Computed in {here}; begun in float32 (cpu, \\x1b")


def test_a_loss_scale_is_resumed_if_there_is_one(trainer):
    precision = trainer.precision
    precision.load_scale({})  # from a run on a device that needs no scale
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    precision.load_scale({})
    assert precision.scaler.get_scale() == 8
    precision.load_scale(torch.amp.GradScaler("cpu", init_scale=4.0).state_dict())
    assert precision.scaler.get_scale() == 4
