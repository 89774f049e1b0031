"""The steps of an epoch: how many, their loader, and those that a method plans (`Planned`)."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from yacs.config import CfgNode

from ..capabilities.planned import Planned
from ..capabilities.unlabelled import Unlabelled
from ..errors import need
from ..method import Batch, Method
from .attacks import attacked_steps
from .loaders import GeneratedLoader, SeededImages, loader_like
from .schedule import steps


def check_planned(kind: type[Method], optim: CfgNode) -> None:
    """Refuse what needs to know the number of steps, for a method that plans them."""
    need(
        not issubclass(kind, Planned) or not (optim.STEPS or optim.LR_BY_STEP),
        f"{kind.__name__} plans the steps of each epoch when it begins, so nothing can be counted "
        "in steps: set OPTIM.MAX_EPOCH, and leave out OPTIM.STEPS and OPTIM.LR_BY_STEP",
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
    """Return the rows of each step of a plan, as lists, for n training images.

    Examples:
        >>> check_plan([torch.tensor([2, 0]), [1]], 3, "CoOp")
        [[2, 0], [1]]
    """
    steps: list[list[int]] = [torch.as_tensor(rows).tolist() for rows in plan]
    flat = [row for rows in steps for row in rows]
    need(
        all(steps) and {*map(type, flat)} == {int} and 0 <= min(flat) <= max(flat) < n,
        f"`plan_epoch` of {name} must return the rows of each step, at least one, as whole numbers "
        f"from 0 to {n - 1:,}",
    )
    return steps
