"""What all data sets share: folders, split files, few-shot sampling, base and new classes."""

import json
import os
import random
from pathlib import Path

from dassl.data.datasets import DatasetBase, Datum


class DatasetError(Exception):
    """Data that cannot be used, told in one sentence: what is wrong, where, and what to do."""

    exit_code = 2


class ImageDataset(DatasetBase):
    """A data set of `DATASET.ROOT`, cut to `DATASET.NUM_SHOTS` and `DATASET.SUBSAMPLE_CLASSES`.

    A subclass names its files; one without a split file overrides `read`.
    """

    dataset_dir = ""  # the folder below DATASET.ROOT
    image_dir = "images"  # below dataset_dir; the paths of the split file start here
    split_file = ""  # below dataset_dir
    layout = ""  # what the folder holds, for the error message; the two names when empty

    def __init__(self, cfg):
        self.folder = self.locate(cfg)
        train, val, test = self.read()
        check_labels(type(self).__name__, train, val, test)
        if cfg.DATASET.NUM_SHOTS >= 1:
            train, val = self.few_shot(train, val, cfg.DATASET.NUM_SHOTS, cfg.SEED)
        train, val, test = subsample_classes(train, val, test, subset=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)
        if self.num_classes < 2:
            raise DatasetError(
                f"{type(self).__name__} has only the class '{self.classnames[0]}' with "
                f"SUBSAMPLE_CLASSES={cfg.DATASET.SUBSAMPLE_CLASSES}: classification needs two"
            )

    def locate(self, cfg):
        """The data set's folder.

        Raises:
            DatasetError: it does not exist.
        """
        folder = Path(cfg.DATASET.ROOT).expanduser().absolute() / self.dataset_dir
        if not folder.is_dir():
            layout = self.layout or f"{self.image_dir}/ and {self.split_file}"
            raise DatasetError(
                f"{type(self).__name__} was looked for in '{folder}', which is not there: --root "
                f"is the folder that holds {self.dataset_dir}/ with {layout} in it (the data set "
                "`emoji` needs no data)"
            )
        return folder

    def read(self):
        """Three lists of Datum: train, val, test."""
        return read_split(self.folder / self.split_file, self.folder / self.image_dir)

    def few_shot(self, train, val, shots, seed):
        """`shots` images of each class of `train`, and at most four of `val`.

        The seed is set right here, so the picks do not depend on what ran before.
        """
        if seed >= 0:
            random.seed(seed)
        train = self.generate_fewshot_dataset(train, num_shots=shots)
        return train, self.generate_fewshot_dataset(val, num_shots=min(shots, 4))


def read_split(path, image_dir):
    """Read a split file of the public format into three lists of Datum: train, val, test.

    Raises:
        DatasetError: the file is missing or is not of that format, or an image is missing.
    """
    try:
        split = json.loads(Path(path).read_text(encoding="utf8"))
        parts = [
            [Datum(os.path.join(image_dir, name), int(label), 0, classname)
             for name, label, classname in split[part]]
            for part in ("train", "val", "test")
        ]  # fmt: skip
    except FileNotFoundError:
        raise DatasetError(f"There is no split file '{path}'") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"'{path}' is not a split file (train, val and test, each a list of "
            f"[path, label, class name]): {error!r}"
        ) from None
    check_files(path, parts)
    return parts


def check_files(source, parts):
    """Raise DatasetError when an image is missing. One listing per folder beats many look-ups."""
    listings = {}
    for item in (item for part in parts for item in part):
        folder, name = os.path.split(item.impath)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            raise DatasetError(f"'{source}' names the image '{item.impath}', which is not there")


def check_labels(dataset, train, val, test):
    """Every label up to the highest has one name, which training images carry.

    Raises:
        DatasetError: a label has no name or two.
    """
    names = {}
    for item in train:
        if names.setdefault(item.label, item.classname) != item.classname:
            raise DatasetError(
                f"{dataset}: label {item.label} is called both '{names[item.label]}' and "
                f"'{item.classname}'"
            )
    labels = {item.label for part in (train, val, test) for item in part}
    if not labels:
        raise DatasetError(f"{dataset} has no images")
    for label in range(max(labels) + 1):
        if not str(names.get(label, "")).strip():
            raise DatasetError(
                f"{dataset}: label {label} has no name, or no training image that would give it one"
            )
    if min(labels) < 0:
        raise DatasetError(f"{dataset}: labels start at 0, but there is a label {min(labels)}")


def subsample_classes(*sources, subset="all"):
    """Keep the base classes (the first half, rounded up) or the new ones, relabelled from 0.

    Args:
        sources: lists of Datum; the first decides which labels there are.
        subset: `all`, `base` or `new`.
    """
    if subset == "all":
        return sources
    if subset not in ("base", "new"):
        raise DatasetError(f"SUBSAMPLE_CLASSES is all, base or new, not '{subset}'")
    labels = sorted({item.label for item in sources[0]})
    half = (len(labels) + 1) // 2
    chosen = labels[:half] if subset == "base" else labels[half:]
    new_label = {label: i for i, label in enumerate(chosen)}
    return tuple(
        [
            Datum(item.impath, new_label[item.label], item.domain, item.classname)
            for item in source
            if item.label in new_label
        ]
        for source in sources
    )
