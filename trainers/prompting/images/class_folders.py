"""Lists images in class folders, and reads the names of the classes.

Long because folders of people take many forms, each with a rule or a sentence of its own.
"""

import contextlib
import importlib.util
import json
import os
import re
import time
from itertools import chain
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..errors import UserError, need, printable
from ..node import clean
from ..storage.files import is_visible, write_whole

IMG_EXTENSIONS: tuple[str, ...] = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)
PARTS = ("train", "val", "test")  # folders with class folders in them
HEIC = (".heic", ".heif")  # of phones; Pillow does not know them
UNREAD = HEIC if importlib.util.find_spec("pillow_heif") is None else ()
if not UNREAD:
    importlib.import_module("pillow_heif").register_heif_opener()
    IMG_EXTENSIONS += HEIC
SEVERAL, NONE = RESERVED = "several", "none of these"  # answers of a run, and so no classes
LOOSE = "it is in no class folder"
UNLABELLED = "unlabelled", "unlabeled"  # a folder beside class folders, of images without a label
NUMBERED = re.compile(r"\d+[-._ ]+[^\W\d]")  # the name of a folder such as `000.cat`
MANY = 100_000  # files from which names are cached: on a network, listing them takes minutes
SETTLED = 2.0  # seconds; a folder changed later than this gets another time stamp


def class_folders(parent):
    """Return the names of the visible folders in `parent`, sorted."""
    try:
        with os.scandir(parent) as entries:
            visible = [entry for entry in entries if is_visible(entry.name)]
        names = sorted(entry.name for entry in visible if entry.is_dir())
        lost = [entry.name for entry in visible if not os.path.exists(entry)]
    except OSError as error:
        raise UserError(
            f"The class folders belong in '{parent}', which cannot be read ({error.strerror}): put "
            "them there"
        ) from None
    if lost:
        raise UserError(
            f"'{parent}' has the link '{lost[0]}', which leads nowhere: restore or remove it"
        )
    return names


def labelled_folders(parent):
    """Return the class folders but UNLABELLED; raises as `class_folders`."""
    return [name for name in class_folders(parent) if name.casefold() not in UNLABELLED]


def say_unlabelled(parent):
    """Print which folder has images without labels, if there is one."""
    for name in class_folders(parent):
        if name.casefold() in UNLABELLED:
            print(f"Note: '{os.path.join(parent, name)}' is left out")


def class_level(parent, at=0):
    """Return the level of the class folders below `parent`, 1 or 2: `at`, if it is not 0.

    Raises UserError if both may be meant, as no folder has an image of its own, but some below it.
    """
    folders = labelled_folders(parent)
    if at or any(
        is_image(name) for x in folders for name in list_folder(os.path.join(parent, x))[0]
    ):
        return at or 1
    below = file_names(parent, folders, deep=True)
    found = min((f"{x}/{name}" for x in folders for name in below[x] if is_image(name)), default="")
    if not found:
        return 1
    first, second = found.split("/")[:2]
    raise UserError(
        f"'{parent}' has images only in folders within its folders, such as '{found}': say where "
        f"its classes are, with --classes-at 1 ('{first}') or 2 ('{second}'; in a training, "
        "DATASET.CLASSES_AT)"
    )


def class_places(parent, level):
    """Return class folder -> the folders of its images, relative to `parent`, but UNLABELLED.

    They are folders of `parent` at level 1, and those of one name in these at 2.
    """
    places: dict[str, list[str]] = {}
    for folder in labelled_folders(parent):
        inner = labelled_folders(os.path.join(parent, folder)) if level == 2 else ()
        for name in inner:
            places.setdefault(name, []).append(f"{folder}/{name}")
        if level == 1:
            places[folder] = [folder]
    return dict(sorted(places.items()))


def list_images(parent, classes, source=None, places=None, left_out=None):
    """Return the images in class folders: (path, label, class name), by class and file name.

    Args:
        parent: the folder of the class folders.
        classes: folder -> class name, in the order of the labels.
        source: the file with the class names, if it must name every folder.
        places: of a user's own images, as from `class_places`: subfolders are read, too.
        left_out: a list that gets (path, why) of other images; then a class may have none.
    """
    folders = class_folders(parent) if places is None else [*places]
    if missing := sorted(classes.keys() - folders):
        raise UserError(
            f"'{parent}' lacks {len(missing):,} of its {len(classes):,} class folders "
            f"({some(missing)}): restore them, for without them the other labels would shift"
        )
    if source and (unnamed := [folder for folder in folders if folder not in classes]):
        raise UserError(
            f"'{source}' has no name for {len(unnamed):,} of the {len(folders):,} class folders in "
            f"'{parent}' ({some(unnamed)}): add a line for each"
        )
    where = places or {folder: [folder] for folder in classes}
    listing = file_names(
        parent, [x for folder in classes for x in where[folder]], deep=bool(places)
    )
    items, others, empty = [], [], []
    for label, (folder, classname) in enumerate(classes.items()):
        files = [f"{x}/{name}" for x in where[folder] for name in sorted(listing[x])]
        names = [*filter(is_image, files)]
        others += [file for file in files if not is_image(file)]
        if not names and left_out is None:
            remedy = "fill it" if source else "fill or remove it"
            if unread := [*filter(is_other_image, files)]:
                remedy = f"convert such as '{os.path.basename(unread[0])}' to JPEG"
            path = os.path.join(parent, where[folder][0])
            raise UserError(f"The class folder '{path}' has no images: {remedy}")
        if not names:
            empty.append(folder)
        items += [(f"{parent}/{name}", label, classname) for name in names]
    if empty:
        print(f"Note: class folders of '{parent}' have no images that are read: {some(empty)}")
    note_others(parent, [os.path.basename(file) for file in others])
    beside = {os.path.dirname(x) for x in chain(*where.values())} - {""}  # of classes at level 2
    loose = sorted(filter(is_image, set(os.listdir(parent)).difference(folders)))
    loose += [f"{x}/{name}" for x in sorted(beside) for name in sorted(os.listdir(f"{parent}/{x}"))
              if is_image(name) and f"{x}/{name}" not in listing]  # fmt: skip
    if loose:
        print(
            f"Note: {len(loose):,} images in '{parent}' are left out, as they are in no class "
            f"folder: {some(loose)}"
        )
    if left_out is not None:
        left_out += [(f"{parent}/{x}", "its format is not read") for x in others
                     if is_other_image(x)]  # fmt: skip
        left_out += [(f"{parent}/{name}", LOOSE) for name in loose]
        left_out += [(f"{parent}/{x}", "the class has no image that is read") for x in empty]
    return items


def note_others(folder, names):
    """Print notes about files in a folder that are no images which are read; hidden ones are."""
    unread = [name for name in names if is_other_image(name)]
    others = [name for name in names if name[0] != "." and not is_other_image(name)]
    if unread:
        print(
            f"Note: {len(unread):,} images in '{folder}' are left out, as their formats are not "
            f"read (only {', '.join(IMG_EXTENSIONS)} are; convert to JPEG): {some(unread)}"
        )
    if others:
        print(
            f"Note: {len(others):,} files and folders in the class folders of '{folder}' are left "
            f"out, as their names do not end like those of images: {some(others)}"
        )


def check_parts(folder, used):
    """Print a note about unused folders beside train/; raises UserError for a misspelled val/."""
    beside = class_folders(folder)
    others = [x for x in beside if x.lower().startswith(("val", "dev")) and x != "val"]
    if "val" not in beside and others:
        raise UserError(
            f"'{folder}' has {others[0]}/, but validation images are read from val/: rename it"
        )
    if unread := [name for name in beside if name not in used]:
        print(f"Note: '{folder}' has parts, so that other folders are left out: {some(unread)}")


def file_names(parent, folders, many=MANY, deep=False):
    """Return the names of the files in each of the given folders of `parent`.

    If `deep`, those in its visible subfolders come with the names of these (`2021/a.jpg`). If there
    are `many` files, their names are cached in `PARENT.files.json`; folders that have changed since
    are listed again.
    """
    kept, cached = Path(f"{parent}.files.json"), {}
    with contextlib.suppress(OSError, ValueError):  # there is none, or a damaged one
        cached = json.loads(kept.read_bytes())
    entries, listed = {}, 0
    found: dict[str, list[str]] = {}
    for folder in tqdm(folders, str(parent), unit=" folders", mininterval=2, delay=3):
        found[folder], todo = [], [folder]
        while todo:
            own = todo.pop()
            path = os.path.join(parent, own)
            changed = os.stat(path).st_mtime
            entry = cached.get(own)
            if not entry or entry[0] != changed:
                settled = time.time() - changed > SETTLED
                entry = [changed if settled else None, *list_folder(path)]
                listed += 1
            entries[own] = entry
            _, names, inner = entry
            before = own[len(folder) + 1 :]
            found[folder] += [f"{before}/{name}" for name in names] if before else names
            if deep:
                todo += [f"{own}/{name}" for name in inner if is_visible(name)]
            else:
                found[folder] += inner
    if listed and sum(map(len, found.values())) >= many:
        with contextlib.suppress(OSError):  # without permission to write, they are listed each time
            write_whole(kept, json.dumps(entries))
    return found


def list_folder(path):
    """Return the names of the files in a folder, and those of its folders."""
    with os.scandir(path) as entries:
        both = [(x.name, os.path.isdir(x) if x.is_symlink() else x.is_dir()) for x in entries]
    return [name for name, inner in both if not inner], [name for name, inner in both if inner]


def is_image(name):
    """Return True for a visible file with the suffix of an image."""
    return not name.rpartition("/")[2].startswith(".") and name.lower().endswith(IMG_EXTENSIONS)


def is_other_image(name):
    """Return True for a visible file with the suffix of an image format that is not read."""
    name = os.path.basename(name)
    suffix = os.path.splitext(name)[1].lower()
    other = suffix in UNREAD or suffix in Image.registered_extensions()
    return name[0] != "." and other and not is_image(name)


def some(names, most=5):
    """Return names as a list in a sentence, shortened after `most`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_classnames(path, folders=()):
    """Read the class name of each folder, from a file with lines of a folder, a space and a name.

    Args:
        path: the file, such as ImageNet's classnames.txt.
        folders: existing folders, so that names with spaces are recognised.
    """
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"'{path}', which names the classes, cannot be read ({reason}): restore it"
        ) from None
    spaced = sorted((f for f in folders if " " in f), key=len, reverse=True)
    classes = {}
    for line in lines:
        first = line.split()[0]
        folder = next((f for f in spaced if line.startswith((f"{f} ", f"{f}\t"))), first)
        name = line[len(folder) :].strip()
        if not name:
            raise UserError(f"'{path}' has no class name after '{folder}': add one")
        if folder in classes:
            raise UserError(f"'{path}' has two lines for '{folder}': remove one")
        classes[folder] = name
    return classes


def class_names(root, folders):
    """Return folder -> class name in the order of the folders, and the file with names or None."""
    source = root / "classnames.txt"
    if not source.exists():
        like = [*root.glob("*class*.txt"), *root.glob("*Class*.txt"), *root.glob("*label*.txt")]
        if like := sorted({*like, *root.glob(f"train/{source.name}")}):
            print(f"Note: '{like[0]}' is not read: class names belong in '{source}'")
        if numbered := [name for name in folders if NUMBERED.match(name)]:
            print(
                f"Note: a CLIP reads numbers as part of class names ({some(numbered)}): rename the "
                f"folders, or write names into '{source}' (a line `{numbered[0]} NAME`)"
            )
        classes, source = {folder: clean(folder) for folder in folders}, None
    else:
        classes = dict(sorted(read_classnames(source, folders).items()))
    for folder, name in classes.items():
        check_class(name, f"the folder '{printable(root / folder)}'")
    return classes, source


def check_class(name, where):
    """Raise a UserError for a class name that is an answer of a run, or not printable."""
    need(name and printable(name) == name, f"The name of {where} cannot be printed: rename it")
    need(name not in RESERVED, f"{where} names the class '{name}', an answer of predict: rename it")


def name_key(name):
    """Return what names of one class share: letters, whatever their case, and no spaces."""
    return clean(name).replace(" ", "").casefold()


def read_lines(path):
    """Return the lines of a text file that are not blank, stripped."""
    lines = Path(path).read_bytes().decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]
