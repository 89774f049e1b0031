"""RAdam, at the path from which public codes import it."""

from torch.optim import RAdam

__all__ = ["RAdam"]
