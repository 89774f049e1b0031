"""The base of methods that learn from images without labels."""

from collections.abc import Sequence

from ..method import Method


class Unlabelled(Method):
    """A method whose steps take unlabelled images, of all classes of the data set.

    They are Dassl's `train_u`, in place of labelled ones.

    Examples:
        >>> class Sure(Unlabelled):
        ...     def loss(self, output, batch):
        ...         p = output.logits.softmax(-1)
        ...         return -(p * p.log()).sum(-1).mean()
    """

    def take_classes(self, classnames: Sequence[str]) -> None:
        """Take the names of all classes that the images may show; its own K come first.

        Called when the run is built.
        """

    def _check_batch(self, views, labels):
        if len(views) < self.views or labels.shape != (0,):
            super()._check_batch(views, labels)
