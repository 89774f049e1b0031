"""The base of methods that learn something for each class, or for each training image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import nn

from ..checkpoint.saved import Saved
from ..errors import need
from ..method import Method


class PerClass(Method):
    """A method with tensors that belong to the classes or images of its training.

    Attributes:
        class_rows: names of the parameters and buffers that have a row for each class. With them a
            method needs neither `make_room` nor `keep_classes`.
        own_classes: None if the method does not need it. A method that treats the classes of its
            training differently sets True in the class; loading a checkpoint for other classes
            then sets it to False.

    Examples:
        >>> class Prior(PerClass):
        ...     class_bound = True
        ...     def build(self, clip_model, classnames, dataset):
        ...         self.prior = nn.Parameter(torch.zeros(len(classnames)))
        ...     def make_room(self, n):
        ...         self.prior.data = self.prior.data[: self.num_classes if n else 0]
        ...     def keep_classes(self, index):
        ...         self.prior.data = self.prior.data[index]
    """

    class_rows: tuple[str, ...] = ()
    own_classes: bool | None = None

    @property
    def _num_rows(self) -> int:
        """The number of classes that the tensors are of, as a loaded checkpoint decides it."""
        return len(attrgetter(self.class_rows[0])(self)) if self.class_rows else self.num_classes

    def _change_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for name in self.class_rows:
            place, _, leaf = name.rpartition(".")
            module = attrgetter(place)(self) if place else self
            x = getattr(module, leaf)
            if isinstance(x, nn.Parameter):
                x.data = change(x.data)
            else:
                setattr(module, leaf, change(x))

    def make_room(self, n: int) -> None:
        """Resize the tensors that `take_support` fills to n training images.

        Called before an optimiser is made and, with 0, before a checkpoint is loaded: a parameter
        or buffer without elements takes its size from the checkpoint.
        """
        K = self.num_classes if n else 0
        self._change_rows(lambda x: x if len(x) == K else x.new_zeros(K, *x.shape[1:]))

    def keep_classes(self, index: Sequence[int]) -> None:
        """Reduce what a loaded checkpoint has for each of its classes to the method's classes.

        A `class_bound` method that overrides this accepts checkpoints that have more classes. Item
        i of the index is the number of class i among those of the checkpoint.
        """
        self._change_rows(lambda x: x[index])

    def other_classes(self, saved, classnames):
        """Return True if classes are not those of a checkpoint, nor a part that is kept of them."""
        some = self._numbers_of(saved, classnames)
        return super().other_classes(saved, classnames) and len(some) < len(classnames)

    def load_checkpoint(self, checkpoint: Saved, classnames: Sequence[str]) -> None:
        """Load as every method does, and keep what is of these classes."""
        others = self.check_classes(checkpoint.classnames, classnames)
        self.make_room(0)
        super().load_checkpoint(checkpoint, classnames)
        if self.own_classes is not None:
            self.own_classes = not others
        if some := self._numbers_of(checkpoint.classnames, classnames):
            self.keep_classes(some)
        need(
            self._num_rows == len(classnames),
            f"The checkpoint is of {self._num_rows} classes, but there are {len(classnames)}: use "
            "it only on the classes of its training",
        )

    def _numbers_of(self, saved: Sequence[str] | None, classnames: Sequence[str]) -> list[int]:
        """Return for each class that is kept its number in the checkpoint; none if all are."""
        keeps = self.class_rows or type(self).keep_classes is not PerClass.keep_classes
        if saved is None or list(saved) == list(classnames) or not keeps:
            return []
        return [k for k in places(classnames, saved) if k >= 0]


@contextmanager
def scored_as_others(method: Method) -> Iterator[bool]:
    """Score the classes of the training as others; yields False if that makes no difference."""
    own = isinstance(method, PerClass) and method.own_classes
    if isinstance(method, PerClass) and own:
        method.own_classes = False
    try:
        yield bool(own)
    finally:
        if isinstance(method, PerClass) and own:
            method.own_classes = True


def make_room(method: Method, n: int) -> None:
    """Let a method resize what it has for n training images."""
    if isinstance(method, PerClass):
        method.make_room(n)


def places(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """Return the number of each class among the classes of a checkpoint, from 0; -1 if it is none.

    If the names follow each other there in the same order, as those of base and new classes do, it
    is by position, so that two classes of one name stay apart; else the first of a name counts.

    Examples:
        >>> places(["cat", "dog"], ["dog", "cat", "dog"])
        [1, 2]
        >>> places(["dog", "owl"], ["dog", "cat", "dog"])
        [0, -1]
    """
    names, among = list(names), list(among)
    for start in range(len(among) - len(names) + 1):
        if among[start : start + len(names)] == names:
            return [*range(start, start + len(names))]
    number = {name: k for k, name in reversed([*enumerate(among)])}
    return [number.get(name, -1) for name in names]
