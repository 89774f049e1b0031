"""What a check says, other than that a method keeps to it: an exception for each state."""

from collections.abc import Sequence

import torch

from ..errors import UserError

FAR = 1e-2  # difference of logits that matters, as a share of their spread


class Skipped(Exception):
    """Says why a check does not concern a method."""

    state = "-"


class Note(Skipped):
    """Says what may be a mistake, or may be meant."""

    state = "note"


def apart(logits: torch.Tensor, others: Sequence[torch.Tensor]) -> float:
    """Return how far logits (B, K) and those of parts are apart, as a share of their spread."""
    other = torch.cat([*others]).detach()
    if logits.shape != other.shape:
        return float("inf")
    spread = logits.detach().std(1).max().clamp_min(1e-30)
    return float((logits.detach() - other).abs().max() / spread)


def check_same(
    logits: torch.Tensor, others: Sequence[torch.Tensor], sentence: str, most: float = FAR
) -> None:
    """Refuse logits that differ from those of parts by more than a share of their spread."""
    found = apart(logits, others)
    if not found <= most:
        raise UserError(f"It {sentence} (off by {found:.1g} of their spread)")
