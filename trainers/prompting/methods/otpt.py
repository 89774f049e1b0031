"""O-TPT (Sharifdeen et al., CVPR 2025; arXiv:2503.12096).

O-TPT: Orthogonality Constraints for Calibrating Test-time Prompt Tuning in Vision-Language Models.
"""

from dataclasses import dataclass

from ..method import register
from .ctpt import CTPT


@register
class OTPT(CTPT):
    """C-TPT with another term: text features are made orthogonal while a context is tuned.

    CTPT with TERM `released`, the term of the public code; `frobenius` is the paper's, whose
    gradient has nearly the same direction, but another length.

    **Published.** CTX_INIT `a photo of a`; LAMBDA_TERM 18 on ImageNet and the ten data sets; 2 on
    ImageNet-A, V2, R and Sketch, with I_AUGMIX. Accuracy 64.41 and ECE 4.21, means over ImageNet
    and the ten (20 bins, as of C-TPT).

    **Checkpoint.** As TPT: words, or `ctx` of a CoOp.
    """

    node = "OTPT"
    checkpoint = "otpt"

    @dataclass(frozen=True)
    class Settings(CTPT.Settings):
        """The keys of the node."""

        LAMBDA_TERM: float = 18.0
        TERM: str = "released"  # or frobenius; dispersion is C-TPT

    settings: Settings  # type: ignore[assignment]
