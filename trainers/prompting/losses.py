"""The loss of logits and labels: of one label an image, or of several; terms that calibrate.

Letters: B images, K classes, D the width of features. Several labels are (B, K): 1 present, 0
absent, -1 unknown.
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


def calibration(
    logits: torch.Tensor, labels: torch.Tensor, h: torch.Tensor, h0: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return TCPT's terms, with their published weights (docs/methods.md, section 10).

    Labels are (B,); h and h0 (K, D), the text features and those of the untouched CLIP.
    """
    mean, variance = margins(logits, labels)
    return {
        "margin_mean": -0.1 * mean,
        "margin_variance": 0.01 * variance,
        "moments": 5.0 * moments(h, h0),
    }


def margins(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the labels' leads over the best other class; nan of one class.

    Examples:
        >>> mean, variance = margins(torch.tensor([[3.0, 1.0], [0.0, 4.0]]), torch.tensor([0, 1]))
        >>> float(mean), float(variance)
        (3.0, 1.0)
    """
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf)
    m = logits.gather(1, own)[:, 0] - others.amax(1)
    return m.mean(), m.var(correction=0)


def moments(h: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of means and covariances of features h and h0, (K, D)."""
    apart = [x - x.mean(0) for x in (h, h0)]
    C, C0 = (x.T @ x / len(x) for x in apart)
    return (h.mean(0) - h0.mean(0)).square().sum() + (C - C0).square().sum()
