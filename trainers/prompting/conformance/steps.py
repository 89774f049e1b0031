"""Checks of training steps: gradients, terms of the loss, rows, labels."""

from typing import Any

import torch
import torch.nn.functional as F

from ..capabilities.staged import stages_of
from ..capabilities.unlabelled import Unlabelled
from ..errors import UserError
from ..method import Batch, Method
from .findings import FAR, Note, Skipped, apart
from .short import ShortRun

NOTES = ("No gradient reaches", "No gradient comes from")  # what a run prints about its first step
STEEP = 3.0  # of the slope of a loss; that of cross-entropy is 1
SCALE = 65_536.0  # of a loss: the largest that half precision takes
APART = 3.0  # times as far from the logits of its own row as from those of another
CERTAIN = 20.0  # a logit beside which others do not count
ROUNDING = 1e-2  # of gradients, relative to the largest


def needs_training(run: ShortRun) -> None:
    """Skip a check of steps for a method that trains nothing."""
    if not run.trainer.num_trained:
        raise Skipped("it trains nothing")


def check_gradients(run: ShortRun) -> None:
    """Gradients reach what is learned.

    Finds a term of a loss that is detached.
    """
    notes = [line for line in run.printed.splitlines() if line.startswith(NOTES)]
    if notes:
        raise UserError(notes[0])
    stopped = [name for name, p in run.method.learned().items() if not p.requires_grad]
    if stopped and len(stages_of(run.method)) == 1:
        raise UserError(
            f"'{stopped[0]}' no longer requires a gradient after the training, so that its last "
            "steps have not trained it: freeze parameters in `build`, or name them in `stages`"
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
            "precision vanish: call `scale(loss).backward()` for each loss, change gradients only "
            "in ways that do not depend on their size, and clip them by OPTIM.CLIP_NORM"
        )


def check_labels(run: ShortRun) -> None:
    """The loss falls where the logit of the label rises, also from a wrong and certain one.

    Finds labels that are shifted by one, a softmax before the cross-entropy, and the scale once
    more there.
    """
    needs_training(run)
    if isinstance(run.method, Unlabelled):
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
    slope = 0.0 if certain is None else float(certain.abs().max()) * len(certain)
    if slope > STEEP and _is_sum(run):
        slope /= len(certain)
    if slope > STEEP:
        raise UserError(
            f"The loss changes {slope:.3g} times as much with a logit as cross-entropy does: give "
            "it the logits as they are, without `logit_scale` once more, and a weight near 1"
        )


def _is_sum(run: ShortRun) -> bool:
    """Return True if the loss of a batch is half of that of the batch twice."""
    batch = run.step_batch()
    once, both = (
        float(run.in_step(lambda m, output, b: m.terms(output, b)["loss"], b).detach())
        for b in (batch, _rows(batch, torch.arange(len(batch.images)).repeat(2)))
    )
    return 1.9 < both / once < 2.1


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    """Return the images of a batch in other rows, with their labels, if they have any."""
    labels, index = batch.labels, batch.index
    labels = labels[rows] if len(labels) else labels
    return Batch([x[rows] for x in batch.views], labels, None if index is None else index[rows])


def check_rows(run: ShortRun) -> None:
    """Images of a step have the logits of their own row.

    Finds features of a step that are permuted against the labels.
    """
    needs_training(run)
    batch = run.step_batch()
    rows = torch.arange(len(batch.images))
    rows[:3] = rows[:3].roll(1)  # with which neither `flip` nor `roll` commutes
    usual, drawn, moved = (
        run.in_step(lambda m, output, b: output.logits.detach(), *how)
        for how in ((batch, 0), (batch, 1), (_rows(batch, rows), 0))
    )
    distances = torch.cdist(moved, usual)
    if distances.isnan().any():
        raise Skipped("logits of its steps are not numbers")
    own = distances.gather(1, rows[:, None])[:, 0]  # not 0 with dropout
    if apart(usual[rows], [moved]) > FAR and (own > APART * distances.amin(1)).any():
        by_chance = apart(usual, [drawn]) > FAR  # as where images are mixed
        raise (Note if by_chance else UserError)(
            "Images of a step that come in another order have the logits of other ones: keep the "
            "rows of a batch, which are those of `batch.labels`, in their order"
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


def check_unchanged(run: ShortRun) -> None:
    """The training changes all that is learned.

    Finds two factors of an update that both begin with zeros.
    """
    needs_training(run)
    for name, p in run.method.learned().items():
        if name in run.start and run.start[name].equal(p):
            raise UserError(
                f"'{name}' is after the training what it was before: its gradient is 0, as where "
                "both factors of a product begin with zeros, or `after_step` sets it back"
            )


def check_evaluated(run: ShortRun) -> None:
    """What is learned enters the logits of evaluations.

    Finds a weight that is used in training only.
    """
    needs_training(run)
    method = run.for_classes(run.trainer.dm.dataset.classnames)  # whose buffers may get a graph
    last = [name for name, p in run.method.learned().items() if p.requires_grad]  # of its stage
    own = {name: method.learned()[name] for name in last}
    try:
        total = method.predict(run.batches[0]).logits.sum()
        found = torch.autograd.grad(total, [*own.values()], allow_unused=True)
    except RuntimeError:
        raise Skipped("its evaluations compute without gradients") from None
    idle = [name for name, gradient in zip(own, found, strict=True) if gradient is None]
    if idle:
        raise Note(
            f"Logits of evaluations do not depend on '{idle[0]}', which is learned: use it there, "
            "too, unless only the loss is to read it"
        )
