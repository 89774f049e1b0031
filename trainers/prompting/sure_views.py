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
    return entropy(logits).argsort(dim=-1, stable=True)[:, : count_share(logits.shape[1], share)]


def count_share(V: int, share: float) -> int:
    """Return int(V share), the number of views in a share of V; raises UserError if it is 0."""
    count = int(V * share)
    need(count, f"A share of {share:g} of {V} views of an image is none: raise it, or their number")
    return count
