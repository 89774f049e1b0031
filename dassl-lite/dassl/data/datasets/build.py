"""The data sets known by name."""

from dassl.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """The data set that `cfg.DATASET.NAME` names, built from `cfg`."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg)
