"""Reads the files of data sets: class folders and annotations."""

from dassl.data.datasets import Datum

from trainers.prompting.errors import UserError
from trainers.prompting.images.class_folders import list_images, read_lines


def read_folders(parent, classes, source=None, places=None):
    """Return the images in class folders as a list of Datum; as `list_images`."""
    found = list_images(parent, classes, source, places)
    return [Datum(path, label, 0, name) for path, label, name in found]


def read_table(path, columns):
    """Return the lines of a text file as lists of `columns` words; the last may contain spaces."""
    rows = [line.split(maxsplit=columns - 1) for line in read_lines(path)]
    for row in rows:
        if len(row) < columns:
            raise UserError(
                f"'{path}' has the line '{' '.join(row)}', but every line should have {columns} "
                "words: download it again"
            )
    return rows


def read_mat(path, key):
    """Return a variable of a MATLAB file, with one axis; raises ValueError if it cannot be read."""
    import numpy as np
    from scipy.io import loadmat  # slow to import, and rarely needed

    with open(path, "rb") as file:
        try:
            return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
        except Exception as error:  # the reader raises errors of many types
            raise ValueError(f"'{path}': {error!r}") from None
