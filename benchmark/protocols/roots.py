"""The places of data sets: their images, or their files of features."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainers.prompting.errors import UserError

from .configs import IMAGE_FOLDER, dataset_file, features_of, keys_in


@dataclass(frozen=True, eq=False)  # hashed by identity: a dict is not hashable
class Roots:
    """The folder --root of a command, and files of features by data set."""

    root: Path | None = None
    features: Mapping[str, str] = field(default_factory=dict)

    def given_root(self, dataset: str) -> Path | None:
        """Return the --root of a data set.

        For `image_folder=NAME`, it is the folder NAME in --root if that has class folders.
        """
        name = dataset.partition("=")[2]
        if self.root and name and any(path.is_dir() for path in (self.root / name).glob("*")):
            return self.root / name
        return self.root

    def check_apart(self, datasets: Iterable[str]) -> None:
        """Raise a UserError if two data sets would read one file of features, or one folder."""
        read: dict[str, str] = {}
        for dataset in sorted(datasets):
            file = self.features.get(dataset) or features_of(dataset)
            root = self.given_root(dataset) if dataset.startswith(IMAGE_FOLDER) else None
            if not (place := file or root):
                continue
            other = read.setdefault(os.path.realpath(place), dataset)
            if other != dataset:
                remedy = "give each its own file, in separate commands"
                if not file:
                    remedy = f"put the class folders of each data set into '{place}/NAME'"
                raise UserError(f"{other} and {dataset} would both read '{place}': {remedy}")

    def root_of_set(self, dataset: str) -> str | None:
        """Return the folder of a data set, or of all data sets; None if none is set."""
        root = self.given_root(dataset) or keys_in(dataset_file(dataset)).get("DATASET.ROOT")
        return str(root) if root else None
