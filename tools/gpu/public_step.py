"""Time training steps of a checkout of published code; called by public.py, prints one JSON line.

It runs in a separate process, since modules of the checkout have the same names as ours. The
checkout's trainer builds its model and does whole steps, `forward_backward`, on random images.
"""

import json
import resource
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

STEPS = 1000  # a number of steps per epoch that is not reached, so that no epoch ends


def settings(asked: dict, train):
    """Return the checkout's settings for a case."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    for node in cfg.TRAINER.values():
        if hasattr(node, "items") and "PREC" in node:
            node.PREC = asked["precision"]
    cfg.INPUT.SIZE = (asked["resolution"], asked["resolution"])
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"  # a name that the checkout knows; the weights are given
    cfg.DATASET.NAME = "OxfordPets"  # for methods with templates of data sets
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 1e-5, 50
    cfg.USE_CUDA = asked["device"] == "cuda"
    return cfg


def built(asked: dict):
    """Return the checkout's trainer with its model and optimiser, but without data."""
    from clip import clip
    from dassl.engine import TRAINER_REGISTRY

    import train  # of the checkout: registers its trainers

    clip._download = lambda *args, **kwargs: asked["weights"]
    known = TRAINER_REGISTRY.registered_names()
    name = "MMP" if asked["trainer"] == "ALIGN" and "MMP" in known else asked["trainer"]
    kind = TRAINER_REGISTRY.get(name)
    trainer = object.__new__(kind)
    names = asked["names"]
    data = SimpleNamespace(
        classnames=names, num_classes=len(names), lab2cname=dict(enumerate(names))
    )
    trainer.cfg, trainer.device = settings(asked, train), torch.device(asked["device"])
    trainer.dm = SimpleNamespace(dataset=data, num_classes=len(names), lab2cname=data.lab2cname)
    trainer.num_classes, trainer.lab2cname = len(names), data.lab2cname
    trainer._models, trainer._optims, trainer._scheds = OrderedDict(), OrderedDict(), OrderedDict()
    trainer._writer, trainer.epoch, trainer.start_epoch = None, 0, 0
    trainer.max_epoch = trainer.cfg.OPTIM.MAX_EPOCH
    trainer.batch_idx, trainer.num_batches = 0, STEPS
    trainer.build_model()
    trainer.set_model_mode("train")
    return trainer


def main() -> None:
    """Read a case from stdin, run it, and print its record."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    sys.path.insert(0, asked["checkout"])
    torch.manual_seed(0)
    trainer = built(asked)
    size = asked["batch"], 3, asked["resolution"], asked["resolution"]
    labels = torch.arange(asked["batch"]) % len(asked["names"])
    batch = {"img": torch.randn(size), "label": labels, "domain": labels}
    batch = {name: value.to(asked["device"]) for name, value in batch.items()}

    def wait():
        if asked["device"] == "cuda":
            torch.cuda.synchronize()

    def step():
        wait()
        started = time.perf_counter()
        trainer.forward_backward(batch)
        wait()
        return time.perf_counter() - started

    step()
    taken = [step() for _ in range(asked["repeats"])]
    if asked["device"] == "cuda":
        mib = torch.cuda.max_memory_allocated() / 2**20
    else:
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    with FlopCounterMode(display=False) as counter:
        trainer.forward_backward(batch)
    record = {"seconds": taken, "peak_mib": mib, "operations": counter.get_total_flops()}
    print("\n" + json.dumps(record), flush=True)


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [path for path in sys.path if path != here]
    main()
