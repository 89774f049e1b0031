"""Sorts ImageNet's three official archives, which users get themselves, into CoOp's layout."""

import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from trainers.prompting.errors import UserError

from .archives import BROKEN, check_space, check_sum, progress

PARTS = {"train": ("train",), "val": ("val", "devkit")}  # torchvision's names of their archives


def wanted(folder: Path) -> dict[str, str]:
    """Return the archives that the missing parts of `folder/images` are made of: name -> MD5."""
    lacking = [part for part in PARTS if not (folder / "images" / part).exists()]
    if not lacking:
        return {}
    from torchvision.datasets.imagenet import ARCHIVE_META  # slow to import

    return dict(ARCHIVE_META[kind] for part in lacking for kind in PARTS[part])


def arrange(folder: Path) -> list[str]:
    """Make each missing part of `folder/images` whose archives are in `folder`; they are kept.

    What a stopped call has unpacked is used.

    Returns:
        A sentence for each part that cannot be made.
    """
    from torchvision.datasets.imagenet import ARCHIVE_META

    problems = []
    for part, kinds in PARTS.items():
        done = folder / "images" / part
        archives = {folder / name: md5 for name, md5 in (ARCHIVE_META[kind] for kind in kinds)}
        if done.exists() or not all(archive.exists() for archive in archives):
            continue
        try:
            sort_part(part, archives, folder / "classnames.txt", done)
        except (UserError, OSError) as error:
            problems.append(f"images/{part}: {error}")
        else:
            names = " and ".join(archive.name for archive in archives)
            print(f"images/{part}: is complete; not needed any more: {names}")
    return problems


def sort_part(part: str, archives: dict[Path, str], classnames: Path, done: Path) -> None:
    """Unpack a part into a hidden folder, which becomes `done`.

    Args:
        part: train or val.
        archives: of the part: archive -> MD5.
        classnames: the file with all classes.
        done: the folder to make.

    Raises:
        UserError: an archive is broken or another one, its classes are others, or the disk is full.
    """
    from datasets.files import read_classnames

    names = read_classnames(classnames)
    archive, *kit = archives
    hidden = done.with_name(f".{part}")
    with opened(archive) as file:
        pattern = r"ILSVRC2012_val_\d{8}\.JPEG" if kit else r"n\d{8}\.tar"
        members = listed(archive, file, pattern)  # reads to the end: a truncated archive is found
        if not hidden.exists():  # it is made below, of the right archives
            for path, md5 in archives.items():
                check_official(path, md5)
        wnids = validation_labels(*kit) if kit else [Path(member.name).stem for member in members]
        if kit and [int(member.name[15:23]) for member in members] != [*range(1, len(wnids) + 1)]:
            raise UserError(
                f"'{kit[0]}' has {len(wnids):,} labels, but '{archive}' has {len(members):,} "
                f"images, or not those with the numbers 1 to {len(wnids):,}: get both again"
            )
        if differ := names.keys() ^ set(wnids):
            raise UserError(
                f"'{archive}' and '{classnames}' must have the same classes, but "
                f"{len(differ):,} are in one of them only, such as {min(differ)}: get both again"
            )
        targets = {
            member: hidden / wnid / (member.name if kit else "")
            for member, wnid in zip(members, wnids, strict=True)
        }
        rest = [member for member, target in targets.items() if not target.exists()]
        left = sum(member.size for member in rest)
        hidden.mkdir(parents=True, exist_ok=True)
        check_space(hidden, left)
        new = hidden / ".new"
        shutil.rmtree(new, ignore_errors=True)  # left by a call that was stopped
        total = sum(member.size for member in members)
        with progress(f"sorting {archive.name}", total, total - left) as bar:
            for member in rest:
                if kit:
                    targets[member].parent.mkdir(exist_ok=True)
                    file.extract(member, new, filter="data")
                    (new / member.name).rename(targets[member])
                else:
                    check_space(hidden, member.size)
                    unpack_class(archive, file, member, new)
                    new.rename(targets[member])
                bar.update(member.size)
    shutil.rmtree(new, ignore_errors=True)
    hidden.rename(done)


def unpack_class(archive: Path, file: tarfile.TarFile, member: tarfile.TarInfo, folder: Path):
    """Unpack the archive of a class, which stands in another, into a folder."""
    path = archive / member.name
    with opened(path, file.extractfile(member)) as images:
        for image in listed(path, images, Path(member.name).stem + r"_\d+\.JPEG"):
            images.extract(image, folder, filter="data")


@contextmanager
def opened(archive: Path, stream: IO[bytes] | None = None) -> Iterator[tarfile.TarFile]:
    """Open an archive that is not compressed; if it is broken, UserError says so.

    Args:
        archive: its path.
        stream: its content, if it stands in another archive.
    """
    try:
        with tarfile.open(archive, "r:", stream) as file:
            yield file
    except BROKEN as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{archive}' is broken or incomplete ({error}): get it again") from None


def listed(archive: Path, file: tarfile.TarFile, pattern: str) -> list[tarfile.TarInfo]:
    """Return the members of an archive, sorted by name.

    Raises:
        UserError: there are none, or one is a link or has another name than it must have.
    """
    members = sorted(file.getmembers(), key=lambda member: member.name)
    for member in members:
        if not (member.isreg() and re.fullmatch(pattern, member.name)):
            raise UserError(
                f"'{archive}' holds '{member.name}', which does not belong there: get it again"
            )
    if not members:
        raise UserError(f"'{archive}' is empty: get it again")
    return members


def check_official(archive: Path, md5: str) -> None:
    """Raise UserError if an archive is not the one that ImageNet's page offers."""
    try:
        check_sum(archive, "md5", md5)
    except UserError as error:
        raise UserError(f"'{archive}' is not the official file: {error}; get it again") from None


def validation_labels(kit: Path) -> list[str]:
    """Return the class of each validation image, by the development kit.

    Raises:
        UserError: the kit does not hold them.
    """
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    with TemporaryDirectory() as scratch:  # torchvision writes there
        (Path(scratch) / kit.name).symlink_to(kit)
        try:
            parse_devkit_archive(scratch)
            return load_meta_file(scratch)[1]
        except (OSError, LookupError, *BROKEN) as error:
            raise UserError(f"'{kit}' does not hold the labels ({error!r}): get it again") from None
