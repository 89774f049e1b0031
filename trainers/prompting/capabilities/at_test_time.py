"""The base of methods that adapt to test images: to views of each, or to those before it."""

from ..method import Method


class AtTestTime(Method):
    """A method whose `predict` gets views of each test image, or that learns from their stream.

    The state that a stream fills is not persistent.

    Attributes: Class attributes
        test_views: number of views of each test image that `predict` gets, as a list with the plain
            one first; the others are random crops and flips. May be a property.
        test_augmix: True if these views are mixed by AugMix on top. May be a property.
        stream: True if predictions depend on the test images before; their order is then drawn from
            the seed of the run. May be a property.

    Examples:
        >>> class OfViews(AtTestTime):
        ...     test_views = 8
        ...     def predict(self, images):
        ...         outputs = [self.output(view) for view in images]
        ...         return outputs[0]._replace(logits=sum(o.logits for o in outputs) / 8)
    """

    test_views: int = 1
    test_augmix: bool = False
    stream: bool = False

    def reset(self) -> None:
        """Empty what a stream of test images has filled; called before each evaluation."""


def count_views(method: Method) -> int:
    """Return the number of views of a test image that a method's `predict` gets."""
    return method.test_views if isinstance(method, AtTestTime) else 1


def learns_from_stream(method: Method) -> bool:
    """Return True if predictions of a method depend on the test images before."""
    return isinstance(method, AtTestTime) and method.stream


def adapts(method: Method) -> bool:
    """Return True if predictions depend on random views of an image, or on the images before it."""
    return learns_from_stream(method) or count_views(method) > 1


def reset(method: Method) -> None:
    """Empty what a stream of test images has filled in a method."""
    if isinstance(method, AtTestTime):
        method.reset()
