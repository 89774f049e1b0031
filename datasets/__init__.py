"""The data sets; importing this package registers them with Dassl."""

from . import emoji
from .base import DatasetError, ImageDataset

__all__ = ["DatasetError", "ImageDataset", "emoji"]
