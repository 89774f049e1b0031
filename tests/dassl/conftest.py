"""Fixtures: a toy data set of small images, and configs for a typical trainer of this field."""

import random

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import set_random_seed
from PIL import Image
from toy_trainer import extend_cfg

CLASSES = ("red", "green", "blue")
SIZES = {"train": 7, "val": 2, "test": 4}


@DATASET_REGISTRY.register()
class ToyImages(DatasetBase):
    """Noisy images whose class is their brightest channel."""

    dataset_dir = "toy"

    def __init__(self, cfg):
        parts = {part: self.read(cfg.DATASET.ROOT, part) for part in SIZES}
        train, val = parts["train"], parts["val"]
        if cfg.DATASET.NUM_SHOTS > 0:
            train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, train_u=parts["val"], val=val, test=parts["test"])

    def read(self, root, part):
        return [
            Datum(f"{root}/{self.dataset_dir}/{part}_{name}_{i}.png", label, 0, name)
            for label, name in enumerate(CLASSES)
            for i in range(SIZES[part])
        ]


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "toy").mkdir()
    noise = np.random.default_rng(0)
    for part, size in SIZES.items():
        for label, name in enumerate(CLASSES):
            for i in range(size):
                pixels = noise.integers(0, 140, (12, 10, 3))
                pixels[..., label] += 60
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / "toy" / f"{part}_{name}_{i}.png")
    return root


@pytest.fixture
def make_cfg(image_root, tmp_path):
    """Return a function that makes the frozen config of a tiny run from KEY, VALUE, ..."""

    def make(*opts):
        cfg = get_cfg_default()
        extend_cfg(cfg)
        cfg.merge_from_list(
            ["OUTPUT_DIR", str(tmp_path / "run"), "SEED", 1, "TRAINER.NAME", "ToyPrompts"]
            + ["DATASET.ROOT", str(image_root), "DATASET.NAME", "ToyImages"]
            + ["INPUT.SIZE", (8, 8), "INPUT.INTERPOLATION", "bicubic", "MODEL.BACKBONE.NAME", "toy"]
            + ["INPUT.TRANSFORMS", ["random_resized_crop", "random_flip", "normalize"]]
            + ["DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 4]
            + ["OPTIM.NAME", "sgd", "OPTIM.LR", 0.1, "OPTIM.LR_SCHEDULER", "cosine"]
            + ["OPTIM.MAX_EPOCH", 2, "OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant"]
            + ["TRAIN.PRINT_FREQ", 2]
            + list(opts)
        )
        cfg.freeze()
        set_random_seed(cfg.SEED)
        return cfg

    return make


@pytest.fixture(autouse=True)
def fresh_generators():
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: for models this small, several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
