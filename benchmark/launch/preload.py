"""Imports what every run needs, for the fork server (see `start`)."""

from contextlib import suppress
from importlib import import_module

NEEDED = (
    "torchvision.transforms", "torch.utils.tensorboard", "scipy.optimize", "recipe.run", "train",
    "trainers.prompting.trainer.trainer",
)  # fmt: skip

with suppress(Exception):  # the runs report it
    for name in NEEDED:
        import_module(name)
