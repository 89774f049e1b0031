"""Steps of published code that has loops of its own in place of Dassl's trainers.

It imports nothing of this repository, since modules of a checkout have the same names as ours. The
loops are the checkout's functions, called with one batch.
"""

from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from types import SimpleNamespace

import torch
from public_code import give_weights  # type: ignore[import-not-found]  # in this folder

Step = Callable[[dict], object]
VIEWS = 64  # TPT's batch: views of one image


def tpt(request: dict) -> Step:
    """Return the adaptation to each image of a batch, and its prediction."""
    code = import_module("tpt_classification")  # of the checkout
    give_weights(request["weights"])
    torch.jit.load = archive  # type: ignore[assignment]  # its CLIP cannot read plain weights
    args = Namespace(
        tpt=True, cocoop=False, tta_steps=1, lr=5e-3, selection_p=0.1, gpu=request["device"],
        print_freq=VIEWS,
    )  # fmt: skip
    model = code.get_coop("ViT-B/16", "DTD", request["device"], 4, "a_photo_of_a")
    model.reset_classnames(request["names"], "ViT-B/16")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("prompt_learner" in name)
    optim = torch.optim.AdamW(model.prompt_learner.parameters(), args.lr)
    start = deepcopy(optim.state_dict())
    scaler = torch.amp.GradScaler("cuda", init_scale=1000)

    def step(batch: dict) -> None:
        images = batch["img"].split(1), batch["label"].split(1)
        loader = [([image] * VIEWS, label) for image, label in zip(*images, strict=True)]
        with torch.enable_grad():
            code.test_time_adapt_eval(loader, model, None, optim, start, scaler, args)

    return step


def two_sfs(request: dict) -> Step:
    """Return a step of the first stage, on LayerNorms, or an evaluation after the second."""
    clip, code = import_module("clip"), import_module("fs.twostage")  # of the checkout
    give_weights(request["weights"])
    device, names, template = request["device"], request["names"], "a photo of a {}."
    code.tokenize_texts.__defaults__ = (device,)  # its classifier leaves it at `cuda`
    vars(code)["cls_acc"] = accuracy  # its own needs an older NumPy
    model, _ = clip.load("ViT-B/16", device)
    model = model.float()  # as its run_twostage
    args = Namespace(peft="ln", ln_modality="both", ln_vision_start=0, ln_text_start=0)
    model, trained = code.prepare_for_first_stage(model, args)
    if not request["training"]:
        classifier = code.SingleStreamClassifier(model, names, template).eval()
        return lambda batch: classifier.infer(batch["img"], names, template)
    optim = torch.optim.AdamW(trained, lr=2e-4, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 1000)
    scaler = torch.amp.GradScaler("cuda")
    texts = code.tokenize_texts(template, names)

    def step(batch: dict) -> None:
        loader = [(batch["img"], batch["label"])]
        code.train_epoch(model, optim, sched, scaler, loader, texts, 0, 1000, args)

    return step


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy in percent."""
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def archive(path: str, **_) -> SimpleNamespace:
    """Return plain weights with what is read of a TorchScript archive."""
    weights = torch.load(path)
    opened = SimpleNamespace(state_dict=lambda: weights)
    opened.eval = lambda: opened
    return opened


LOOPS = {"TPT": tpt, "TwoSFS": two_sfs}
