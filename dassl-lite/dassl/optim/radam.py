"""PyTorch's RAdam, where the original Dassl has its own: public trainers import it from here."""

from torch.optim import RAdam

__all__ = ["RAdam"]
