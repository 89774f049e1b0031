"""The loss of logits and labels: of one label an image, or of several.

Letters: B images, K classes. Several labels are (B, K): 1 present, 0 absent, -1 unknown.
"""

import torch
import torch.nn.functional as F

UNKNOWN = -1


def classification(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of labels (B,), or the sum of `asymmetric` for labels (B, K)."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels)
    return asymmetric(logits, labels).sum()


def asymmetric(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma_neg: float = 2.0,
    gamma_pos: float = 1.0,
    shift: float = 0.05,
    floor: float = 1e-6,
) -> torch.Tensor:
    """Return the asymmetric loss (Ridnik et al., ICCV 2021) of each image and class, (B, K).

    With p = sigmoid(logit) and q = min(1 - p + SHIFT, 1), which forgives absent classes a small p:

        present: -(1 - p)^gamma_pos log p,   absent: -(1 - q)^gamma_neg log q,   unknown: 0

    The power has no gradient, as in DualCoOp; logarithms are of FLOOR at least.

    Examples:
        >>> labels = torch.tensor([[1, 0, -1]])
        >>> [round(x, 4) for x in asymmetric(torch.zeros(1, 3), labels)[0].tolist()]
        [0.3466, 0.1211, 0.0]
    """
    present, absent = (labels == 1).to(logits.dtype), (labels == 0).to(logits.dtype)
    p = logits.sigmoid()
    q = (1 - p + shift).clamp(max=1)
    with torch.no_grad():
        focus = present * (1 - p) ** gamma_pos + absent * (1 - q) ** gamma_neg
    return -focus * (present * p.clamp_min(floor).log() + absent * q.clamp_min(floor).log())
