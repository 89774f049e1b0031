"""A small checkout of the CoOp family: trainers, an edited `clip`, and a program that runs them."""

import json
import os
import shutil
import textwrap

from fresh import run_fresh
from paths import HALF_WRITTEN, ROOT

# The files of a checkout like CoOp's and MaPLe's: an edited `clip` next to the trainers, whose
# `load` has no `download_root`, and trainers that import it and each other.
CHECKOUT = {
    "clip/__init__.py": "from .clip import *",
    "clip/clip.py": """
        import torch

        from .model import build_model

        __all__ = ["available_models", "load", "tokenize"]
        _MODELS = {"small": {"text.weight": torch.eye(300, 8), "image.weight": torch.eye(8, 3)}}


        def available_models():
            return list(_MODELS)


        def load(name, device="cpu", jit=False):
            return build_model(_MODELS[name]), None


        def tokenize(texts):
            return torch.tensor([[sum(map(ord, text)) % 300] for text in texts])
        """,
    "clip/model.py": """
        from torch import nn


        class CLIP(nn.Module):
            def __init__(self):
                super().__init__()
                self.text = nn.Embedding(300, 8)
                self.image = nn.Linear(3, 8, bias=False)

            def encode_text(self, tokens):
                return self.text(tokens[:, 0])

            def encode_image(self, images):
                return self.image(images.mean((2, 3)))


        def build_model(state_dict{more}):
            model = CLIP()
            model.load_state_dict(state_dict)
            return model
        """,
    "trainers/__init__.py": "",
    "trainers/coop.py": """
        import torch
        import torch.nn.functional as F
        from clip import clip
        from dassl.engine import TRAINER_REGISTRY, TrainerX
        from dassl.optim import build_lr_scheduler, build_optimizer
        from torch import nn


        def load_clip_to_cpu(cfg):
            return clip.build_model(clip._MODELS[cfg.MODEL.BACKBONE.NAME]{details})


        class Learner(nn.Module):
            def __init__(self, cfg, classnames):
                super().__init__()
                self.clip_model = load_clip_to_cpu(cfg).requires_grad_(False)
                self.tokens = clip.tokenize(classnames)
                self.ctx = nn.Parameter(torch.zeros(cfg.TRAINER.COOP.N_CTX, 8))

            def forward(self, images):
                text = self.clip_model.encode_text(self.tokens) + self.ctx.sum(0)
                return self.clip_model.encode_image(images) @ text.T


        @TRAINER_REGISTRY.register()
        class CoOp(TrainerX):
            def build_model(self):
                self.model = Learner(self.cfg, self.dm.dataset.classnames)
                self.optim = build_optimizer(self.model, self.cfg.OPTIM)
                self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
                self.register_model("prompt_learner", self.model, self.optim, self.sched)

            def forward_backward(self, batch):
                loss = F.cross_entropy(self.model(batch["img"]), batch["label"])
                self.model_backward_and_update(loss)
                if self.batch_idx + 1 == self.num_batches:
                    self.update_lr()
                return {"loss": loss.item()}
        """,
    "trainers/vpt.py": """
        from dassl.engine import TRAINER_REGISTRY

        from .coop import CoOp


        @TRAINER_REGISTRY.register()
        class VPT(CoOp):
            pass
        """,
    "trainers/zsclip.py": """
        from clip import clip
        from dassl.engine import TRAINER_REGISTRY, TrainerX

        from .coop import load_clip_to_cpu


        @TRAINER_REGISTRY.register()
        class ZeroshotCLIP(TrainerX):
            def build_model(self):
                self.clip_model = load_clip_to_cpu(self.cfg)
                tokens = clip.tokenize(self.dm.dataset.classnames)
                self.text = self.clip_model.encode_text(tokens)

            def model_inference(self, images):
                return self.clip_model.encode_image(images) @ self.text.T
        """,
    "datasets/squares.py": """
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
        """,
    "train.py": """
        import argparse

        from dassl.config import get_cfg_default
        from dassl.engine import build_trainer
        from dassl.utils import set_random_seed, setup_logger
        from yacs.config import CfgNode as CN

        import datasets.squares
        {before}
        import trainers.coop
        import trainers.vpt
        import trainers.zsclip
        {after}


        def extend_cfg(cfg):
            cfg.TRAINER.COOP = CN()
            cfg.TRAINER.COOP.N_CTX = 7
            cfg.TRAINER.COOP.CSC = False
            {nodes}
            cfg.DATASET.SUBSAMPLE_CLASSES = "all"
            {extend}


        def main(words):
            parser = argparse.ArgumentParser()
            parser.add_argument("--trainer")
            parser.add_argument("--output-dir")
            parser.add_argument("--backbone")
            parser.add_argument("--eval-only", action="store_true")
            parser.add_argument("opts", nargs=argparse.REMAINDER)
            args = parser.parse_args(words)
            cfg = get_cfg_default()
            extend_cfg(cfg)
            cfg.TRAINER.NAME = args.trainer
            cfg.OUTPUT_DIR = args.output_dir
            if args.backbone:
                cfg.MODEL.BACKBONE.NAME = args.backbone
            cfg.merge_from_list(args.opts)
            cfg.freeze()
            set_random_seed(1)
            setup_logger(cfg.OUTPUT_DIR)
            trainer = build_trainer(cfg)
            trainer.test() if args.eval_only else trainer.train()
            return trainer
        """,
}
# Further changes in public checkouts: a second argument of build_model, and nodes with other keys,
# in which CTX_INIT is a switch instead of words.
EDITED = {
    "more": ", design_details",
    "details": ', {"trainer": "CoOp"}',
    "nodes": "cfg.TRAINER.COOP.update(CTX_INIT=False, W=8.0)",
}
OPTIONS = """
    DATASET.NAME Squares DATASET.ROOT . INPUT.SIZE (32,32) DATALOADER.NUM_WORKERS 0
    DATALOADER.TRAIN_X.BATCH_SIZE 4 OPTIM.NAME sgd OPTIM.LR_SCHEDULER cosine OPTIM.MAX_EPOCH 1
"""
# Trains one trainer after the other in one process, and prints the module of each.
DRIVE = """
import json, sys
import train

told = {}
for name, backbone, options in json.loads(sys.argv[1]):
    words = ["--trainer", name, "--output-dir", "out/" + name, "--backbone", backbone, *options]
    try:
        trainer = train.main(words)
    except ValueError as error:
        told[name] = str(error)
    else:
        told[name] = type(trainer).__module__
import clip
told["clip"] = [clip.__file__, clip.clip.load.__code__.co_filename]
print("TOLD " + json.dumps(told))
"""


def write_checkout(folder, **gaps):
    """Write the files of CHECKOUT; `gaps` has the text for each name in braces."""
    for name, text in CHECKOUT.items():
        text = textwrap.dedent(text)
        for gap in ("more", "details", "nodes", "before", "after", "extend"):
            text = text.replace("{" + gap + "}", gaps.get(gap, ""))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run_in(folder, *trainers, first=""):
    """Run trainers, each (name, backbone, flags and pairs), in a checkout.

    Args:
        first: code that runs before.

    Returns:
        The module of each trainer, or its error, by name; and the printed text.
    """
    asked = [(name, clip, (more + OPTIONS).split()) for name, clip, more in trainers]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "dassl-lite")}
    result = run_fresh(first + DRIVE, json.dumps(asked), cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    (told,) = (line for line in result.stdout.splitlines() if line.startswith("TOLD "))
    return json.loads(told.removeprefix("TOLD ")), result.stdout


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plug_in(folder):
    """Copy the plug-in as docs/checkouts.md says; `write_checkout` wrote the two lines."""
    before = files_below(folder)
    package, ignored = ROOT / "trainers" / "prompting", shutil.ignore_patterns(HALF_WRITTEN)
    shutil.copytree(package, folder / "trainers" / "prompting", ignore=ignored)
    assert before.items() <= files_below(folder).items()


TWO_LINES = {"extend": "trainers.prompting.extend_cfg(cfg)"}
