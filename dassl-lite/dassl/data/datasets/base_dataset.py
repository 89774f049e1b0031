"""Data sets as lists of Datum, and few-shot sampling from them."""

import random
from operator import attrgetter

from dassl.utils import Registry, UserError

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """Build the data set that `cfg.DATASET.NAME` names."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg)


class Datum:
    """One image: its path, label, domain and class name.

    The private attributes are named as in Dassl, so that few-shot samples that public data sets
    have pickled can be read.
    """

    impath = property(attrgetter("_impath"))
    label = property(attrgetter("_label"))
    domain = property(attrgetter("_domain"))
    classname = property(attrgetter("_classname"))

    def __init__(self, impath="", label=0, domain=0, classname=""):
        """Keep the four values; raises TypeError if `impath` is not a string."""
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a string, not {type(impath).__name__}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname


class DatasetBase:
    """Base class of every data set.

    A subclass reads its files in `__init__` and passes lists of Datum to this class: `train_x`
    (labelled), `train_u` (unlabelled, may be None), `val` (may be None) and `test`.

    Attributes:
        train_x, train_u, val, test: those lists.
        num_classes: the largest label of `train_x` + 1.
        lab2cname: label -> class name.
        classnames: class names in the order of their labels.
        several: True if a label is a tuple of K of 1 (present), 0 (absent) and -1 (unknown). The
            data set then overrides `get_num_classes` and `get_lab2cname`.
    """

    several = False

    dataset_dir = ""  # the folder below DATASET.ROOT
    domains: list[str] = []  # the names of all domains
    train_x = property(attrgetter("_train_x"))
    train_u = property(attrgetter("_train_u"))
    val = property(attrgetter("_val"))
    test = property(attrgetter("_test"))
    num_classes = property(attrgetter("_num_classes"))
    lab2cname = property(attrgetter("_lab2cname"))
    classnames = property(attrgetter("_classnames"))

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
        """Keep the lists, and read the class names; raises UserError without training images."""
        if not train_x:
            raise UserError(
                f"{type(self).__name__} has no training images, from which class names are read:"
                " check the data set's folder"
            )
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @staticmethod
    def get_num_classes(data_source):
        """Return the largest label + 1."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source):
        """Return a mapping from label to class name, and the class names in the order of labels."""
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    @staticmethod
    def split_dataset_by_label(data_source):
        """Return the items of each label, with labels in the order of first appearance."""
        groups: dict[int, list[Datum]] = {}
        for item in data_source:
            groups.setdefault(item.label, []).append(item)
        return groups

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """Draw `num_shots` items of each class from each source.

        Draws come from Python's global `random`, so they depend on the run's seed. Of a class with
        fewer items, all are taken (with `repeat`, `num_shots` draws with replacement). If
        `num_shots` is below 1, the sources stay as they are. Returns a list for each source, or
        the list itself for a single source.
        """
        sources = list(data_sources)
        if num_shots >= 1:
            print(f"Creating a {num_shots}-shot dataset")
            sources = [self._draw(source, num_shots, repeat) for source in sources]
        return sources[0] if len(sources) == 1 else sources

    def _draw(self, data_source, num_shots, repeat):
        shots, scarce = [], []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                shots += random.sample(items, num_shots)
                continue
            scarce.append(f"{items[0].classname} ({len(items)})")
            shots += random.choices(items, k=num_shots) if repeat else items
        if scarce:
            how = "drawn with repetition" if repeat else "all of them are taken"
            more = f" and {len(scarce) - 5} more classes" if len(scarce) > 5 else ""
            print(f"Fewer than {num_shots} images of {', '.join(scarce[:5])}{more}: {how}")
        return shots
