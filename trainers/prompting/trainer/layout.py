"""What a checkpoint of Dassl holds of a model."""

from torch import nn

from ..model.prompted_clip import PromptedCLIP


class PublicLayout(nn.Module):
    """What Dassl saves and loads of a model: the prompts alone, named as in public checkpoints.

    Args:
        model: the prompted CLIP; train and eval modes reach it through this module.
        submodule: the public method saves the `model.submodule` alone, without its name.
    """

    def __init__(self, model: PromptedCLIP, submodule: bool):
        super().__init__()
        self.model = model
        self.prefix = model.submodule + "." if submodule else ""

    def state_dict(self, *args, **kwargs):
        """The trained parameters by their public names, without gradient."""
        state = self.model.public_state_dict()
        return {name.removeprefix(self.prefix): value for name, value in state.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """As `PromptedCLIP.load_public_state_dict`; what is strict is decided there."""
        self.model.load_public_state_dict(state_dict)
