"""Zero-shot CLIP with the data set's sentence (Radford et al., ICML 2021; arXiv:2103.00020)."""

from dataclasses import dataclass

from ..method import Method, register


@register
class ZeroshotCLIP(Method):
    """No prompts on either side: nothing is trained."""

    node = "ZEROSHOT"
    checkpoint = "zero_shot"  # so that a training in the same folder does not resume from it
    trains = False

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node: only the precision."""
