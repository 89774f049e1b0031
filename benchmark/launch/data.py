"""Read what the data, the CLIP and the files that a run asks for hold now."""

import functools
import io
import os
from contextlib import redirect_stdout
from typing import Any

from trainers.prompting.checkpoint.identity import Identity
from trainers.prompting.embedded import file_sha256
from trainers.prompting.errors import UserError

from ..protocols.base import Run
from ..protocols.configs import dataset_class, dataset_name
from ..records import identity_of

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
    except (UserError, OSError, ModuleNotFoundError, AttributeError):  # Dassl's own has no `look`
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


def present(
    asked: Identity, run: Run, result: dict, file: str, root: str | None, now: Present
) -> Identity:
    """Return what is asked for with what its files hold now, where a record says what they held.

    Fingerprints decide on the data, also on those of TEST.OOD, regardless of the folder. If there
    is none (embedded data, a data set of other code, or data that cannot be read here), the root
    decides for the user's own images; other data sets are identified by name. A `root` of None
    accepts that of the record. A `file` of features decides data and CLIP.
    """
    then, earlier = identity_of(result), earlier_digests(result)
    known: dict[str, Any] = {"DATASET.FEATURES": file_sha256(file) if os.path.isfile(file) else ""}
    if file:  # the run itself says that there is none
        data = {**asked.data, **known} if known["DATASET.FEATURES"] else asked.data
        return asked._replace(data=data, clip={}, earlier=earlier)
    place = then.value("DATASET.ROOT")
    if isinstance(place, str):
        root = place if root is None else root
        was, others = then.data.get("fingerprint"), then.data.get("ood") or {}
        known["fingerprint"] = was and now.fingerprint(run.dataset, root)
        known["ood"] = {name: x and now.fingerprint(name, root) or x for name, x in others.items()}
        if dataset_name(run.dataset) == IMAGES:
            known["DATASET.ROOT"] = os.path.realpath(os.path.expanduser(root)) if root else ""
    clip = asked.clip.get("name") or then.clip.get("name") or result.get("backbone")
    sha256 = now.weights(clip) if isinstance(clip, str) and then.clip.get("sha256") else None
    return asked._replace(
        data={**asked.data, **known}, clip={"name": clip, "sha256": sha256}, earlier=earlier
    )


def earlier_digests(result: dict) -> dict[str, str]:
    """Return the digests of what is now in the folders of the teacher and the start of a record."""
    found = {}
    for name in ("teacher", "start"):
        earlier = result.get(name) or {}
        try:
            from trainers.prompting.checkpoint.saved import Saved  # with PyTorch

            found[name] = Saved.find(str(earlier["place"]), "", "").digest()
        except (KeyError, UserError, OSError, ModuleNotFoundError):
            continue
    return found
