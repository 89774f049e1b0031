"""Reads few-shot images that a checkout of CoOp has drawn and kept, in place of drawing them.

CoOp draws from the order in which its machine lists files where a data set has no split file: the
images of ImageNet are those of the same seed only on that machine. It keeps them as a pickle of
Dassl's `Datum`, in `split_fewshot/shot_<shots>-seed_<seed>.pkl` of the data set's folder.
"""

import io
import os
import pickle
from collections import Counter

from trainers.prompting.errors import UserError, in_short, need
from trainers.prompting.storage.files import read_file


class Kept:
    """The draw in a file, checked against the images of the data set that is here.

    Args:
        folder: of the data set; paths in the file count from a folder of its name, on any machine.
        shots: images of each class.
        seed: of the run.
        tested: paths of the test images.
    """

    def __init__(self, folder, shots, seed, tested):
        self.path = folder / "split_fewshot" / f"shot_{shots}-seed_{seed}.pkl"
        self.folder, self.tested = folder, tested
        need(shots >= 1, "DATASET.KEPT_SHOTS needs DATASET.NUM_SHOTS, of the draw to read")

    def read(self, train, val, shots):
        """Return the kept images of both parts; none for validation if there are none here.

        Raises:
            UserError: the file is missing or damaged, or does not fit the images that are here.
        """
        content = self._content()
        train = self._part(content, "train", train, shots)
        return train, self._part(content, "val", val, min(shots, 4)) if val else val

    def _content(self):
        """Return part -> list of (path, label)."""
        try:
            content = _Reader(io.BytesIO(read_file(self.path))).load()
            return {
                part: [(str(item._impath), int(item._label)) for item in items]
                for part, items in content.items()
            }
        except OSError as error:
            raise self._flaw(f"cannot be read ({error.strerror})") from None
        except Exception as error:  # a broken file raises errors of many types
            raise self._flaw(f"is damaged, or no draw of CoOp ({in_short(error)})") from None

    def _part(self, content, part, existing, shots):
        """Return the images of a part that the file names, in its order."""
        if part not in content:
            raise self._flaw(f"lacks images for '{part}'")
        items = {os.path.relpath(item.impath, self.folder): item for item in existing}
        named = (self._item(path, label, part, items) for path, label in content[part])
        unique = list({item.impath: item for item in named}.values())
        drawn = Counter(item.label for item in unique)
        for label, count in Counter(item.label for item in existing).items():
            if drawn[label] != min(shots, count):
                raise self._flaw(
                    f"has {drawn[label]} images of label {label} for '{part}', and not "
                    f"{min(shots, count)}"
                )
        return unique

    def _item(self, path, label, part, items):
        """Return the image of ours that the file names."""
        inside = path.replace("\\", "/").rpartition(f"/{self.folder.name}/")[2]
        item = items.get(os.path.normpath(inside))
        if item is None:
            tested = os.fspath(self.folder / inside) in self.tested
            what = "is a test image" if tested else f"is not among the images for '{part}'"
            raise self._flaw(f"names '{path}', which {what} in '{self.folder}'")
        if item.label != label:
            raise self._flaw(
                f"gives '{path}' the label {label}, but it is {item.label} ({item.classname}) here"
            )
        return item

    def _flaw(self, what):
        return UserError(
            f"DATASET.KEPT_SHOTS: '{self.path}' {what}: copy the file that your CoOp checkout has "
            "written for this data set, these shots and this seed, or leave the key out"
        )


class _Image:
    """An object with the attributes of a `Datum` in a file."""


class _Reader(pickle.Unpickler):
    """Builds nothing but images: a pickle calls what `find_class` returns."""

    def find_class(self, module, name):
        if name == "Datum":
            return _Image
        raise pickle.UnpicklingError(f"it holds objects of {module}.{name}, which could run code")
