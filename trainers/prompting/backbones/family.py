"""A CLIP's tokenizer and image preparation, which its modules do not hold."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Tokenizer(NamedTuple):
    """Converts text to token ids and back.

    encode: text -> ids, without start and end; decode: ids -> text; sos, eos: ids of the start and
    end tokens; sos is None if sentences start with their first word. pad: id that fills a sentence
    up to the length of the context, for an encoder that reads the padding; None if none does.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    sos: int | None
    eos: int
    pad: int | None = None

    def __deepcopy__(self, memo: Any) -> "Tokenizer":
        """Return itself: nothing changes it, and a copy would take longer than that of a CLIP."""
        return self


class Family(NamedTuple):
    """The tokenizer and image preparation of a CLIP; a run applies all of them.

    tokenizer: as above; mean, std: of the image normalisation, per channel, for values in [0, 1];
    interpolation: of the resizing, by its name in Dassl's `INPUT.INTERPOLATION`. The image size is
    `visual.input_resolution`. resize: `shortest`, and a crop of the centre, or `squash`, which
    changes the proportions; in `squash 346`, to a size in pixels, from which the centre is cut.
    reads: the position of a sentence whose state becomes its feature: `eos`, the `last` of the
    context, the `first`, or the `mean` of all. causal: False if positions also attend to later
    ones; sentences are then padded to the context if the tokenizer has a `pad`, else not.
    """

    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize: str = "shortest"
    reads: str = "eos"
    causal: bool = True
