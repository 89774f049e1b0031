"""Data for other checkouts, and the calls that their train.py make."""

from collections import Counter
from pathlib import Path

import pytest
import tiny
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import build_trainer
from dassl.utils import load_checkpoint

import datasets  # noqa: F401 (registers them)
import train
from trainers.prompting import UserError, extend_cfg
from trainers.prompting.use.commands import main

SHORT = ["TRAINER.ALIGN.DEPTH", "1", "TRAINER.ALIGN.M", "1", "TRAINER.ALIGN.N", "1"]


def trainer_of(folder, trainer="ALIGN", *pairs):
    return build_trainer(train.setup_cfg(train.parse_args(
        [*tiny.arguments(folder, trainer), *(SHORT if trainer == "ALIGN" else ()), *pairs]
    )))  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained run, and the checkpoint of its first epoch."""
    folder = tmp_path_factory.mktemp("trained")
    trainer_of(folder, "ALIGN", "TRAIN.CHECKPOINT_FREQ", "1").train()
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
    trainer = trainer_of(folder)
    CALLS[case](trainer, str(folder / "output"))
    expected = load_checkpoint(str(first))["state_dict"]
    found = trainer._models["MultiModalPromptLearner"].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(trainer.predictions.files) == 16


def test_prompts_that_are_neither_trained_nor_loaded_are_not_evaluated(trained):
    """`--eval-only` of PLOT++ would do so, as it does not read --model-dir."""
    folder, first = trained
    with pytest.raises(UserError, match="neither trained nor loaded.*MODEL.INIT_WEIGHTS"):
        trainer_of(folder).test()
    trainer = trainer_of(folder)
    trainer.load_model("")  # as CoOp's train.py does for --eval-only without --model-dir
    untrained = trainer.test()
    loaded = trainer_of(folder, "ALIGN", "MODEL.INIT_WEIGHTS", str(first))
    assert loaded.test() == loaded.test(split="test") and 0 <= untrained <= 100
    assert trainer_of(folder, "ZeroshotCLIP").test() > 0


# ------------------------------------------------------------------ promptedclip-emoji


def data_of(name, root=""):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    return DATASET_REGISTRY.get(name)(cfg)


def listed(items):
    """Return the content of each image with its label and class name."""
    return Counter((Path(x.impath).read_bytes(), x.label, x.classname) for x in items)


def test_the_data_are_those_of_emoji(tmp_path, capsys):
    root = tmp_path / "my data"
    assert main(["emoji", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"1,064 emoji of 37 classes are in '{root}/caltech-101'. Try ")
    assert f"    --root '{root}' \\\n" in said
    theirs, ours = data_of("Caltech101", root), data_of("Emoji")
    for part in ("train_x", "val", "test"):
        assert listed(getattr(theirs, part)) == listed(getattr(ours, part))
    assert theirs.classnames == ours.classnames
    assert "OpenMoji" in (root / "caltech-101" / "ATTRIBUTION.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "place, code, said",
    [
        ("there", 2, "/caltech-101' exists, and emoji would mix with its files: give another"),
        ("file", 1, "cannot be written or read (Not a directory): a file is where a folder belo"),
    ],
)
def test_nothing_is_replaced(tmp_path, capsys, place, code, said):
    (tmp_path / "there" / "caltech-101").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert main(["emoji", str(tmp_path / place)]) == code
    assert said in capsys.readouterr().err
    assert not any((tmp_path / "there" / "caltech-101").iterdir())
