"""What a data set is: lists of Datum, and few-shot sampling from them."""

import random

from dassl.utils import UserError


class Datum:
    """One image: where it is, its label, its domain and the name of its class."""

    def __init__(self, impath="", label=0, domain=0, classname=""):
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a string, not {type(impath).__name__}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self):
        return self._impath

    @property
    def label(self):
        return self._label

    @property
    def domain(self):
        return self._domain

    @property
    def classname(self):
        return self._classname


class DatasetBase:
    """Base of every data set.

    A subclass reads its files in `__init__` and passes lists of Datum on: `train_x` (labelled),
    `train_u` (unlabelled, may be None), `val` (may be None) and `test`.
    """

    dataset_dir = ""  # the folder below DATASET.ROOT
    domains = []  # the names of all domains

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
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

    @property
    def train_x(self):
        return self._train_x

    @property
    def train_u(self):
        return self._train_u

    @property
    def val(self):
        return self._val

    @property
    def test(self):
        return self._test

    @property
    def lab2cname(self):
        """Label to class name."""
        return self._lab2cname

    @property
    def classnames(self):
        """Class names in the order of their labels."""
        return self._classnames

    @property
    def num_classes(self):
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source):
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source):
        """A mapping from label to class name, and the class names in the order of labels."""
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    @staticmethod
    def split_dataset_by_label(data_source):
        """Label to its items, labels in the order of first appearance."""
        groups = {}
        for item in data_source:
            groups.setdefault(item.label, []).append(item)
        return groups

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """Draw `num_shots` items of each class from each source.

        Draws come from Python's global `random`, so the run's seed decides the picks. A class
        with fewer items gives all of them (with `repeat`, `num_shots` draws with replacement).
        `num_shots` below 1 leaves the sources as they are. One source gives one list.
        """
        if num_shots >= 1:
            print(f"Creating a {num_shots}-shot dataset")
            data_sources = [self._draw(source, num_shots, repeat) for source in data_sources]
        return data_sources[0] if len(data_sources) == 1 else data_sources

    def _draw(self, data_source, num_shots, repeat):
        drawn, short = [], []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                drawn += random.sample(items, num_shots)
                continue
            short.append(f"{items[0].classname} ({len(items)})")
            drawn += random.choices(items, k=num_shots) if repeat else items
        if short:
            how = "drawn with repetition" if repeat else "all of them are taken"
            more = f" and {len(short) - 5} more classes" if len(short) > 5 else ""
            print(f"Fewer than {num_shots} images of {', '.join(short[:5])}{more}: {how}")
        return drawn
