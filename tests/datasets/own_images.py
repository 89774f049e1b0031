"""Loads data sets, and writes folders of class folders, as a user's own images."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import yaml
from dassl.data.datasets import DATASET_REGISTRY
from paths import ROOT
from PIL import Image

import datasets  # noqa: F401 (registers them)


def read(kind, root, shots=-1, subset="all", seed=1, **keys):
    """Load a data set, by its class or registered name, as a run with these keys does."""
    kind = DATASET_REGISTRY.get(kind) if isinstance(kind, str) else kind
    node = SimpleNamespace(ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset, **keys)
    return kind(SimpleNamespace(DATASET=node, SEED=seed))


def registered(config):
    """Return the data set that configs/datasets/<config>.yaml names."""
    file = ROOT / "configs" / "datasets" / f"{config}.yaml"
    return yaml.safe_load(file.read_text())["DATASET"]["NAME"]


def load(root, shots=-1):
    """Load the data set of configs/datasets/image_folder.yaml from `root`."""
    return read(registered("image_folder"), root, shots)


COLOURS = itertools.product(range(256), repeat=3)


def fill(parent, **numbers):
    """Write class folders with that many images each, no two alike."""
    for folder, number in numbers.items():
        (parent / folder).mkdir(parents=True)
        for i in range(number):
            image = Image.new("RGB", (4, 4), next(COLOURS))
            image.save(parent / folder / f"{Path(folder).name} {i:02}.png")


def counts(dataset):
    return tuple(map(len, (dataset.train_x, dataset.val, dataset.test)))
