"""Checks of the learned tokens that enter an encoder; wrong ones would replace other states."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import UserError, need


def check_contexts(
    side: str,
    contexts: Sequence[Tensor],
    layers: int,
    slots: int | None = None,
    class_specific: bool = False,
    untouched: bool = False,
) -> None:
    """Refuse contexts that do not fit an encoder.

    Args:
        side: `text` or `image`.
        contexts: for each depth, (N, b, W), or (N, K, b, W) if they are class-specific.
        layers: blocks of the encoder.
        slots: learned tokens of a sentence; None for images.
        class_specific: True if the encoder takes tokens of each class.
        untouched: True if features without additions are asked for.

    Raises:
        UserError: there are more than blocks, a later one is longer than the first, they have
            other dimensions, or the first has not as many tokens as are learned in a sentence; or
            there are features without them.
    """
    need(
        not untouched,
        "The method has visual prompts, with which the image encoder has no features without them "
        "(`untouched`): take those of a Teacher, `teacher.z(images)`",
    )
    dims = 4 if class_specific else 3
    shapes = [tuple(context.shape) for context in contexts]
    lengths = [shape[-2] for shape in shapes if len(shape) == dims]
    fits = len(lengths) == len(shapes) <= layers and lengths[0] == max(lengths)
    if fits and slots in (None, lengths[0]):
        return
    of_slots = "" if slots is None else f", and sentences with {slots} learned tokens"
    raise UserError(
        f"The {side} encoder has {layers} blocks{of_slots}, but `contexts` gives it {shapes}: give "
        f"at most one context ({'N, K, b, W' if class_specific else 'N, b, W'}) for each block, "
        "none longer than the first"
    )
