"""Data sets: the base class, the record of an image, the registry."""

from .base_dataset import DATASET_REGISTRY, DatasetBase, Datum, build_dataset

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"]
