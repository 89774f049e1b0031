"""Imports what every run needs, for the fork server (see `start`)."""

from contextlib import suppress
from importlib import import_module

NEEDED = ("torch.utils.tensorboard", "recipe.run", "train", "trainers.prompting.trainer.trainer")

with suppress(Exception):  # the runs report it
    for name in NEEDED:
        import_module(name)
