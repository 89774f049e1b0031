"""The base of methods that train on all training images in one augmented view at a time."""

from typing import Protocol

import torch

from .on_support import OnSupport


class ViewFeatures(Protocol):
    """The features (n, D) of all n training images, by the number of the view."""

    def __len__(self) -> int: ...

    def __getitem__(self, view: int, /) -> torch.Tensor: ...


class OneView(OnSupport):
    """A method with one step an epoch, on the features of all training images in one view.

    Epoch e, from 1, takes view e mod V of V = `support_passes`. In a run a view is encoded when an
    epoch reads it, and kept only if the method searches.
    """

    trains_on_support = True

    def take_views(self, views: ViewFeatures, labels: torch.Tensor) -> None:
        """Take the V views of the training images, with labels (n,), before the first step."""
