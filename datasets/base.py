"""The base classes of all data sets: folders, splits, few-shot sampling, base and new classes."""

import os
import random
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from dassl.data.datasets import DatasetBase

from trainers.prompting.backbones.openai import OPENAI
from trainers.prompting.checkpoint.several import check_labels
from trainers.prompting.errors import UserError
from trainers.prompting.images.class_folders import class_folders, some
from trainers.prompting.node import clean

from . import contents, noise
from .contents import check_copies, division, fingerprint, read_keys
from .files import read_folders
from .labels import check_one_label, subsample_classes
from .rows import read_rows, row_keys
from .splits import check_files, divide, read_split, write_split
from .validation import few, held_out, most_validation

OTHER = {"base": "new", "new": "base"}


class Counts(NamedTuple):
    """Published numbers of classes and images of a data set; None for a part that it lacks."""

    classes: int
    train: int | None
    val: int | None
    test: int


class ImageDataset(DatasetBase):
    """A data set in `DATASET.ROOT`, cut to `DATASET.NUM_SHOTS` and `DATASET.SUBSAMPLE_CLASSES`.

    A subclass names its files; its `make_split` divides the images if there is no split file.

    Its `train_u` are the training images of all classes, however many shots and whichever classes
    are chosen: a method that learns without labels trains on them. `noise.KEYS` change the training
    images only: fewer in some classes (DATASET.IMBALANCE), and wrong labels (DATASET.LABEL_NOISE).
    With DATASET.FEATURES its images are the rows of that file, and no image is read.

    Attributes:
        division: how the whole data set is divided into parts and classes, as texts; None for
            embedded data.
        fingerprint: hash of that: of the files, their sizes and contents; None for embedded data.
        as_published: True if a public data set has as many classes and test images as published,
            None for another data set.
        keys: path to `contents.read_keys` of each image; empty for public and embedded data.
        other_classnames: in a run on base or new classes, the names of the other half, in order.
        validation: validation images, on which a temperature is fitted and methods search: as many
            of each class as `most_validation` allows, and none that is also a test image. They are
            of the base classes, also in a run on new classes, or of all classes in a run on all;
            labels are those of a run on these classes.
    """

    dataset_dir = ""  # the folder below DATASET.ROOT
    image_dir = "images"  # below dataset_dir; the paths of the split file start here
    split_file = ""  # below dataset_dir
    layout = ""  # content of the folder, for the error message; if empty, the two names above
    expected: Counts | None = None  # the Counts of a public data set
    rows_of = ""  # the data set whose files of features it reads, if not its own
    only_tested = False  # True if `train_x` is the test set, for want of training images
    drawn: dict[str, int] | None = None  # what `noise.KEYS` have changed, in numbers of images
    imbalanced = 0  # training images that an imbalance leaves out
    upright = False  # True if images are turned as their EXIF data say (INPUT.UPRIGHT)
    several = False  # True if an image has several labels: `several.SeveralLabels`
    embedded = False  # True if it comes with this repository, and so is the same everywhere

    def __new__(cls, cfg=None):
        """Make a data set of the class that reads these labels."""
        return super().__new__(cls if cfg is None else cls.kind(cfg.DATASET))

    @classmethod
    def kind(cls, node):
        """Return the class of the data set that a node DATASET names: this one, or one below it.

        Images of a user's own may have one label or several.
        """
        return cls

    def __init__(self, cfg):
        check_labels(cfg, self.several)
        file, rows = getattr(cfg.DATASET, "FEATURES", ""), None
        if file:
            rows, (train, val, test) = read_rows(type(self), file)
            folder = rows.path
        else:
            source = self.locate(cfg)
            train, val, test = self.read_as(cfg.DATASET, source)
            folder = folder_of(source)
        self.check_labels(train, val, test)
        here = len(self.names_of(train)), len(test)
        self.as_published = self.expected and here == (self.expected.classes, self.expected.test)
        self.note_classes(train, test)
        self.division = self.fingerprint = None
        self.keys: dict[str, int] = {}
        if rows is not None or not self.embedded:
            parts = train, val, test
            if rows is None:
                contents.note_transparent(chain(*parts))
            keys = row_keys(rows) if rows is not None else read_keys(parts)
            check_copies(type(self), folder, parts, keys, rows)
            self.division = division(folder, parts, keys)
            self.fingerprint = fingerprint(self.division)
            self.keys = {} if self.expected else keys
        self.choose(cfg, train, val, test)
        if self.num_classes < 2:
            raise UserError(
                f"{type(self).__name__} has only the class '{self.classnames[0]}' with "
                f"DATASET.SUBSAMPLE_CLASSES {cfg.DATASET.SUBSAMPLE_CLASSES}: add classes, for at "
                "least two are needed"
            )
        values = noise.keys_of(cfg.DATASET)
        if noise.changes(values) and not self.only_tested:
            wrong = self.add_noise(values, cfg.SEED)
            images = len(self.train_x)
            self.drawn = {"images": images, "wrong_labels": wrong, "left_out": self.imbalanced}

    def choose(self, cfg, train, val, test):
        """Take the images of the run, by its shots, classes and imbalance, out of the three parts.

        It begins the data set of Dassl, and sets `validation` and `other_classnames`.
        """
        without_labels = None if self.only_tested else train
        tested = {item.impath for item in test}
        most = most_validation(cfg.DATASET)
        if cfg.DATASET.NUM_SHOTS >= 1 and not self.only_tested:
            train, val = self.few_shot(train, val, cfg.DATASET.NUM_SHOTS, cfg.SEED, most)
        more = getattr(cfg.DATASET, "VALIDATION_SHOTS", 0) and not self.only_tested
        if more and all(item.impath in tested for item in val):
            val = held_out(without_labels, train, most, cfg.SEED)
        subset, whole = cfg.DATASET.SUBSAMPLE_CLASSES, (train, val)
        train, val, test = subsample_classes(train, val, test, subset=subset)
        if not self.only_tested:
            contents.note_groups(type(self).__name__, train, test)
        values = noise.keys_of(cfg.DATASET)
        before = len(train)
        if values.IMBALANCE > 1 and not self.only_tested:
            train = noise.imbalance_classes(train, values.IMBALANCE, cfg.SEED)
        self.imbalanced = before - len(train)
        super().__init__(train_x=train, train_u=without_labels, val=val, test=test)
        others = ([], []) if subset == "all" else subsample_classes(*whole, subset=OTHER[subset])
        self.other_classnames = self.get_lab2cname(others[0])[1]
        of_base = others[1] if subset == "new" else val
        free = [item for item in of_base if item.impath not in tested]
        self.validation = few(self.split_dataset_by_label(free).values(), most)

    def add_noise(self, values, seed):
        """Give training images the wrong labels of `noise.KEYS`, and print what is changed.

        The classes and their names, which Dassl reads from training images, are known before.

        Returns:
            The number of wrong labels.
        """
        sizes = Counter(item.label for item in self.train_x).values()
        clean = self._train_x
        self._train_x = noise.noisy(
            clean, self.lab2cname, values.LABEL_NOISE, values.LABEL_NOISE_KIND, seed
        )
        wrong = sum(a.label != b.label for a, b in zip(clean, self._train_x, strict=True))
        print(
            f"{type(self).__name__}: the largest class has {max(sizes):,} training images and the "
            f"smallest {min(sizes):,} (IMBALANCE {values.IMBALANCE:g}); {wrong:,} of "
            f"{len(clean):,} labels are wrong (LABEL_NOISE {values.LABEL_NOISE:g}, "
            f"{values.LABEL_NOISE_KIND})"
        )
        return wrong

    def locate(self, cfg):
        """Return the data set's folder; raises UserError if it does not exist."""
        folder = Path(os.path.expanduser(cfg.DATASET.ROOT)).absolute() / self.dataset_dir
        if not folder.is_dir():
            layout = self.layout or f"{self.image_dir}/ and {self.split_file}"
            raise UserError(
                f"{type(self).__name__} was looked for in '{folder}', which does not exist: give "
                f"--root the folder that holds {self.dataset_dir}/ (with {layout}); `python -m "
                "benchmark download` gets public data sets, and `emoji` needs no data"
            )
        return folder

    @classmethod
    def read(cls, folder):
        """Read three lists of Datum, train, val and test, from the split file.

        If that is missing, a split is made and written there, and a printed note says so.
        """
        path, images = folder / cls.split_file, folder / cls.image_dir
        if cls.split_file and os.path.lexists(path):
            return read_split(path, images)
        parts = cls.own_split(folder)
        if cls.split_file:
            write_split(path, images, parts)
        return parts

    @classmethod
    def read_as(cls, node, folder):
        """Return what `read` does; a subclass may do so as the keys of a node DATASET say."""
        return cls.read(folder)

    @classmethod
    def look(cls, root, **keys):
        """Return the folder below a root, and the three lists in it, without writing a split."""
        cfg = SimpleNamespace(DATASET=SimpleNamespace(ROOT=os.fspath(root or ""), **keys))
        cls = cls.kind(cfg.DATASET)
        folder = cls.locate(cls.__new__(cls), cfg)
        if cls.split_file and not os.path.lexists(folder / cls.split_file):
            return folder, cls.own_split(folder)
        return folder_of(folder), cls.read_as(cfg.DATASET, folder)

    @classmethod
    def own_split(cls, folder):
        """Return the lists of `make_split`, with its errors turned into one sentence."""
        lacks = f"no {cls.split_file} and " if cls.split_file else ""
        try:
            parts = cls.make_split(folder)
        except OSError as error:
            raise UserError(
                f"{cls.__name__} has {lacks}no '{error.filename}' ({error.strerror}): restore it; "
                "`python -m benchmark download` gets public data sets"
            ) from None
        except UserError:
            raise
        except (LookupError, SyntaxError, TypeError, ValueError) as error:  # the second of XML
            raise UserError(
                f"{cls.__name__} has {lacks}annotations in '{folder}' that do not have the usual "
                f"form ({error!r}): download them again"
            ) from None
        check_files(cls.__name__, parts)
        return parts

    @classmethod
    def make_split(cls, folder):
        """Make the lists train, val and test from the data set's annotations, by its own rule."""
        raise UserError(f"There is no split file '{folder / cls.split_file}'")

    @classmethod
    def check_labels(cls, train, val, test):
        """Refuse labels that name no class, or have no training images."""
        check_one_label(cls.__name__, train, val, test)

    @staticmethod
    def names_of(items):
        """Return the names of the classes of images, by label."""
        return [name for _, name in sorted({x.label: x.classname for x in reversed(items)}.items())]

    def note_classes(self, train, test):
        """Print notes about odd classes that do not stop a run."""
        name = type(self).__name__
        names = {item.label: item.classname for item in train}
        read = {name: tuple(OPENAI.tokenizer.encode(clean(name))) for name in names.values()}
        count = Counter(read[name] for name in names.values())
        twice = [name for name in read if count[read[name]] > 1]
        if twice:
            print(
                f"Note: {name} gives several classes one name, so that only a method with "
                f"something for each class can distinguish them: {some(twice)}"
            )
        tested = {item.label for item in test}
        if test and (left := [name for label, name in names.items() if label not in tested]):
            print(f"Note: {name} has no test images of these classes: {some(left)}")
        self.note_counts(len(names), test)

    def note_counts(self, classes, test):
        """Print a note if a public data set has other counts than published."""
        if self.expected and not self.as_published:
            print(
                f"Note: {type(self).__name__} has {classes:,} classes and {len(test):,} test "
                f"images here, but {self.expected.classes:,} and {self.expected.test:,} as "
                "published: accuracies are not comparable with published ones"
            )

    def few_shot(self, train, val, shots, seed, most):
        """Draw `shots` images of each class from `train`, and at most `most` from `val`.

        The seed is set here, so the choice does not depend on earlier random numbers.
        """
        if seed >= 0:
            random.seed(seed)
        print("Training: ", end="")  # Dassl says the rest of the line
        train = self.generate_fewshot_dataset(train, num_shots=shots)
        if val:
            print("Validation: ", end="")
            val = self.generate_fewshot_dataset(val, num_shots=most)
        return train, val


class FolderDataset(ImageDataset):
    """A data set of class folders; without a split file it is divided 50/20/30 by chance."""

    class_names: dict[str, str] = {}  # of folders with another name than their class
    left_out: tuple[str, ...] = ()  # folders that are not classes

    @classmethod
    def make_split(cls, folder):
        """Divide the images of each class folder into training, validation and test."""
        images = folder / cls.image_dir
        folders = [name for name in class_folders(images) if name not in cls.left_out]
        return divide(read_folders(images, {f: cls.class_names.get(f, f) for f in folders}))


def folder_of(source):
    """Return the folder of a data set that is a table; any other folder as it is."""
    return source.parent if os.path.isfile(source) else source
