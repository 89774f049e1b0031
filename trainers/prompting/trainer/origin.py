"""Where what is evaluated comes from, for records: initial weights, and images of the training."""

from collections.abc import Mapping
from typing import Any

from ..method import Method
from ..storage.trained import FACTS, UNKNOWN, Trained

Facts = dict[str, Any]


def start_of(path: str, public: bool) -> Facts:
    """Return the facts about the training whose weights MODEL.INIT_WEIGHTS names.

    Args:
        path: its value.
        public: True for files of public code, which say nothing of their training.
    """
    if public:
        return dict.fromkeys(("method", "backbone", *FACTS), UNKNOWN) | {"place": path}
    return Trained(path, "MODEL.INIT_WEIGHTS", "name a checkpoint").facts()


def drawn_for(dataset: Any, method: Method) -> Facts | None:
    """Return what label noise and imbalance have changed for a method, in numbers of images.

    For a method that reads no labels of training images, that is nothing.

    Returns:
        `images`, `wrong_labels`, `left_out`; None without noise and imbalance.
    """
    drawn: Facts | None = getattr(dataset, "drawn", None)
    trains = type(method).trains and not type(method).unlabelled
    return drawn if drawn is None or trains or method.support_passes else dict.fromkeys(drawn, 0)


def facts_in(checkpoint: Mapping[str, Any], name: str) -> Facts | None:
    """Return facts that a checkpoint holds; None if it has none, or something else."""
    facts = checkpoint.get(name)
    if not isinstance(facts, dict) or not all(isinstance(key, str) for key in facts):
        return None
    return facts if all(isinstance(fact, str | int | float) for fact in facts.values()) else None
