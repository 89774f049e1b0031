"""Reads the files of data sets: class folders and annotations."""

from dassl.data.datasets import Datum

from trainers.prompting.images.class_folders import list_images, read_lines


def read_folders(parent, classes, source=None, places=None):
    """Return the images in class folders as a list of Datum; as `list_images`."""
    found = list_images(parent, classes, source, places)
    return [Datum(path, label, 0, name) for path, label, name in found]


def read_table(path, columns):
    """Return the lines of a text file as lists of `columns` words; the last may contain spaces."""
    return [line.split(maxsplit=columns - 1) for line in read_lines(path)]


def read_mat(path, key):
    """Return a variable of a MATLAB file, with one axis."""
    import numpy as np
    from scipy.io import loadmat  # slow to import, and rarely needed

    with open(path, "rb") as file:
        return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
