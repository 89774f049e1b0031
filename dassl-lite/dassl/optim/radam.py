"""RAdam under the address that public codes import it from."""

from torch.optim import RAdam

__all__ = ["RAdam"]
