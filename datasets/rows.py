"""Lists the rows of a file of features in place of images (`DATASET.FEATURES`)."""

import hashlib

from dassl.data.datasets import Datum

from trainers.prompting.embedded import file_sha256
from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.features import read_features

from .splits import PARTS
from .tags import Tagged

ANY = "any"  # data set: of the rows that a class reads


def read_rows(cls, file):
    """Return the content of a file of features, and its train, val and test rows.

    Args:
        cls: of the data set. If it is `only_tested`, all rows of the file, in order, are tested.
        file: the path.

    Returns:
        `Features`, and three lists of Datum, whose `impath` is the place of the row.
    """
    features = read_features(file)
    wanted = cls.rows_of or cls.__name__
    if wanted not in (ANY, features.dataset):
        of = printable(features.dataset) or "a data set without a name"
        raise UserError(
            f"'{file}' has features of {of}, not of {wanted} (`dataset` in its header): choose "
            "another file, or the data set `features`, which reads any"
        )
    names, labels, several = features.classnames, features.label.tolist(), features.several

    def items(rows):
        if several:
            return [Tagged(features.place(row), tuple(labels[row]), tuple(names)) for row in rows]
        return [Datum(features.place(row), labels[row], 0, names[labels[row]]) for row in rows]

    if cls.only_tested:
        test = items(range(len(labels)))
        return features, (test, [], test)
    parts = {part: items(features.split[part]) for part in PARTS}
    return features, (*parts.values(),)


def row_keys(features):
    """Return a key of each row by its place, as `contents.read_keys` does for files.

    Named rows of the same classes are equal in all files; rows without names only in equal files.
    """
    content = "\0".join(features.classnames) if features.images else file_sha256(features.path)
    return {
        place: _key(f"{content}\0{place.removeprefix(features.path)}") for place in features.places
    }


def content_keys(features):
    """Return a hash of each row by its place, in place of keys that tell images apart."""
    rows = features.image.float().numpy()
    hashes = (hashlib.sha256(row.tobytes()).digest() for row in rows)
    return dict(zip(features.places, hashes, strict=True))


def _key(text):
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
