"""Tells data apart by what the image files hold: how they are divided, and images in two parts."""

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from dassl.data.datasets import DATASET_REGISTRY, Datum
from tqdm import tqdm

from trainers.prompting.errors import UserError
from trainers.prompting.images.image_key import EMPTY, MOST, image_key
from trainers.prompting.images.transparency import transparency_note

from .rows import content_keys
from .splits import PARTS, group_of

THREADS = 8  # which wait for the disk at once
TOGETHER = 256  # files given to a thread at once


def read_keys(parts):
    """Return a key of each image in lists of Datum; those of files with equal content are equal.

    Returns:
        dict from path to its `image_key`.
    """
    paths = list(dict.fromkeys(item.impath for item in chain(*parts)))
    groups = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = pool.map(lambda group: [image_key(path) for path in group], groups)
        shown = tqdm(hashed, "Comparing images", len(groups), unit=f"*{TOGETHER}", delay=3)
        keys = [key for group in shown for key in group]
    return dict(zip(paths, keys, strict=True))


def division(folder, parts, keys):
    """Return how images are divided into parts and classes, as texts that can be compared.

    `keys` are those of `read_keys`; the same files in another folder give the same.

    Returns:
        dict from a part and a class to the number of its images and a hash of their names and keys.
    """
    texts = {}
    for part, items in zip(PARTS, parts, strict=True):
        classes = defaultdict(list)
        for item in items:
            for place in getattr(item, "places", ((item.label, item.classname),)):
                classes[place].append(item)
        for (label, classname), of_class in classes.items():
            digest = hashlib.sha256()
            for item in of_class:
                file = item.impath.removeprefix(f"{folder}/")
                line = f"{file}\0{keys[item.impath]}\0"
                digest.update(line.encode(errors="surrogatepass"))
            text = f"{len(of_class):,} images, {digest.hexdigest()[:16]}"
            texts[f"{part} of class {label} '{classname}'"] = text
    return texts


def fingerprint(divided):
    """Return a hash of a `division`: of classes, files, their parts, their sizes and contents."""
    lines = "".join(f"{name}\0{text}\0" for name, text in divided.items())
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def _hash_file(path):
    """Return a hash of the size and the start of a file, of all of it up to 16 MiB."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
        digest.update(file.read(MOST))  # a huge file is not read to its end
    return digest.digest()


def check_copies(kind, source, parts, keys, rows=None):
    """Refuse copies of an image in two parts, and note those in one, where a set asks for this.

    Nothing is asked of embedded or only tested images. `parts` are train, val and test, lists of
    Datum; `keys` are those of `read_keys` or `row_keys`; `rows` is the content of a file of
    features, which may name another data set, or None.
    """
    if kind.embedded or kind.only_tested:
        return
    if rows is not None and rows.dataset in DATASET_REGISTRY.registered_names():
        kind = DATASET_REGISTRY.get(rows.dataset)
    published, whole = getattr(kind, "expected", None) is not None, _hash_file
    if rows is not None and not published:
        keys = content_keys(rows)
        whole = keys.get
    check_apart(source, parts, keys, published, whole)
    note_twice(source, parts, keys, published, whole)


def check_apart(source, parts, keys, published, whole=_hash_file):
    """Check that no image is in two parts: as the same file, or as a copy of it.

    Of public data as they were `published`, only a file that is also for training is refused: some
    have copies of images, and ImageNet's validation images are its test images. Values of `whole`,
    a function of a path, are equal for equal images; `source` is the folder, for messages.
    """
    places: dict[int, int] = {}  # a bit for each part with files of this key
    for bit, items in enumerate(parts):
        for item in items:
            key = keys[item.impath]
            places[key] = places.get(key, 0) | 1 << bit
    several = {key for key, bits in places.items() if bits & (bits - 1) and key != EMPTY}
    by_content = defaultdict(list)  # candidates: whole files are read only of these
    for part, items in zip(PARTS, parts, strict=True):
        for item in items:
            if keys[item.impath] in several:
                path = os.path.normpath(item.impath)
                by_content[path if published else whole(item.impath)].append((part, path))
    pairs = [
        (*copies[0], *other)
        for copies in by_content.values()
        for other in copies[1:]
        if other[0] != copies[0][0] and (copies[0][0] == "train" or not published)
    ]
    if pairs:
        part, path, other_part, other = pairs[0]
        raise UserError(
            f"{len(pairs):,} images of '{source}' are also in another part, such as '{path}' "
            f"({part}) and '{other}' ({other_part}): keep one of each, for a test on images that "
            "were trained on shows nothing"
        )


def note_twice(source, parts, keys, published, whole=_hash_file):
    """Print a note about images that a part lists twice, or that are in two classes of it.

    `published` is True for public data, whose copies are left as they are; the others are as of
    `check_apart`.
    """
    twice = []
    for items in parts:
        seen: dict[int, Datum] = {}
        for item in items:
            first = seen.setdefault(keys[item.impath], item)
            if first is item or keys[item.impath] == EMPTY:
                continue
            if os.path.normpath(first.impath) == os.path.normpath(item.impath) or (
                first.label != item.label
                and not published
                and whole(first.impath) == whole(item.impath)
            ):
                twice.append((first, item))
    if twice:
        (a, b), count = twice[0], len(twice)
        print(
            f"Note: '{source}' has {count:,} images twice in the same part, such as '{a.impath}' "
            f"(a '{a.classname}') and '{b.impath}' (a '{b.classname}'): keep one of each"
        )


def note_transparent(items):
    """Print a note that counts the transparent images of some Datum."""
    if note := transparency_note([*dict.fromkeys(item.impath for item in items)]):
        print(note)


def note_groups(dataset, train, test):
    """Print a note about test images whose group (`splits.group_of`) also has training images."""
    trained = {group_of(item) for item in train} - {None}
    if shared := [item for item in test if group_of(item) in trained]:
        print(
            f"Note: {len(shared):,} of the {len(test):,} test images of {dataset} share a group "
            f"with training images, such as '{shared[0].impath}' (group '{group_of(shared[0])}'): "
            "accuracy may be lower on images of other groups"
        )
