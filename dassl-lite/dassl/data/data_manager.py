"""Turns a data set into loaders of batches."""

import os

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset

from dassl.utils import UserError, local_seed, read_image

from .datasets import build_dataset
from .decoded import FORKED, build_cache
from .samplers import SeededIndex, build_sampler
from .transforms import build_transform


def build_data_loader(
    cfg,
    sampler_type="SequentialSampler",
    data_source=None,
    batch_size=64,
    n_domain=0,
    n_ins=2,
    tfm=None,
    is_train=True,
    dataset_wrapper=None,
):
    """Build a DataLoader over a list of Datum.

    An incomplete last training batch is dropped, unless it is the only one.
    """
    if not data_source:
        kind = "train on" if is_train else "test on"
        raise UserError(f"{cfg.DATASET.NAME} has no images to {kind}: check DATASET.ROOT")
    wrapper = DatasetWrapper if dataset_wrapper is None else dataset_wrapper
    num_workers = min(cfg.DATALOADER.NUM_WORKERS, _usable_cpus())
    # Seeds the workers without drawing from the global generator, so that the run's random
    # numbers do not depend on the number of workers.
    generator = torch.Generator()
    generator.manual_seed(torch.initial_seed())
    return DataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        num_workers=num_workers,
        # Python 3.14 would start each worker anew, which imports PyTorch and copies the data set.
        multiprocessing_context="fork" if num_workers and FORKED else None,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        persistent_workers=is_train and num_workers > 0,
        generator=generator,
    )


def _usable_cpus():
    """Return the number of usable CPUs, the most workers that make loading faster."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class DataManager:
    """Holds the data set of a config and a loader for each of its parts.

    `custom_tfm_train` and `custom_tfm_test` replace the config's transforms, `dataset_wrapper`
    replaces DatasetWrapper.
    """

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        self.dataset = dataset = build_dataset(cfg)
        train_tfm = custom_tfm_train or build_transform(cfg, is_train=True)
        test_tfm = custom_tfm_test or build_transform(cfg, is_train=False)

        def loader(data_source, config, tfm, is_train):
            return build_data_loader(
                cfg,
                config.SAMPLER,
                data_source,
                config.BATCH_SIZE,
                n_ins=config.get("N_INS", 2),  # TEST lacks the key
                tfm=tfm,
                is_train=is_train,
                dataset_wrapper=dataset_wrapper,
            )

        of_x, of_u, of_test = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TRAIN_U, cfg.DATALOADER.TEST
        of_u = of_x if of_u.SAME_AS_X else of_u
        train_u, val = dataset.train_u, dataset.val
        self.train_loader_x = loader(dataset.train_x, of_x, train_tfm, True)
        self.train_loader_u = loader(train_u, of_u, train_tfm, True) if train_u else None
        self.val_loader = loader(val, of_test, test_tfm, False) if val else None
        self.test_loader = loader(dataset.test, of_test, test_tfm, False)
        images_u = getattr(self.train_loader_u, "dataset", None)
        if cache := getattr(images_u, "decoded", None):
            cache.share(self.train_loader_x.dataset.decoded)

        self.num_classes = dataset.num_classes
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self.lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg):
        """Print a table of the data set's sizes."""
        rows = [["Dataset", cfg.DATASET.NAME]]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(["Source", cfg.DATASET.SOURCE_DOMAINS])
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(["Target", cfg.DATASET.TARGET_DOMAINS])
        rows.append(["# classes", f"{self.num_classes:,}"])
        for part in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, part)
            if items:
                rows.append([f"# {part}", f"{len(items):,}"])
        print(tabulate(rows))


def as_label(label):
    """Return the label of an image as a loader collates it: several are a tensor (K,)."""
    return torch.tensor(label, dtype=torch.int8) if isinstance(label, tuple) else label


class DatasetWrapper(Dataset):
    """A list of Datum as a PyTorch data set of dicts.

    An item has `img`, `label`, `domain`, `impath` and `index`. If K_TRANSFORMS is above 1, `img` of
    a training image is a list of that many views; without a transform it is the PIL image.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        """Keep the list."""
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.decoded = None
        self.upright = None  # a function that turns an image as its EXIF data say
        if is_train and (size := int(cfg.DATALOADER.CACHE_GIB * 2**30)):
            workers = max(1, min(cfg.DATALOADER.NUM_WORKERS, _usable_cpus()))
            self.decoded = build_cache(len(data_source), size, workers)

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        """Return an item; a SeededIndex seeds its augmentation."""
        if isinstance(idx, SeededIndex):
            with local_seed(idx.seed):
                return self._read(int(idx))
        return self._read(idx)

    def _read(self, idx):
        item = self.data_source[idx]
        image = self._decode(idx)
        if self.k_tfm > 1:
            image = [self.transform(image) for _ in range(self.k_tfm)]
        elif self.transform is not None:
            image = self.transform(image)
        return {
            "img": image,
            "label": as_label(item.label),
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
        }

    def _decode(self, idx):
        """Return a decoded image, from the cache if possible; few-shot sets fit into it."""
        image = self.decoded and self.decoded.get(idx)
        if image is None:
            image = read_image(self.data_source[idx].impath)
            image = self.upright(image) if self.upright else image
            if self.decoded:
                self.decoded.put(idx, image)
        return image
