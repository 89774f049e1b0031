"""The other process of twin.py: trains a method of published code, in a checkout, and records it.

It imports nothing of this repository but dassl-lite, recording.py and public_code.py, since modules
of the checkout have the same names as ours. It reads what to train from stdin, as JSON.
"""

import json
import os
import sys

import torch
from public_code import enter, give_weights  # type: ignore[import-not-found]  # in this folder
from recording import evaluated, recorded_training  # type: ignore[import-not-found]  # too
from safetensors.torch import save_file


def settings(asked: dict, train, subset: str):
    """Return the checkout's cfg with our values of all keys that it has."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    for key, value in asked["keys"].items():
        *nodes, last = key.split(".")
        node = cfg
        for name in nodes:
            node = node.get(name, {})
        if last in node:
            node[last] = value
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"  # a name that the checkout knows; the weights are given
    cfg.DATASET.SUBSAMPLE_CLASSES = subset
    cfg.OUTPUT_DIR = os.path.join(asked["folder"], subset)
    cfg.freeze()
    return cfg


def built(asked: dict, subset: str):
    """Return the checkout's trainer for the base or the new classes."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    import train  # of the checkout: registers its trainers

    give_weights(asked["weights"])
    cfg = settings(asked, train, subset)
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def main() -> None:
    """Train on the base classes, evaluate on both halves, and write a record."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    enter(asked["checkout"], "cpu", "fp32")
    import dassl

    trainer = built(asked, "base")
    (name,) = trainer.get_model_names()

    def learned():
        own = trainer._models[name].named_parameters()
        return {name: p for name, p in own if p.requires_grad}

    record = recorded_training(trainer, learned)
    base, record["logits/base"] = evaluated(trainer)
    facts = {"dassl": dassl.__version__, "images": names_of(trainer), "base": base}
    other = built(asked, "new")
    other.load_model(trainer.output_dir, epoch=trainer.max_epoch)
    facts["new"], record["logits/new"] = evaluated(other)
    facts = asked["facts"] | facts
    save_file(record, asked["record"], {key: json.dumps(value) for key, value in facts.items()})


def names_of(trainer) -> list[str]:
    """Return the file names of the training images."""
    return [os.path.basename(item.impath) for item in trainer.dm.dataset.train_x]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    main()
