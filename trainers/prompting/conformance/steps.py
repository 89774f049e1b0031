"""Checks of training steps: gradients, terms of the loss, devices."""

import gc
import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

from ..contract import tensors_below
from ..errors import UserError
from ..method import Batch, Method
from .findings import Note, Skipped, Slow
from .meta import step_on_meta
from .short import ShortRun

NOTES = ("No gradient reaches", "No gradient comes from")  # what a run prints about its first step
LARGEST = 20  # of a first loss, in units of that of equal logits, ln K
SCALE = 65_536.0  # of a loss: the largest that half precision takes
CERTAIN = 20.0  # a logit beside which others do not count
ROUNDING = 1e-2  # of gradients, relative to the largest


def needs_training(run: ShortRun) -> None:
    """Skip a check of steps for a method that trains nothing."""
    if not run.trainer.num_trained:
        raise Skipped("it trains nothing")


def check_gradients(run: ShortRun) -> None:
    """Gradients reach what is learned, and nothing else.

    Finds a term of a loss that is detached.
    """
    notes = [line for line in run.printed.splitlines() if line.startswith(NOTES)]
    if notes:
        raise UserError(notes[0])
    own = run.method.learned()
    stopped = [name for name, p in own.items() if not p.requires_grad]
    if stopped and len(list(run.method.stages())) == 1:
        raise UserError(
            f"'{stopped[0]}' no longer requires a gradient after the training, so that its last "
            "steps have not trained it: freeze parameters in `build`, or name them in `stages`"
        )
    learned = {id(p) for p in own.values()}
    for place, value in tensors_below(run.method):
        if value.is_leaf and value.grad is not None and id(value) not in learned:
            raise UserError(f"'{place}' has a gradient but is not learned: detach what it enters")


def check_first_loss(run: ShortRun) -> None:
    """The first loss is not far above that of equal logits.

    Finds cosines that are multiplied by the scale twice.
    """
    needs_training(run)
    most = LARGEST * math.log(run.method.num_classes)
    if float(run.losses[0]) > most:
        raise UserError(
            f"The first loss is {float(run.losses[0]):.3g}, above {most:.3g} (20 ln K): logits may "
            "have the scale twice, or a term needs a smaller weight"
        )


def check_terms(run: ShortRun) -> None:
    """All terms with a gradient are in the `loss` that is minimised.

    Finds `{"loss": ce, "far": far}`.
    """
    needs_training(run)
    if type(run.method).backward is not Method.backward:
        raise Skipped("it takes terms by itself (`backward`)")
    parts = run.in_step(lambda method, output, batch: method.loss(output, batch))
    if not (isinstance(parts, dict) and "loss" in parts and parts["loss"].requires_grad):
        return
    learn = {key: x for key, x in parts.items() if key != "loss" and x.requires_grad}
    reached = torch.autograd.grad(
        parts["loss"], [*learn.values()], allow_unused=True
    ) if learn else ()  # fmt: skip
    for key, gradient in zip(learn, reached, strict=True):
        if gradient is None:
            raise UserError(
                f"The term '{key}' has a gradient, but `loss` is not computed from it: add "
                "that tensor to `loss`, or `detach` it if it is only shown"
            )


def check_scale(run: ShortRun) -> None:
    """Gradients follow the scale of the loss, up to that of half precision.

    Finds `clip_grad_norm_` of scaled gradients in `backward`.
    """
    needs_training(run)
    batch = run.step_batch()
    once, more = (torch.cat([g.flatten() for g in run.step(batch, s)]) for s in (1.0, SCALE))
    if not (SCALE * once - more).abs().max() <= ROUNDING * more.abs().max():
        raise UserError(
            "`backward` does not multiply gradients by its scale, without which those of half "
            "precision vanish: call `scale(loss).backward()` for each loss, and change gradients "
            "only in ways that do not depend on their size"
        )


def check_freed(run: ShortRun) -> None:
    """A step frees its images.

    Finds a list of the images of all steps.
    """
    needs_training(run)
    given, places = run.step_batch(), []
    for _ in range(2):  # a method may keep those of the last step
        views = [view.clone() for view in given.views]
        places.append([StorageWeakRef(view.untyped_storage()) for view in views])
        run.step(given._replace(views=views))
        del views
    if not all(place.expired() for place in places[0]):
        gc.collect()
    if not all(place.expired() for place in places[0]):
        raise UserError(
            "The images of a step are kept after the next one, so that memory grows or is twice "
            "as large: `detach` what the method keeps, or leave it out"
        )


def check_labels(run: ShortRun) -> None:
    """The loss falls where the logit of the label rises, also from a wrong and certain one.

    Finds labels that are shifted by one, and a softmax before the cross-entropy.
    """
    needs_training(run)
    if run.method.unlabelled:
        raise Skipped("its images have no labels (`unlabelled`)")

    def slopes(method: Method, output: Any, batch: Batch) -> list[torch.Tensor | None]:
        right = batch.labels[:, None]
        wrong = CERTAIN * F.one_hot((batch.labels + 1) % method.num_classes, method.num_classes)
        found = []
        for logits in (output.logits, wrong.float().requires_grad_()):
            total, gradient = method.terms(output._replace(logits=logits), batch)["loss"], None
            if logits.requires_grad and total.requires_grad:
                (gradient,) = torch.autograd.grad(
                    total, logits, allow_unused=True, retain_graph=True
                )
            found.append(None if gradient is None else gradient.gather(1, right))
        return found

    usual, certain = run.in_step(slopes)
    if usual is None or not usual.any():
        raise Skipped("its loss does not read the logits")
    if (usual < 0).sum() < (usual > 0).sum():  # of a hinge, most may be 0
        raise UserError(
            "The loss rises with the logits of the labels: compare logits (B, K) with "
            "`batch.labels`, as they are"
        )
    if certain is not None and certain.abs().max() * len(certain) < 1e-3:
        raise Note(
            "The loss hardly changes for images that are classified wrongly with certainty: "
            "`F.cross_entropy` takes logits, not probabilities"
        )


def check_mean(run: ShortRun) -> None:
    """The loss is a mean over the images of a batch.

    Finds `reduction="sum"`.
    """
    needs_training(run)
    batch = run.step_batch()
    index = None if batch.index is None else torch.cat([batch.index] * 2)
    twice = Batch([torch.cat([x, x]) for x in batch.views], torch.cat([batch.labels] * 2), index)
    once, both = (
        float(run.in_step(lambda m, output, b: m.terms(output, b)["loss"], b).detach())
        for b in (batch, twice)
    )
    if 1.9 < both / once < 2.1:
        raise Note(
            "The loss is a sum over the images of a batch, so that OPTIM.LR depends on "
            "DATALOADER.TRAIN_X.BATCH_SIZE: take the mean"
        )


def check_used(run: ShortRun) -> None:
    """What is trained enters the evaluation.

    Finds text features that `build` computes, or that are kept from an evaluation before.
    """
    needs_training(run)
    if run.before is None:
        raise Skipped("it predicts nothing before its training")
    if run.before.equal(run.predict(run.validation)):
        raise UserError(
            "Logits of evaluations are the same before and after the training, so that they do "
            "not depend on what it trains: compute them from the contexts and parameters of now"
        )


def check_devices(run: ShortRun) -> None:
    """A step reads no value, and mixes no devices.

    Finds `.item()`, and tensors that are made on the CPU.
    """
    method, clip_model = deepcopy((run.method, run.trainer.clip_model))
    try:
        step_on_meta(method, clip_model, run.step_batch())
    except (NotImplementedError, RuntimeError) as error:
        why = " ".join(str(error).split())[:150]
        if "two devices" in why:
            raise UserError(
                f"A step mixes devices ({why}): make tensors on the device of the images"
            ) from error
        raise Slow(
            f"A step reads the value of a tensor, for which an accelerator must wait ({why}): "
            "compute with tensors"
        ) from error
