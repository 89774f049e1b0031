"""`trainers/` copied into another checkout of the CoOp family, and what it needs of Dassl."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
from paths import GOLDEN, ROOT

# What Dassl 0.6.3 offers under the names of these packages.
DASSL = {
    "dassl.config": {"get_cfg_default", "clean_cfg"},
    "dassl.data": {"DataManager"},
    "dassl.engine": {
        "TRAINER_REGISTRY", "build_trainer", "TrainerBase", "SimpleTrainer", "SimpleNet",
        "TrainerX", "TrainerXU",
    },
    "dassl.evaluation": {"EVALUATOR_REGISTRY", "EvaluatorBase", "Classification",
                         "build_evaluator"},
    "dassl.metrics": {"compute_accuracy"},
    "dassl.optim": {"build_optimizer", "build_lr_scheduler"},
    "dassl.utils": {
        "load_checkpoint", "save_checkpoint", "resume_from_checkpoint", "load_pretrained_weights",
        "count_num_param", "set_random_seed", "setup_logger", "collect_env_info", "Registry",
        "mkdir_if_missing", "read_image", "AverageMeter", "MetricMeter",
    },
}  # fmt: skip
# What a TrainerX of Dassl 0.6.3 has.
TRAINER = {
    "_models", "_optims", "_scheds", "_writer", "batch_idx", "before_train", "after_train",
    "before_epoch", "after_epoch", "best_result", "build_data_loader", "build_model", "cfg",
    "check_cfg", "close_writer", "device", "detect_anomaly", "dm", "epoch", "evaluator",
    "forward_backward", "get_current_lr", "get_model_names", "init_writer", "lab2cname",
    "load_model", "max_epoch", "model_backward", "model_backward_and_update", "model_inference",
    "model_update", "model_zero_grad", "num_batches", "num_classes", "num_source_domains",
    "output_dir", "parse_batch_test", "parse_batch_train", "register_model",
    "resume_model_if_exist", "run_epoch", "save_model", "set_model_mode", "start_epoch", "test",
    "test_loader", "time_start", "train", "train_loader_u", "train_loader_x", "update_lr",
    "val_loader", "write_scalar",
}  # fmt: skip
OTHERS = {"clip", "torch", "yacs", "safetensors", "packaging", "ot", "filelock"}
OTHERS |= sys.stdlib_module_names
OPTIONAL = {"triton_kernels.py": {"triton"}}  # not imported where that is missing
SOURCES = sorted((ROOT / "trainers").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_imported_that_the_original_dassl_or_another_checkout_lacks(path):
    others = OTHERS | OPTIONAL.get(path.name, set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            if node.module.startswith("dassl"):
                assert {alias.name for alias in node.names} <= DASSL[node.module]
            else:
                assert node.module.partition(".")[0] in others
        elif isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] in others for alias in node.names)


def test_the_trainer_uses_what_the_original_trainer_has():
    tree = ast.parse((ROOT / "trainers" / "prompting" / "trainer.py").read_text())
    (trainer,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "PromptTrainer")
    own = {n.name for n in trainer.body if isinstance(n, ast.FunctionDef)}
    own |= {n.target.id for n in trainer.body if isinstance(n, ast.AnnAssign)}
    own |= {t.id for n in trainer.body if isinstance(n, ast.Assign) for t in n.targets}
    used = set()
    for node in ast.walk(trainer):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
            (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    assert "cfg" in used and used - own <= TRAINER


# A small checkout in the shape of CoOp's: its own train.py, data set, node and zero-shot trainer.
TRAIN = """
import argparse

from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode as CN

import datasets.squares
import trainers.zsclip
import trainers.prompting
from trainers.prompting import extend_cfg as extend_cfg_of_align


def extend_cfg(cfg):
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 7
    cfg.TRAINER.COOP.CSC = False
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    extend_cfg_of_align(cfg)


parser = argparse.ArgumentParser()
parser.add_argument("--trainer")
parser.add_argument("--output-dir")
parser.add_argument("opts", nargs=argparse.REMAINDER)
args = parser.parse_args()
cfg = get_cfg_default()
extend_cfg(cfg)
cfg.TRAINER.NAME = args.trainer
cfg.OUTPUT_DIR = args.output_dir
cfg.merge_from_list(args.opts)
cfg.freeze()
assert cfg.TRAINER.COOP.N_CTX == 7
assert TRAINER_REGISTRY.get("ZeroshotCLIP") is trainers.zsclip.ZeroshotCLIP
set_random_seed(1)
setup_logger(cfg.OUTPUT_DIR)
trainer = build_trainer(cfg)
trainer.train()
"""

ZSCLIP = """
from dassl.engine import TRAINER_REGISTRY, TrainerX


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    pass
"""

SQUARES = """
import os

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image


@DATASET_REGISTRY.register()
class Squares(DatasetBase):
    def __init__(self, cfg):
        items = []
        for label, colour in enumerate(("red", "green", "blue")):
            path = os.path.join(cfg.DATASET.ROOT, colour + ".png")
            Image.new("RGB", (32, 32), colour).save(path)
            items += [Datum(impath=path, label=label, domain=0, classname=colour)] * 4
        super().__init__(train_x=items, val=items[::4], test=items[::2])
"""


def test_training_in_a_checkout_that_has_trainers_of_its_own(tmp_path):
    shutil.copytree(ROOT / "trainers", tmp_path / "trainers",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "trainers" / "zsclip.py").write_text(ZSCLIP)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "squares.py").write_text(SQUARES)
    words = "TRAINER.ALIGN.DEPTH 2 TRAINER.ALIGN.M 2 TRAINER.ALIGN.N 2 DATASET.NAME Squares"
    words += " DATALOADER.TRAIN_X.BATCH_SIZE 4 DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 1"
    words += " OPTIM.NAME sgd OPTIM.LR_SCHEDULER cosine DATASET.ROOT . INPUT.SIZE (32,32)"
    backbone = ["MODEL.BACKBONE.NAME", str(GOLDEN / "tiny_clip_seed0.safetensors")]
    command = [sys.executable, "train.py", "--trainer", "ALIGN", "--output-dir", "out"]
    result = subprocess.run(
        [*command, *words.split(), *backbone],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "epoch [1/1]" in result.stdout and "* accuracy:" in result.stdout
    assert (tmp_path / "out" / "MultiModalPromptLearner" / "model.pth.tar-1").is_file()
