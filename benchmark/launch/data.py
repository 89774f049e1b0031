"""Check that a record belongs to the data and the CLIP that a run asks for."""

import functools
import io
import os
from contextlib import redirect_stdout

from trainers.prompting.embedded import file_sha256, other_weights
from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.run_record import sentences_text, stream_text

from ..protocols.base import Run
from ..protocols.configs import dataset_class, dataset_name
from ..records import value_at

IMAGES = "ImageFolder"  # the data set whose images are in --root itself


def fingerprint_at(dataset: str, root: str) -> str | None:
    """Return the fingerprint of a data set, as in records; None if it cannot be read here."""
    try:
        from datasets import contents  # with PyTorch

        kind = dataset_class(dataset)
        with redirect_stdout(io.StringIO()):  # a run prints the same
            folder, parts = kind.look(root)
            keys = contents.read_keys(parts)
        return contents.fingerprint(contents.division(folder, parts, keys))
    except (UserError, OSError, ModuleNotFoundError):
        return None


def weights_digest(backbone: str) -> str | None:
    """Return the SHA-256 of a backbone, as in records; None if it cannot be read here."""
    try:
        from trainers.prompting.backbones import weights_sha256  # with PyTorch

        return weights_sha256(backbone)
    except (OSError, ModuleNotFoundError):
        return None


class Present:
    """Present data sets and backbones: their `fingerprint` and `weights`, each read once."""

    def __init__(self) -> None:
        self.fingerprint = functools.cache(fingerprint_at)
        self.weights = functools.cache(weights_digest)


def other_data(run: Run, result: dict, root: str | None, now: Present) -> str | None:
    """Return how the data of a record differ from those that a run asks for; None if they do not.

    The fingerprints decide, also those of TEST.OOD, regardless of the folder. If there is none
    (embedded data, a data set of other code, or data that cannot be read here), the root decides
    for the user's own images; other data sets are identified by name. A `root` of None accepts that
    of the record.
    """
    then = value_at(result.get("config"), "DATASET.ROOT")
    if not isinstance(then, str):
        return None
    root, own = then if root is None else root, result.get("data_fingerprint")
    sets = {run.dataset: own} | (result.get("ood_fingerprints") or {})
    current = {name: was and now.fingerprint(name, root) for name, was in sets.items()}
    if any(current[name] and current[name] != was for name, was in sets.items()):
        return f"other classes or files than '{printable(root)}' has"
    same_root = os.path.realpath(then) == os.path.realpath(root)
    if dataset_name(run.dataset) == IMAGES and not (same_root or current[run.dataset]):
        return f"the images in '{printable(then)}', not '{root}'"
    return None


def other_clip(result: dict, now: Present) -> str | None:
    """Return how the CLIP of a record differs from what has its name now; None if it does not."""
    name, then = result.get("backbone"), result.get("backbone_sha256")
    return other_weights(name, then, now.weights(name)) if isinstance(name, str) and then else None


def other_sentences(result: dict) -> str | None:
    """Return how the file of sentences has changed since a record; None if it has not."""
    then, path = result.get("sentences"), value_at(result.get("config"), "DATASET.SENTENCES")
    same = not then or not os.path.isfile(str(path)) or sentences_text(path) == then
    return None if same else f"the sentences {then}, not {sentences_text(path)}"


def other_order(result: dict) -> str | None:
    """Return how the file of a stream has changed since a record; None if it has not."""
    then, path = value_at(result, "stream.name"), value_at(result, "config.TEST.STREAM")
    now = stream_text(str(path))
    return None if not then or now in (then, path) else f"the stream {then}, not {now}"


def other_earlier(result: dict) -> str | None:
    """Return how the teacher or the start of a record differs from what is in its folder now.

    Returns:
        None if they do not, and where there is none to compare.
    """
    for name in ("teacher", "start"):
        earlier = result.get(name) or {}
        try:
            from trainers.prompting.checkpoint.saved import Saved  # with PyTorch

            now = Saved.find(str(earlier["place"]), "", "").digest()
        except (KeyError, UserError, OSError, ModuleNotFoundError):
            continue
        if earlier.get("digest", now) != now:  # public files have none
            return f"another {name} in '{printable(str(earlier['place']))}'"
    return None


def other_features(result: dict, file: str) -> str | None:
    """Return how the features of a record differ from the `file` of a run; None if they do not."""
    then, now = result.get("features"), file_sha256(file) if os.path.isfile(file) else None
    if then == now or (file and now is None):  # the run itself says that there is no file
        return None
    return f"{f'features {then[:8]}...' if then else 'images'}, not {file or 'images'}"
