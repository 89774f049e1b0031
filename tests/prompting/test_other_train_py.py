"""The trainer accepts the calls that the train.py of other checkouts make."""

import pickle

import pytest
import tiny
import torch
from dassl.engine import TrainerX, build_trainer
from dassl.utils import load_checkpoint

import train
from trainers.prompting import UserError
from trainers.prompting.trainer.trainer import PromptTrainer

SHORT = ["TRAINER.ALIGN.DEPTH", "1", "TRAINER.ALIGN.M", "1", "TRAINER.ALIGN.N", "1"]


def built(folder, trainer="ALIGN", *pairs):
    return build_trainer(train.setup_cfg(train.parse_args(
        [*tiny.arguments(folder, trainer), *(SHORT if trainer == "ALIGN" else ()), *pairs]
    )))  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained run, and the checkpoint of its first epoch."""
    folder = tmp_path_factory.mktemp("trained")
    built(folder, "ALIGN", "TRAIN.CHECKPOINT_FREQ", "1").train()
    return folder, folder / "output" / "MultiModalPromptLearner" / "model.pth.tar-1"


CALLS = {
    "CoOp": lambda trainer, run: (trainer.load_model(run, epoch=1), trainer.test()),
    "ATPrompt": lambda trainer, run: (
        trainer.load_model(run, epoch=1), trainer.test(is_final=True),
    ),
    "CLAP": lambda trainer, run: (
        trainer.load_model(run, trainer.cfg, epoch=1), trainer.test(),
    ),
    "by place": lambda trainer, run: (trainer.load_model(run, 1), trainer.test("test")),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_arguments_of_other_checkouts(trained, case):
    folder, first = trained
    trainer = built(folder)
    CALLS[case](trainer, str(folder / "output"))
    expected = load_checkpoint(str(first))["state_dict"]
    found = trainer._models["MultiModalPromptLearner"].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(trainer.predictions.files) == 16


def test_prompts_that_are_neither_trained_nor_loaded_are_not_evaluated(trained):
    """`--eval-only` of PLOT++ would do so, as it does not read --model-dir."""
    folder, first = trained
    with pytest.raises(UserError, match="neither trained nor loaded.*MODEL.INIT_WEIGHTS"):
        built(folder).test()
    trainer = built(folder)
    trainer.load_model("")  # as CoOp's train.py does for --eval-only without --model-dir
    untrained = trainer.test()
    loaded = built(folder, "ALIGN", "MODEL.INIT_WEIGHTS", str(first))
    assert loaded.test() == loaded.test(split="test") and 0 <= untrained <= 100
    assert built(folder, "ZeroshotCLIP").test() > 0


class Scheduler:
    """Like PyTorch's, which took a third argument in earlier versions."""

    def __init__(self, optimizer, last_epoch=-1):
        pass


def test_the_warm_up_of_an_original_dassl_is_refused_before_data_are_loaded(tmp_path, monkeypatch):
    def build_lr_scheduler(optimizer, optim):
        return Scheduler(optimizer, -1, False)

    monkeypatch.setattr("dassl.optim.build_lr_scheduler", build_lr_scheduler)
    monkeypatch.setattr(PromptTrainer, "build_data_loader", lambda self: pytest.fail("loaded"))
    with pytest.raises(
        UserError, match="without `verbose`, in '.*test_other_train_py.py' "
    ) as told:
        built(tmp_path, "ALIGN", "OPTIM.WARMUP_EPOCH", "1")
    assert "positional" not in str(told.value)
    with pytest.raises(pytest.fail.Exception, match="loaded"):  # it has no schedule
        built(tmp_path, "ZeroshotCLIP", "OPTIM.WARMUP_EPOCH", "1")
    monkeypatch.undo()
    assert built(tmp_path, "ALIGN", "OPTIM.WARMUP_EPOCH", "1").sched is not None


def test_a_checkpoint_that_an_original_dassl_cannot_read_is_one_sentence(trained, monkeypatch):
    def refused(self, directory):
        raise pickle.UnpicklingError("Weights only load failed.")

    folder, _ = trained
    trainer = built(folder, "ALIGN", "OUTPUT_DIR", str(folder / "output"))
    monkeypatch.setattr(TrainerX, "resume_model_if_exist", refused)
    with pytest.raises(UserError, match="give `torch.load` the argument .* in '.*checkpoints.py'"):
        trainer.train()
