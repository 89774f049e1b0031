"""Sorts ImageNet's three official archives, which users get themselves, into CoOp's layout."""

import shutil
from pathlib import Path

from trainers.prompting.errors import UserError, by_system

from .archives import check_space

PARTS = {"train": ("train",), "val": ("val", "devkit")}  # torchvision's names of their archives


def lacking_archives(folder: Path) -> dict[str, str]:
    """Return the archives that the missing parts of `folder/images` are made of: name -> MD5."""
    lacking = [part for part in PARTS if not (folder / "images" / part).exists()]
    if not lacking:
        return {}
    from torchvision.datasets.imagenet import ARCHIVE_META  # slow to import

    return dict(ARCHIVE_META[kind] for part in lacking for kind in PARTS[part])


def arrange(folder: Path) -> list[str]:
    """Make each missing part of `folder/images` whose archives are in `folder`; they are kept.

    Returns:
        A sentence for each part that cannot be made.
    """
    from torchvision.datasets import imagenet as official

    problems = []
    for part, kinds in PARTS.items():
        done, hidden = folder / "images" / part, folder / "images" / f".{part}"
        archives = [folder / official.ARCHIVE_META[kind][0] for kind in kinds]
        names = " and ".join(archive.name for archive in archives)
        if done.exists() or not all(archive.exists() for archive in archives):
            continue
        print(f"images/{part}: from {names}; if this is stopped, it begins anew", flush=True)
        try:
            shutil.rmtree(hidden, ignore_errors=True)  # left by a call that was killed
            hidden.mkdir(parents=True)
            check_space(hidden, archives[0].stat().st_size)
            if part == "val":
                official.parse_devkit_archive(folder)
                official.parse_val_archive(folder, folder=f"images/{hidden.name}")
            else:
                official.parse_train_archive(folder, folder=f"images/{hidden.name}")
            hidden.rename(done)
            print(f"images/{part}: is complete; not needed any more: {names}")
        except RuntimeError:  # torchvision's, of a file with another MD5
            one = names.replace(" and ", " or ")
            problems.append(f"images/{part}: {one} is not the official file: get it again")
        except (UserError, OSError) as error:
            problems.append(f"images/{part}: {by_system(error) or error}")
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    return problems
