"""The part of a model that Dassl's checkpoints hold."""

from torch import nn

from ..model.prompted_clip import PromptedCLIP


class PublicLayout(nn.Module):
    """Wraps a model so that Dassl saves and loads only its prompts, by their public names.

    Args:
        model: the prompted CLIP; `train()` and `eval()` reach it through this module.
        submodule: True if the public method saves only `model.submodule`, without its prefix.
    """

    def __init__(self, model: PromptedCLIP, submodule: bool):
        super().__init__()
        self.model = model
        self.prefix = model.submodule + "." if submodule else ""

    def state_dict(self, *args, **kwargs):
        """Return the trained parameters by their public names, without gradient."""
        state = self.model.public_state_dict()
        return {name.removeprefix(self.prefix): value for name, value in state.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load as `PromptedCLIP.load_public_state_dict`; `strict` and `assign` are ignored."""
        self.model.load_public_state_dict(state_dict)
