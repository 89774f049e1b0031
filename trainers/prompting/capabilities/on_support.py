"""The base of methods that take features of the training images before the first step."""

from typing import ClassVar, Protocol

import torch

from ..errors import need
from ..method import Method
from .unlabelled import Unlabelled


class OnSupport(Method):
    """A method that takes the training set as CLIP's features of it, before its first step.

    Attributes: Class attributes
        support_passes: number of times that `take_support` sees each training image; 0 if the
            method takes no support with these settings. May be a property.
        trains_on_support: True if steps take the features of the support instead of images.
        searches: True if `take_validation` is called. May be a property.

    Attributes:
        validation_follows: True in a run that searches: `take_support` may then leave to
            `take_validation` what it would do again.

    Examples:
        >>> class Centred(OnSupport):
        ...     def build(self, clip_model, classnames, dataset):
        ...         self.register_buffer("centre", torch.zeros(self.width))
        ...     def take_support(self, features, labels):
        ...         self.centre.copy_(features[0].mean(0))
    """

    support_passes: int = 1
    trains_on_support: ClassVar[bool] = False
    searches: bool = False
    validation_follows: bool = False

    def take_support(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the training set before the first step; not called if a checkpoint is loaded.

        Args:
            features: (passes, n, D), float32, of CLIP's image encoder, not normalised; each pass
                sees other augmentations.
            labels: (n,), or (n, K) if images have several.
        """

    def take_validation(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take features (n, D) of the validation images, not augmented, after the last step.

        Labels are (n,).
        """

    def need_support(self, taken: object) -> None:
        """Raise a `UserError` if the method has not taken its support."""
        need(
            taken,
            f"{type(self).__name__} has seen no training images: train it, load a run of it "
            "(--model-dir), or pass the images to `build_method` as `support`",
        )

    def need_each_class(self, labels: torch.Tensor, least: int = 1) -> None:
        """Raise a `UserError` if a class has fewer than `least` of the labels (n,)."""
        counts = labels.bincount(minlength=self.num_classes).tolist()
        few = [k for k, count in enumerate(counts) if count < least]
        need(
            not few,
            f"The class '{few and self.training_classnames[few[0]]}' has too few training images "
            f"for {type(self).__name__}: add some, or leave the class out",
        )


class Mirrored(OnSupport):
    """A method with a support of plain images; in every second pass they are mirrored.

    Its configs have INPUT.TRANSFORMS without random ones. Rows of features cannot be mirrored, so
    a run on them has one pass.
    """


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


def count_passes(method: Method) -> int:
    """Return how often `take_support` of a method sees each training image."""
    return method.support_passes if isinstance(method, OnSupport) else 0


def trains_on_support(kind: type[Method]) -> bool:
    """Return True if steps take the features of the support instead of images."""
    return issubclass(kind, OnSupport) and kind.trains_on_support


def searches(method: Method) -> bool:
    """Return True if a method chooses settings on validation images."""
    return isinstance(method, OnSupport) and method.searches


def reads_labels(method: Method) -> bool:
    """Return True if a method reads labels of training images."""
    trains = type(method).trains and not isinstance(method, Unlabelled)
    return trains or count_passes(method) > 0
