"""Adds methods to the registry, under the names that `--trainer` takes."""

from .capabilities import CAPABILITIES
from .contract import check_class
from .errors import UserError
from .method import METHODS, Method


def register(cls: type[Method]) -> type[Method]:
    """Add a method to the registry, under the name of its class.

    Raises:
        UserError: another method has the same name, or its `Settings` is not a dataclass, or as
            `check_class`.

    Examples:
        >>> import torch.nn.functional as F
        >>> from trainers.prompting.methods.coop import CoOp
        >>> @register
        ... class Softened(CoOp):
        ...     def loss(self, output, batch):
        ...         return F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1)
        >>> METHODS["Softened"].node
        'COOP'
    """
    name = cls.__name__
    other = METHODS.get(name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, name):
        raise UserError(
            f"{cls.__module__} registers a method '{name}', but {other.__module__} has registered "
            "that name: rename the class"
        )
    if "__dataclass_fields__" not in vars(cls.Settings):  # not those inherited from its base
        raise UserError(
            f"`Settings` of {name} is not a dataclass: put @dataclass(frozen=True) above it, and "
            "@register above the method"
        )
    check_class(cls, Method, CAPABILITIES)
    METHODS[name] = cls
    return cls
