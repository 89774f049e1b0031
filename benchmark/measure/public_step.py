"""The other process of public.py: runs a checkout of published code.

It imports nothing of this repository but dassl-lite, counting.py, public_code.py and
public_loops.py, since modules of the checkout have the same names as ours. The checkout's trainer
builds its model and, on random images, does whole training steps (`forward_backward`) or
evaluations (`model_inference`); public_loops.py calls checkouts without trainers. The first line
that it reads is a case, as JSON; for each further one it does one of them.
"""

import json
import os
import resource
import sys
from collections import OrderedDict
from types import SimpleNamespace

import torch
from counting import Operations, seconds_of  # type: ignore[import-not-found]  # in this folder
from PIL import Image
from public_code import enter, give_weights  # type: ignore[import-not-found]  # too
from public_loops import LOOPS  # type: ignore[import-not-found]  # too

STEPS = 1000  # a number of steps per epoch that is not reached, so that no epoch ends


def settings(request: dict, train):
    """Return the checkout's settings for a case."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    for node in cfg.TRAINER.values():
        if hasattr(node, "items") and "PREC" in node:
            node.PREC = request["precision"]
    if node := cfg.TRAINER.get("MMP"):  # ALIGN's: the depth and the distance of its config files
        node.TEXT_PROMPT_DEPTH = node.VISION_PROMPT_DEPTH = 9
        node.USECT = False
        node.VISION_PROMPT_NUMBER = request["settings"].get("M", node.VISION_PROMPT_NUMBER)
        node.TEXT_PROMPT_NUMBER = request["settings"].get("N", node.TEXT_PROMPT_NUMBER)
    if node := cfg.TRAINER.get("MMRL"):  # the layers of its config files
        node.REP_LAYERS = list(range(6, 13))
    if "LOCOOP" in cfg.TRAINER:  # arguments of its train.py
        cfg.topk, cfg.lambda_value = request["settings"].get("TOPK"), 0.25
    cfg.INPUT.SIZE = (request["resolution"], request["resolution"])
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"  # a name that the checkout knows; the weights are given
    cfg.DATASET.NAME = "OxfordPets"  # for methods with templates of data sets
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 1e-5, 50
    cfg.USE_CUDA = request["device"] == "cuda"
    return cfg


def build_trainer(request: dict):
    """Return the checkout's trainer with its model and optimiser, but without data."""
    from dassl.engine import TRAINER_REGISTRY

    import train  # of the checkout: registers its trainers

    give_weights(request["weights"])
    registered = TRAINER_REGISTRY.registered_names()
    name = "MMP" if request["trainer"] == "ALIGN" and "MMP" in registered else request["trainer"]
    kind = TRAINER_REGISTRY.get(name)
    trainer = object.__new__(kind)
    names = request["names"]
    data = SimpleNamespace(
        classnames=names, num_classes=len(names), lab2cname=dict(enumerate(names))
    )
    trainer.cfg, trainer.device = settings(request, train), torch.device(request["device"])
    trainer.dm = SimpleNamespace(dataset=data, num_classes=len(names), lab2cname=data.lab2cname)
    trainer.num_classes, trainer.lab2cname = len(names), data.lab2cname
    trainer._models, trainer._optims, trainer._scheds = OrderedDict(), OrderedDict(), OrderedDict()
    trainer._writer, trainer.epoch, trainer.start_epoch = None, 0, 0
    trainer.max_epoch = trainer.cfg.OPTIM.MAX_EPOCH
    trainer.batch_idx, trainer.num_batches = 0, STEPS
    trainer.build_model()
    trainer.set_model_mode("train" if request["training"] else "eval")
    return trainer


def built_step(request: dict):
    """Return a function that does a step or an evaluation of a batch."""
    if not os.path.exists(os.path.join(request["checkout"], "train.py")):
        return LOOPS[request["trainer"]](request)
    trainer = build_trainer(request)
    if request["training"]:
        return trainer.forward_backward
    return lambda batch: trainer.model_inference(batch["img"])


def main() -> None:
    """Read a case, then do a step for each line of stdin; write JSON lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the checkout prints
    request = json.loads(sys.stdin.readline())
    device = request["device"]
    torch.set_num_threads(request["threads"])
    enter(request["checkout"], device, request["precision"])
    torch.manual_seed(0)
    work = built_step(request)
    size = request["batch"], 3, request["resolution"], request["resolution"]
    labels = torch.arange(request["batch"]) % len(request["names"])
    inputs = {"img": torch.randn(size), "label": labels, "domain": labels}
    batch: dict = {name: value.to(device) for name, value in inputs.items()}
    Image.new("RGB", (1, 1)).save("image.png")  # in the temporary folder; ALIGN's code opens it
    batch["impath"] = ["image.png"] * len(labels)

    def step() -> None:
        with torch.set_grad_enabled(request["training"]):
            work(batch)

    def answer(**values) -> None:
        print(json.dumps(values), file=answers, flush=True)

    step()  # which may keep text features
    with Operations() as counter:
        step()
    answer(operations=counter.total)
    for _ in sys.stdin:
        seconds, processor = seconds_of(step, device)
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mib = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else kib / 2**10
        answer(seconds=seconds, processor_seconds=processor, peak_mib=mib)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    main()
