"""What must be known of a CLIP that its modules do not say."""

from collections.abc import Callable
from typing import NamedTuple


class Tokenizer(NamedTuple):
    """Words to token ids and back.

    encode: text -> ids, without start and end; decode: ids -> text; sos, eos: ids of the start
    and the end of a sentence, whose state at EOS is the sentence's feature.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    sos: int
    eos: int


class Family(NamedTuple):
    """A family of CLIPs.

    tokenizer: as above; mean, std: of the image normalisation, per channel, for values in [0, 1];
    interpolation: of the resizing, by its name in Dassl's `INPUT.INTERPOLATION`. The size of the
    images is `visual.input_resolution`. A run takes all of these over.
    """

    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
