"""The base of methods that train in stages, or do something between steps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..method import Method


class Stage(NamedTuple):
    """A stage of a training.

    parameters: beginnings of the names of what is learned in it; share: its share of the steps;
    optim: keys of OPTIM that differ from the run's.

    Examples:
        >>> Stage(("adapter.",), share=0.4, optim={"LR": 0.01}).share
        0.4
    """

    parameters: tuple[str, ...] = ("",)
    share: float = 1.0
    optim: Mapping[str, Any] = {}


class Staged(Method):
    """A method that trains in stages, or does something before them or after steps or epochs.

    Examples:
        >>> class TextFirst(Staged):
        ...     def stages(self):
        ...         return Stage(("text.",), share=0.3), Stage(("adapter.",), share=0.7)
    """

    def stages(self) -> Sequence[Stage]:
        """Return the stages of the training."""
        return (Stage(),)

    def begin_stage(self, stage: int) -> None:
        """Do what precedes the first step of a stage, counted from 0; not when a run resumes."""

    def after_step(self) -> None:
        """Do what follows each step of the optimiser, such as an average of what is learned."""

    def after_epoch(self, epoch: int, last: int) -> None:
        """Do what follows the last step of an epoch, 1 to `last`, before it is saved or tested."""


def stages_of(method: Method) -> Sequence[Stage]:
    """Return the stages of a method's training, of which most methods have one."""
    return method.stages() if isinstance(method, Staged) else (Stage(),)


def begin_stage(method: Method, stage: int) -> None:
    """Let a method begin a stage, counted from 0."""
    if isinstance(method, Staged):
        method.begin_stage(stage)


def after_epoch(method: Method, epoch: int, last: int) -> None:
    """Let a method end an epoch, 1 to `last`."""
    if isinstance(method, Staged):
        method.after_epoch(epoch, last)
