"""A small loop for methods that train on features in memory; it needs no trainer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

Values = Mapping[str, torch.Tensor]  # what is learned, by name


def train(learned: Values, begin: Values, step: Callable[[int], None], steps: int) -> Iterator[int]:
    """Do the steps from the start, and yield the number of each after it, from 1.

    Examples:
        >>> x = torch.nn.Parameter(torch.ones(1))
        >>> step = descent(lambda number: x.square().sum(), torch.optim.SGD([x], lr=0.25))
        >>> [x.item() for _ in train({"x": x}, {"x": torch.ones(1)}, step, 3)]
        [0.5, 0.25, 0.125]
    """
    load(learned, begin)
    for number in range(1, steps + 1):
        step(number)
        yield number


def descent(
    loss: Callable[[int], torch.Tensor], optimizer: torch.optim.Optimizer, schedule: Any = None
) -> Callable[[int], None]:
    """Return a step of an optimiser, and of its schedule, on the loss of a step of this number."""

    @torch.enable_grad()
    def step(number: int) -> None:
        optimizer.zero_grad()
        loss(number).backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()

    return step


def keep_best(
    learned: Values, candidates: Iterable[Any], right: Callable[[], int], last: bool = False
) -> tuple[Any, int]:
    """Keep what is learned for the first best candidate, or the last; return it and its number.

    A candidate is yielded when its values have been learned; `right` counts the validation images
    that are then classified correctly.
    """
    most, best, values = -1, None, dict[str, torch.Tensor]()
    for candidate in candidates:
        count = right()
        if count > most or (last and count == most):
            most, best = count, candidate
            values = {name: p.detach().clone() for name, p in learned.items()}
    load(learned, values)
    return best, most


def load(learned: Values, values: Values) -> None:
    """Set what is learned to these values."""
    for name, p in learned.items():
        p.data.copy_(values[name])
