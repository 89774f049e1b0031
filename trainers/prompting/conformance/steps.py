"""Checks of how a method is built, and of single steps of it."""

import gc
import math
import random
from copy import deepcopy
from typing import Any

from ..errors import UserError

LARGEST = 20  # of a first loss, in units of that of equal logits, ln K
TEMPERATURES = 0.2, 20.0  # the usual ones, of validation images
SCALE = 4.0  # of a loss


class Skipped(Exception):
    """Says why a check does not concern a method."""


def check_clip(run: Any) -> None:
    """CLIP's weights, logit scale and normalisation are as they were loaded."""
    from ..backbones import family_of, load_clip

    method, own = run.method, run.trainer.clip_model.state_dict()
    fresh = load_clip(run.trainer.cfg.MODEL.BACKBONE.NAME)
    for name, value in fresh.state_dict().items():
        if name not in own or not value.to(own[name]).equal(own[name]):
            raise UserError(
                f"It has changed '{name}' of CLIP, which other methods and teachers share: return "
                "additions from `blocks`, or change a deepcopy"
            )
    scale = fresh.logit_scale.detach().exp()
    given = getattr(method.settings, "SCALE", 0)
    if "logit_scale" in dict(method.named_parameters()) or not (
        given or method.logit_scale.isclose(scale)
    ):
        raise UserError(
            "It has replaced `logit_scale`, of which checkpoints hold nothing: change it with "
            "`set_scale` by a key SCALE, or learn a parameter of another name"
        )
    if (method.mean, method.std) != family_of(fresh)[1:3]:
        raise UserError(
            "It has replaced `mean` or `std`, but images are normalised by those of the CLIP: set "
            "INPUT.PIXEL_MEAN and INPUT.PIXEL_STD"
        )


def check_seeds(run: Any) -> None:
    """Random numbers after `build` are those of the run's seed."""
    import numpy as np
    import torch

    from ..trainer.config import make
    from ..trainer.support_set import seeded

    trainer, states = run.trainer, []
    names, dataset = trainer.dm.dataset.classnames, trainer.cfg.DATASET.NAME
    for seed in (1, 2):
        with seeded(seed):
            make(type(run.method), run.method.settings, trainer.clip_model, names, dataset)
            states.append(
                {
                    "PyTorch": torch.get_rng_state().numpy().tobytes(),
                    "NumPy": np.random.get_state(legacy=False)["state"]["key"].tobytes(),
                    "Python": random.getstate(),
                }
            )
    if same := [name for name, state in states[0].items() if state == states[1][name]]:
        raise UserError(
            f"After `build` the random numbers of {same[0]} are the same for all seeds of runs: "
            "draw from a generator of your own, torch.Generator().manual_seed(n)"
        )


def check_first_loss(run: Any) -> None:
    """The first loss is not far above that of equal logits."""
    if not run.losses:
        raise Skipped("it trains nothing")
    most = LARGEST * math.log(run.method.num_classes)
    if float(run.losses[0]) > most:
        raise UserError(
            f"The first loss is {float(run.losses[0]):.3g}, above {most:.3g} (20 ln K): logits may "
            "have the scale twice, or a term needs a smaller weight"
        )


def check_steps(run: Any) -> None:
    """A step reaches all terms of its loss, follows their scale, and frees its images."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    from ..running.memory import State
    from ..trainer.support_set import seeded

    if not run.trainer.num_trained:
        raise Skipped("it trains nothing")
    method, given = run.method, _batch(run)
    places, gradients = [], []
    for scale in (1.0, SCALE):
        views = [view.clone() for view in given.views]
        places.append([StorageWeakRef(view.untyped_storage()) for view in views])
        state, start = State(method), {p: p.detach().clone() for p in method.learned().values()}
        method.zero_grad()
        try:
            with seeded(0):
                _backward(run, given._replace(views=views), scale)
        finally:
            method.eval()
        state.restore()
        for p, value in start.items():  # `backward` may set them, as that of HiCroPL does
            p.data.copy_(value)
        del views
        kept = [p.grad.clone() for p in method.learned().values() if p.grad is not None]
        gradients.append(torch.cat([x.flatten() for x in kept]))
        method.zero_grad()
    once, more = gradients
    if not (SCALE * once - more).abs().max() <= 1e-2 * more.abs().max():
        raise UserError(
            "`backward` does not multiply gradients by its scale, without which those of half "
            "precision vanish: call `scale(loss).backward()` for each loss"
        )
    if not all(place.expired() for place in places[0]):
        gc.collect()
    if not all(place.expired() for place in places[0]):
        raise UserError(
            "The images of a step are kept after the next one, so that memory grows or is twice "
            "as large: `detach` what the method keeps, or leave it out"
        )


def _batch(run: Any) -> Any:
    return run.trainer.batch_of(next(iter(run.trainer.train_loader_x)))


def _backward(run: Any, batch: Any, scale: float) -> None:
    """Write the gradients of a scaled loss, and refuse terms that `loss` leaves out."""
    import torch

    from ..method import Method

    method = run.method.train()
    with run.trainer.precision.autocast():
        output = method.output(batch.images)
        parts = method.loss(output, batch)
        own = type(method).backward is not Method.backward  # it may take terms by themselves
        if not own and isinstance(parts, dict) and "loss" in parts and parts["loss"].requires_grad:
            learn = {key: x for key, x in parts.items() if key != "loss" and x.requires_grad}
            reached = torch.autograd.grad(
                parts["loss"], [*learn.values()], retain_graph=True, allow_unused=True
            ) if learn else ()  # fmt: skip
            for key, gradient in zip(learn, reached, strict=True):
                if gradient is None:
                    raise UserError(
                        f"The term '{key}' has a gradient, but `loss` is not computed from it: add "
                        "that tensor to `loss`, or `detach` it if it is only shown"
                    )
        terms = method.terms(output, batch)
    method.backward(terms, lambda loss: scale * loss)


def check_temperature(run: Any) -> None:
    """Its logits have the scale of logarithms of probabilities."""
    import torch

    from ..capabilities.transductive import Transductive
    from ..trainer.evaluation import fit_temperature

    trainer, method = run.trainer, run.method
    if method.adapts or isinstance(method, Transductive):
        raise Skipped("it adapts to the test images")
    if trainer.validation is None:
        raise Skipped("there are no validation images")
    if method.searches:
        raise Skipped("it chooses settings by its accuracy on the validation images")
    logits, labels = [], []
    for batch in trainer.validation:  # one image of each class
        images, label = trainer.parse_batch_test(batch)
        with torch.no_grad(), trainer.precision.autocast():
            logits.append(method.predict(images).logits.double())
        labels.append(label)
    found = fit_temperature(torch.cat(logits).cpu().numpy(), torch.cat(labels).cpu().numpy())
    low, high = TEMPERATURES
    if not low <= found <= high:
        raise UserError(
            f"The temperature that fits its logits is {found:.2g}, not between {low} and {high:g}: "
            "multiply cosines by `logit_scale`, once"
        )


def check_devices(run: Any) -> None:
    """A step reads no value, and mixes no devices."""
    from .meta import step_on_meta

    trainer = run.trainer
    method, clip_model = deepcopy((run.method, trainer.clip_model))
    try:
        step_on_meta(method, clip_model, _batch(run))
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"A step reads the value of a tensor, for which an accelerator must wait, or mixes "
            f"devices ({' '.join(str(error).split())[:150]}): compute with tensors, made on the "
            "device of the images"
        ) from error
