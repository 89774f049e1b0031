"""Mistakes in calls of train.py, and what the system lacks or refuses: one sentence each.

The file is long because of its tables of mistakes.
"""

import json
import subprocess
import sys

import pytest
import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from paths import ROOT
from tiny import arguments, run

import train
from recipe.configs import read_keys

MISTAKES = {
    "trainer": (["TRAINER.NAME", "Align"], "did you mean 'ALIGN'"),
    "data set": (["DATASET.NAME", "Emojis"], "did you mean 'Emoji'"),
    "backbone": (["MODEL.BACKBONE.NAME", "ViT-B16"], "did you mean 'ViT-B/16'"),
    "case": (["MODEL.BACKBONE.NAME", "vit-b/16"], "did you mean 'ViT-B/16'?"),
    "weights": (["MODEL.BACKBONE.NAME", "/gone/clip.pt"], "no file is called '/gone/clip.pt'"),
    "no backbone": (["MODEL.BACKBONE.NAME", ""], "No backbone is named: give --config-file"),
    "key": (["TRAINER.ALIGN.BETTA", "1"], "did you mean 'BETA'"),
    "section": (["TRAINERS.ALIGN.BETA", "1"], "did you mean 'TRAINER'"),
    "type": (["OPTIM.LR", "fast"], "must be of type float"),
    "odd": (["OPTIM.LR"], "not KEY VALUE: 'OPTIM.LR' has no value, or a value before"),
    "equals": (["OPTIM.LR=0.1", "SEED=1"], "'OPTIM.LR=0.1' has the form KEY=VALUE: write KEY"),
    "depth": (["TRAINER.ALIGN.DEPTH", "9"], "has 4 blocks"),
    "precision": (["TRAINER.ALIGN.PREC", "fp8"], "must be one of fp32, amp, bf16, fp16"),
    "epsilon": (["OPTIM.NAME", "adam", "OPTIM.ADAM_EPS", "-1.0"], "ADAM_EPS is -1.0 but must be"),
    "none": (["OPTIM.LR", "None"], "sets 'OPTIM.LR' to 'None', but it must be of type float"),
    "epochs": (["OPTIM.MAX_EPOCH", "-1"], "MAX_EPOCH is -1 but must be a whole number, 1 or more"),
    "no list": (["INPUT.PIXEL_STD", "[x, 1, 1]"], "must be of type list"),
    "no shots": (["DATASET.NUM_SHOTS", "0"], "NUM_SHOTS is 0, which leaves nothing to train on"),
    "validation": (["DATASET.VALIDATION_SHOTS", "-2"], "VALIDATION_SHOTS is -2 but must be 0 or"),
    "noise": (["DATASET.LABEL_NOISE", "1"], "LABEL_NOISE is 1.0 but must be the share of wrong"),
    "less noise": (["DATASET.LABEL_NOISE", "-0.1"], "NOISE is -0.1 but must be the share of wrong"),
    "kind of noise": (
        ["DATASET.LABEL_NOISE_KIND", "asymm"],
        "LABEL_NOISE_KIND is 'asymm' but must",
    ),
    "imbalance": (["DATASET.IMBALANCE", "0.1"], "IMBALANCE is 0.1 but must be the size of the"),
    "noise of others": (["DATASET.LABEL_NOISE", "0.5"], "data set TinyColours does not read it"),
    "split": (["TEST.SPLIT", "vla"], "TEST.SPLIT is 'vla' but must be one of test, val"),
    "an option": (["OPTIM.LR", "1", "--backbone", "emoji"], "--backbone follows a KEY VALUE pair"),
    "another data set": (["BY_DATASET.TinyColour.OPTIM.LR", "1"], "did you mean 'TinyColours'"),
    "other classes": (["BY_CLASSES.bass.OPTIM.LR", "1"], "'bass': did you mean 'base'?"),
    "other shots": (["BY_SHOTS.few.OPTIM.LR", "1"], "has 'few' in BY_SHOTS: give a number of"),
    "not trained": (["MODEL.BACKBONE.PRETRAINED", "False"], "adapt a trained CLIP: leave it out"),
    "staged": (["OPTIM.STAGED_LR", "True"], "NEW_LAYERS is [], so everything would learn at the"),
    "key for other runs": (["BY_SHOTS.9.OPTIM.LRR", "1"], "OPTIM has no 'LRR': did you mean 'LR'"),
    "memory": (["TRAINER.MEMORY_BUDGET", "0.0001"], "leaves 0.00 GiB: set TRAINER.MEMORY_BUDGET"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, capsys, case):
    pairs, part = MISTAKES[case]
    assert run(tmp_path, extra=pairs) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and part in line


FLAGS = {
    "nothing": ("", "No method is named: give --trainer, such as ALIGN (--help lists all)"),
    "no data": ("--trainer ALIGN", "No data set is named: give --dataset-config-file, such as"),
    "folder": ("--config-file configs", "There is no config file 'configs': look into configs/"),
    "run": ("--trainer CoOp --model-dir x", "--model-dir and --load-epoch are for --eval"),
    "epoch": ("--trainer CoOp --load-epoch 2", "--model-dir and --load-epoch are for --eval"),
    "resume": ("TINY --resume /nope", "There is no checkpoint in '/nope' to resume from"),
    "plug-in": ("TINY --plugin no.such.module", "The plug-in 'no.such.module' does not import"),
    "file": ("TINY --plugin nothing.py", "nothing.py'"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_an_invalid_flag(tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    words, part = FLAGS[case]
    tiny, *flags = words.split() or [""]
    known = arguments(tmp_path, "CoOp", None, 1, *flags) if tiny == "TINY" else words.split()
    assert train.run(known) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and part in line


def test_an_evaluation_does_not_replace_the_record_of_the_training(tmp_path, capsys, monkeypatch):
    assert run(tmp_path, "CoOp", None, 1) == 0
    record, flags = tmp_path / "output" / "results.json", ["--eval-only", "--model-dir", "output"]
    before = record.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, "CoOp", None, 1, *flags) == 2
    assert "holds a training, whose record the evaluation would" in capsys.readouterr().err
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "GPU"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "GPU"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "machine"),
        (MemoryError(), "machine"),
    ],
)
def test_too_little_memory_is_one_sentence(tmp_path, capsys, monkeypatch, error, what):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("trainers.prompting.trainer.trainer.training_step", full)
    assert run(tmp_path, "CoOp") == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"error: the {what} has too little memory: lower DATALOADER.TRAIN_X.BATCH_SIZE, or "
        "DATALOADER.TEST.BATCH_SIZE if this was an evaluation"
    )


def test_a_package_that_is_missing_is_named():
    config = str(ROOT / "configs/trainers/ALIGN/emoji.yaml")
    program = [sys.executable, "-S", str(ROOT / "train.py"), "--config-file", config]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: yaml is missing: ") and "requirements.txt" in done.stderr


def test_sizes_of_images_come_from_the_backbone(tmp_path, capsys):
    pairs = ["INPUT.SIZE", "(64, 64)", "INPUT.INTERPOLATION", "bilinear"]
    assert run(tmp_path, "CoOp", None, 1, extra=pairs) == 0
    out = capsys.readouterr().out
    assert "INPUT.SIZE (32, 32) (it was (64, 64)), INPUT.PIXEL_MEAN [0.48145466, " in out
    record = json.loads((tmp_path / "output" / "results.json").read_text())
    assert record["run"]["data"]["images"]["size"] == [32, 32]
    assert record["run"]["data"]["images"]["interpolation"] == "bicubic"


def test_a_missing_config_file_and_one_that_is_not_yaml(tmp_path, capsys):
    assert train.run(["--config-file", str(tmp_path / "no.yaml")]) == 2
    assert "no config file" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("OPTIM: [")
    assert train.run(["--config-file", str(tmp_path / "bed.yaml")]) == 2
    assert "': in its folder, did you mean 'bad.yaml'? (valid: " in capsys.readouterr().err
    assert train.run(["--config-file", str(tmp_path / "bad.yaml")]) == 2
    assert "is not YAML" in capsys.readouterr().err
    for text in ("- OPTIM", "OPTIM"):
        (tmp_path / "bad.yaml").write_text(text)
        assert train.run(["--config-file", str(tmp_path / "bad.yaml")]) == 2
        assert "bad.yaml' has no keys" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OPTIM: {LR: 1}\nSEED: 1\nOPTIM:\n  MAX_EPOCH: 2", "OPTIM in line 1 and again in line 3"),
        ("OPTIM:\n  LR: 1\n  LR: 1", "OPTIM.LR in line 2 and again in line 3"),
        ("OPTIM.LR: 1\nOPTIM: {LR: 2}", "OPTIM.LR in line 1 and again in line 2"),
        ("BY_SHOTS:\n  1: {SEED: 1}\n  '1': {SEED: 2}", "BY_SHOTS.1 in line 2 and again in line 3"),
    ],
)
def test_a_key_that_a_config_file_has_twice(tmp_path, capsys, text, said):
    (tmp_path / "twice.yaml").write_text(text)
    assert train.run(["--config-file", str(tmp_path / "twice.yaml")]) == 2
    assert f"twice.yaml' has {said}: write it once" in capsys.readouterr().err


def test_aliases_and_merged_keys_are_no_repetition(tmp_path):
    text = "A: &a {LR: 1, N: 1}\nB: {<<: *a, LR: 2}\nC: *a\nOPTIM.LR: 3\nOPTIM: {N: 1}"
    (tmp_path / "fine.yaml").write_text(text)
    found = {"A.LR": 1, "A.N": 1, "B.LR": 2, "B.N": 1, "C.LR": 1, "C.N": 1}
    assert read_keys(tmp_path / "fine.yaml") == found | {"OPTIM.LR": 3, "OPTIM.N": 1}


def test_initial_weights_for_a_method_that_learns_nothing(tmp_path, capsys):
    assert run(tmp_path, "ZeroshotCLIP", extra=["MODEL.INIT_WEIGHTS", "/nope"]) == 2
    said = "error: MODEL.INIT_WEIGHTS is '/nope', but ZeroshotCLIP learns nothing: leave it out\n"
    assert capsys.readouterr().err == said


def test_test_images_do_not_replace_missing_validation_images(tmp_path, capsys):
    for pairs in (["TEST.SPLIT", "val"], ["TEST.FINAL_MODEL", "best_val"]):
        assert run(tmp_path, "CoOp", extra=["DATASET.NAME", "EmojiFood", *pairs]) == 2
        assert "Validation images are needed, but EmojiFood has none" in capsys.readouterr().err


@TRAINER_REGISTRY.register()
class NothingToTrain(TrainerX):
    """A trainer like the public ZeroshotCLIP."""

    def build_model(self):
        self.logits = torch.zeros(self.num_classes)

    def model_inference(self, input):
        return self.logits.expand(len(input), -1)


def test_a_public_trainer_that_trains_nothing(tmp_path, capsys):
    assert run(tmp_path, "NothingToTrain") == 2
    assert (
        capsys.readouterr().err == "error: NothingToTrain has nothing to train: use --eval-only\n"
    )
    assert run(tmp_path, "NothingToTrain", None, 1, "--eval-only") == 0


# train.py on the tiny data set, in a separate process.
CHILD = """
import sys
sys.path[:0] = sys.argv.pop(1), sys.argv.pop(1)
import tiny
import train
sys.exit(train.run())
"""


@pytest.mark.slow
def test_a_reader_that_closes_the_output(tmp_path):
    command = [sys.executable, "-u", "-c", CHILD, str(ROOT), str(ROOT / "tests")]
    command += arguments(tmp_path, "ZeroshotCLIP")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.wait() == 1
        error = process.stderr.read()
    assert not error
