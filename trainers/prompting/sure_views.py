"""Several views of a test image: how sure a method is of each, and the choice of the surest.

Letters: B images in V views, K classes.
"""

import torch

from .errors import need


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the softmax of logits (..., K), in nats: (...)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def marginal_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the mean over views of the softmax of logits (..., V, K): (...)."""
    return entropy(logits.log_softmax(-1).logsumexp(-2))


def surest(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Return the numbers (B, .) of the int(V share) views with the least entropy, surest first.

    Logits are (B, V, K).
    """
    return entropy(logits).argsort(dim=-1, stable=True)[:, : int(logits.shape[1] * share)]


def check_selection(V: int, share: float, keys: str) -> None:
    """Refuse a share (SELECTION_P) of V views that is above 1 or has none of them; UserError."""
    need(share <= 1, f"SELECTION_P is {share} but must be 1 or less")
    need(
        int(V * share) >= 1,
        f"The surest {share:g} of {V} view{'s' * (V != 1)} of an image is no view: raise {keys}",
    )
