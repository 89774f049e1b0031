"""The steps of an epoch: how many, their loader, and those that a method plans (`Planned`)."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from yacs.config import CfgNode

from ..capabilities.on_support import trains_on_support
from ..capabilities.planned import Planned
from ..capabilities.staged import Staged
from ..capabilities.unlabelled import Unlabelled
from ..errors import UserError, need
from ..method import Batch, Method
from .attacks import attacked_steps
from .loaders import GeneratedLoader, SeededImages, loader_like
from .schedule import steps

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_planned(kind: type[Method], optim: CfgNode) -> None:
    """Refuse what needs to know the number of steps, for a method that plans them."""
    if not issubclass(kind, Planned):
        return
    name = kind.__name__
    need(
        not (optim.STEPS or optim.LR_BY_STEP),
        f"{name} plans the steps of each epoch when it begins, so nothing can be counted in steps: "
        "set OPTIM.MAX_EPOCH, and leave out OPTIM.STEPS and OPTIM.LR_BY_STEP",
    )
    staged = issubclass(kind, Staged) and kind.stages is not Staged.stages
    need(
        not (staged or trains_on_support(kind)),
        f"{name} plans the steps of epochs, so it can neither train in stages nor on the features "
        "of its support: leave out `stages` and `trains_on_support`, or `Planned`",
    )


def loader_of_epoch(trainer: Any) -> Any:
    """Return the loader of the steps of an epoch of a `PromptTrainer`.

    They may be planned; the last epoch may have fewer than the others.
    """
    if isinstance(trainer.method, Planned):
        planned = attacked_steps(trainer, planned_loader(trainer))
        trainer.epoch_lengths = [*trainer.epoch_lengths[: trainer.epoch], len(planned)]
        return planned
    before, total = count_steps(trainer)
    if (left := total - before) < trainer.epoch_steps:
        return GeneratedLoader(lambda: islice(trainer.steps, left), left)
    return trainer.steps


def count_steps(trainer: Any) -> tuple[int, int]:
    """Return the steps of a `PromptTrainer` before its epoch, and those of the whole training.

    Planned epochs to come are estimated to be as long as the last one that is known.
    """
    if planned := trainer.epoch_lengths:
        to_come = (trainer.max_epoch - len(planned)) * planned[-1]
        return sum(planned[: trainer.epoch]), sum(planned) + to_come
    n = trainer.epoch_steps
    return trainer.epoch * n, steps(trainer.cfg.OPTIM, n)


def planned_loader(trainer: Any) -> Any:
    """Return the loader of the steps that the method of a `PromptTrainer` plans for its epoch."""
    method, epoch = trainer.method, trainer.epoch + 1
    unlabelled = isinstance(method, Unlabelled)
    loader = trainer.dm.train_loader_u if unlabelled else trainer.dm.train_loader_x
    rng = random.Random(f"{max(trainer.cfg.SEED, 0)} {epoch}")
    order, steps = rng.getrandbits(62), rng.getrandbits(62)
    method.eval()
    with torch.no_grad(), trainer.precision.autocast():
        plan = method.plan_epoch(epoch, trainer.max_epoch, _batches(trainer, loader, order))
    if plan is None:
        return loader
    rows = check_plan(plan, len(loader.dataset), type(method).__name__)
    images = SeededImages(loader.dataset, [row for step in rows for row in step], steps)
    places = torch.arange(len(images)).split([len(step) for step in rows])
    return loader_like(loader, images, batch_sampler=[place.tolist() for place in places])


def _batches(trainer: Any, loader: Any, seed: int) -> Iterator[Batch]:
    """Yield the training set in batches; nothing is read before."""
    images = SeededImages(loader.dataset, range(len(loader.dataset)), seed)
    for batch in loader_like(loader, images, batch_size=trainer.batch_size):
        yield trainer.batch_of(batch)


def check_plan(plan: Iterable[Any], n: int, name: str) -> list[list[int]]:
    """Return the rows of each step of a plan, as lists.

    Args:
        plan: as `plan_epoch` returns it.
        n: number of training images.
        name: of the method.

    Examples:
        >>> check_plan([torch.tensor([2, 0]), [1]], 3, "CoOp")
        [[2, 0], [1]]
    """
    try:
        steps = [torch.as_tensor(rows) for rows in plan]
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"`plan_epoch` of {name} must return the rows of each step, or None: {error}"
        ) from None
    indices = all(rows.dim() == 1 and rows.dtype in WHOLE for rows in steps)
    need(
        indices and steps and all(len(rows) for rows in steps),
        f"`plan_epoch` of {name} must return at least one step, and rows (b,) of each, b at least "
        f"1, as whole numbers, but returns {[tuple(rows.shape) for rows in steps]!s:.60}",
    )
    plan_rows: list[list[int]] = [rows.tolist() for rows in steps]
    least, most = min(map(min, plan_rows)), max(map(max, plan_rows))
    need(
        0 <= least <= most < n,
        f"`plan_epoch` of {name} returns rows from {least} to {most}, but the {n:,} training "
        f"images have rows from 0 to {n - 1:,}",
    )
    return plan_rows
