"""The embedded benchmark: emoji in styles that the embedded CLIP has never seen.

The images come with this repository: assets/emoji.zip, made by assets/builders/archive.py, and
assets/emoji_artists.zip, made by assets/builders/artists.py.
"""

import contextlib
import hashlib
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting.errors import UserError

from .base import ImageDataset

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHIVE = REPOSITORY / "assets" / "emoji.zip"
ARTISTS = REPOSITORY / "assets" / "emoji_artists.zip"


def unpack(archive, root):
    """Unpack the archive below `root` unless that is done already, and return its folder.

    The folder's name has the archive's hash, so another archive gets another folder; it appears
    by one rename, so several processes may do this at once.
    """
    try:
        version = hashlib.sha256(Path(archive).read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise UserError(f"The emoji images are missing, restore '{archive}': {error}") from None
    folder = Path(root) / "emoji" / version
    if folder.is_dir():
        return folder
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
        temporary.chmod(0o755)  # mkdtemp's own rights would shut other users out
        with zipfile.ZipFile(archive) as file:
            file.extractall(temporary)
        with contextlib.suppress(OSError):  # another process was faster
            temporary.rename(folder)
        if not folder.is_dir():
            raise OSError(f"'{temporary}' could not be renamed to '{folder}'")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"The emoji images could not be unpacked from '{archive}' into '{folder}': {error}"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def remove_leftovers(parent):
    """Remove what a killed process had begun to unpack an hour ago or earlier."""
    for left in parent.glob(".unpacking-*"):
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)


@DATASET_REGISTRY.register()
class Emoji(ImageDataset):
    """OpenMoji in colour, 37 CLDR subgroups, split by motif."""

    split_file = "split_emoji.json"
    archive = ARCHIVE
    embedded = True

    def locate(self, cfg):
        """Below DATASET.ROOT, or below data/ in the repository when there is none."""
        root = cfg.DATASET.ROOT
        root = Path(root).expanduser().absolute() if root else REPOSITORY / "data"
        return unpack(self.archive, root)


# OpenMoji and Fluent 3D in other styles, with the same emoji in each part as in `Emoji`; and with a
# class for each animal, and for each food or drink.
for name in (
    "Blur", "Fog", "Hue", "Dither", "Motion", "Night", "Pixels", "Animals", "Food",
):  # fmt: skip
    split = {"split_file": f"split_emoji_{name.lower()}.json"}
    DATASET_REGISTRY.register(type(f"Emoji{name}", (Emoji,), split))

# One an artist, with the same motifs in each part of all; in `a` and in `b` other classes are base.
for artist in ("Openmoji", "Fluent", "Emojione", "Symbola"):
    for half in "ab":
        file = f"split_emoji_{artist.lower()}_{half}.json"
        own = {"split_file": file, "archive": ARTISTS}
        DATASET_REGISTRY.register(type(f"Emoji{artist}{half.upper()}", (Emoji,), own))
