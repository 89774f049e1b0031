"""Text features that are kept between evaluations of batches."""

from collections.abc import Sequence

import torch

from .added import Additions
from .text import TextEncoder, TextFeatures


class TextCache:
    """The last text features without a gradient, until what enters the encoder has other values.

    Contexts and tokens are compared by value, since they may come from anything. Modules of
    additions, and the weights of the encoder, are compared by where their tensors are and how
    often these were changed.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._given: list[tuple[torch.Tensor, object, torch.Tensor]] = []
        self._found: TextFeatures | None = None

    def forget(self) -> None:
        """Forget the features."""
        self._found = None

    def features(
        self,
        encoder: TextEncoder,
        text: Sequence[torch.Tensor] | None,
        inserted: torch.Tensor | None,
        added: Additions,
    ) -> TextFeatures:
        """Return the features; arguments as those of the encoder."""
        enter = {i: addition.enter for i, addition in added.items() if addition.enter is not None}
        given = [*(text or ()), *enter.values(), *([] if inserted is None else [inserted])]
        parts = {
            (i, name): m for i, addition in added.items() for name, m in addition.modules().items()
        }
        tensors: list[torch.Tensor] = [*encoder.parameters()]
        tensors += [x for m in parts.values() for x in (*m.parameters(), *m.buffers())]
        shares = (addition.share for addition in added.values())
        key = *parts, *enter, *shares, len(text or ()), inserted is None, *map(mark, tensors)
        if self._found is None or key != self._key or not self._holds(given):
            with torch.inference_mode(False), torch.no_grad():  # so that training can read it
                self._found = encoder(text, inserted, added)
                self._given = [(x.detach(), mark(x), x.detach().clone()) for x in given]
            self._key = key
        return self._found

    def _holds(self, given: Sequence[torch.Tensor]) -> bool:
        """Return True if tensors have the values that entered.

        Comparing values makes the host wait for an accelerator. There, a tensor at the place of the
        one that is held here is that one.
        """
        return all(
            (x.device.type != "cpu" and mark(x) == before) or torch.equal(x, copy)
            for x, (_, before, copy) in zip(given, self._given, strict=True)
        )


def mark(x: torch.Tensor) -> object:
    """Return where the values of a tensor are, and how often they were changed."""
    if x.is_inference():  # such a tensor does not count its changes
        return object()
    place = x.data_ptr() if x.layout == torch.strided else id(x)
    return place, x._version, x.device, x.shape, x.stride() if x.layout == torch.strided else ()
