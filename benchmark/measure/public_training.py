"""The other process of twin.py: trains a method of published code, in a checkout, and records it.

It imports nothing of this repository but dassl-lite, recording.py and public_code.py, since modules
of the checkout have the same names as ours. It reads what to train from stdin, as JSON.
"""

import json
import os
import sys

import torch
from public_code import enter, give_weights  # type: ignore[import-not-found]  # in this folder
from recording import evaluate, recorded_training  # type: ignore[import-not-found]  # too
from safetensors.torch import save_file


def settings(request: dict, train, subset: str):
    """Return the checkout's cfg with our values of all keys that it has."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    for key, value in request["keys"].items():
        *nodes, leaf = key.split(".")
        node = cfg
        for name in nodes:
            node = node.get(name, {})
        if leaf in node:
            node[leaf] = value
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"  # a name that the checkout knows; the weights are given
    cfg.DATASET.SUBSAMPLE_CLASSES = subset
    cfg.OUTPUT_DIR = os.path.join(request["folder"], subset)
    cfg.freeze()
    return cfg


def build_half(request: dict, subset: str):
    """Return the checkout's trainer for the base or the new classes."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    import train  # of the checkout: registers its trainers

    give_weights(request["weights"])
    cfg = settings(request, train, subset)
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def main() -> None:
    """Train on the base classes, evaluate on both halves, and write a record."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    enter(request["checkout"], "cpu", request["precision"])
    import dassl

    trainer = build_half(request, "base")
    (name,) = trainer.get_model_names()

    def learned():
        parameters = trainer._models[name].named_parameters()
        return {name: p for name, p in parameters if p.requires_grad}

    record = recorded_training(trainer, learned)
    base, record["logits/base"] = evaluate(trainer)
    facts = {"dassl": dassl.__version__, "images": names_of(trainer), "base": base}
    new_trainer = build_half(request, "new")
    new_trainer.load_model(trainer.output_dir, epoch=trainer.max_epoch)
    facts["new"], record["logits/new"] = evaluate(new_trainer)
    facts = request["facts"] | facts
    save_file(record, request["record"], {key: json.dumps(value) for key, value in facts.items()})


def names_of(trainer) -> list[str]:
    """Return the file names of the training images."""
    return [os.path.basename(item.impath) for item in trainer.dm.dataset.train_x]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    main()
