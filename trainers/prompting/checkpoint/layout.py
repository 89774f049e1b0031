"""The part of a model that Dassl's checkpoints hold."""

from typing import Any

from torch import nn


class PublicLayout(nn.Module):
    """Wraps a method so that Dassl saves and loads only what is learned, by its public names."""

    def __init__(self, method: Any):
        super().__init__()
        self.method = method  # `train()` and `eval()` reach it through this module
        self.prefix = f"{method.submodule}." if method.saves_submodule else ""

    def state_dict(self, *args, **kwargs):
        """Return the learned parameters by their public names, without gradient."""
        state = self.method.public_state_dict()
        return {name.removeprefix(self.prefix): value for name, value in state.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load as `Method.load_public_state_dict`; `strict` and `assign` are ignored."""
        self.method.load_public_state_dict(state_dict)
