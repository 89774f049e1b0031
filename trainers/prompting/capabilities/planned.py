"""The base of methods that choose which images each step of an epoch sees."""

from collections.abc import Iterable, Sequence

import torch

from ..method import Batch, Method


class Planned(Method):
    """Base of methods that plan the steps of each epoch; to inherit from first.

    Epochs may have different numbers of steps, so trainings are counted in epochs.

    Examples:
        >>> class Halves(Planned):
        ...     def plan_epoch(self, epoch, last, batches):
        ...         rows = torch.cat([batch.index for batch in batches])
        ...         return rows.chunk(2)
    """

    def plan_epoch(
        self, epoch: int, last: int, batches: Iterable[Batch]
    ) -> Sequence[Sequence[int] | torch.Tensor] | None:
        """Return the rows of the training set that each step sees, in order.

        Called before each epoch, also when a run resumes, in evaluation mode and without gradient.

        Args:
            epoch: its number, from 1.
            last: that of the last one.
            batches: the training set once, in order, in batches of the run's size, the last of
                which may be smaller; augmentations depend on the seed of the run and the epoch
                only. It is read if this is iterated.

        Returns:
            For each step its rows (b,), of any length; None takes the order of the loader. `loss`
            finds them in `batch.index`.
        """
        raise NotImplementedError
