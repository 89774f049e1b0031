"""The data sets known by name."""

from dassl.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """The data set that `cfg.DATASET.NAME` names, built from `cfg`."""
    cls = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        print(f"Loading dataset: {cfg.DATASET.NAME}")
    return cls(cfg)
