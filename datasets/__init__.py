"""The data sets. Importing this package registers them with Dassl."""

import trainers  # noqa: F401 (which finds dassl-lite)

from . import (  # noqa: F401 (registers them)
    annotated,
    boxes,
    class_folders,
    emoji,
    emoji_scenes,
    feature_files,
    image_folder,
    imagenet,
    medical,
)
from .base import ImageDataset

__all__ = ["ImageDataset"]
