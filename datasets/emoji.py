"""The embedded benchmark: emoji in styles that the embedded CLIP has never seen.

The images are in this repository: trainers/prompting/embedded/emoji.zip and
assets/emoji_artists.zip.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting.embedded import IMAGES

from .base import ImageDataset

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHIVE = IMAGES
ARTISTS = REPOSITORY / "assets" / "emoji_artists.zip"


def home():
    """Return the folder for unpacked images: data/ here, or the user's cache if that is locked."""
    data = REPOSITORY / "data"
    free = os.access(data if data.exists() else REPOSITORY, os.W_OK)
    return data if free else Path("~/.cache/align").expanduser()


def unpack(archive, root):
    """Unpack the archive below `root` if it is not unpacked yet, and return its folder.

    The folder's name has the archive's hash, so another archive gets another folder. The folder
    is created by one rename, so several processes may do this at once.
    """
    version = hashlib.sha256(Path(archive).read_bytes()).hexdigest()[:12]

    def extract(folder):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)

    return filled(Path(root) / "emoji" / version, extract)


def filled(folder, fill):
    """Return a folder, which the function `fill` fills if it does not exist yet."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        temporary.chmod(0o755)  # mkdtemp denies access to other users
        fill(temporary)
        with contextlib.suppress(OSError):  # another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@DATASET_REGISTRY.register()
class Emoji(ImageDataset):
    """Colour OpenMoji in 37 classes (CLDR subgroups), split by motif."""

    split_file = "split_emoji.json"
    archive = ARCHIVE
    embedded = True

    def locate(self, cfg):
        """Return the unpacked folder: below data/ here, for any DATASET.ROOT.

        In a root with the user's own images, its name would be one of their classes.
        """
        return unpack(self.archive, home())


# OpenMoji and Fluent 3D in other styles, with the same emoji in each part as in `Emoji`. In Animals
# and Food, each animal or food is a class.
for name in (
    "Blur", "Fog", "Hue", "Dither", "Motion", "Night", "Pixels", "Animals", "Food",
):  # fmt: skip
    split = {"split_file": f"split_emoji_{name.lower()}.json"}
    DATASET_REGISTRY.register(type(f"Emoji{name}", (Emoji,), split))

# Two data sets for each artist. The motifs in each part are the same for all artists; `a` and `b`
# differ in their base classes.
for artist in ("Openmoji", "Fluent", "Emojione", "Symbola"):
    for half in "ab":
        file = f"split_emoji_{artist.lower()}_{half}.json"
        own = {"split_file": file, "archive": ARTISTS}
        DATASET_REGISTRY.register(type(f"Emoji{artist}{half.upper()}", (Emoji,), own))
