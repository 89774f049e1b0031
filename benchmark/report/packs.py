"""Read packs: zips with the records and predictions of runs.

Packs are untrusted: nothing in them is executed or unpacked onto the disk, and memory is allocated
for actual content, not for the sizes that a pack claims.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np

from recipe.predictions import NAME, arrays_in
from recipe.zips import opened, unpacked
from trainers.prompting.errors import UserError, in_short, printable

from ..protocols import PROTOCOLS
from ..protocols.base import Protocol
from .results import RESULTS, Outcome, flaw, misfit

FORMAT = 1
MANIFEST = "manifest.json"
# The files of a run: the most bytes of one such file, and of all of them together.
FILES = {RESULTS: (2**22, 2**27), NAME: (2**28, 2**32)}
MOST_MANIFEST = 2**24
MOST_LETTERS = 500
FACTS = ("data_fingerprint", "backbone_sha256")  # keys of a record that the manifest repeats


class Pack:
    """A pack whose files have all been checked against its manifest.

    Args:
        path: the zip.

    Raises:
        UserError: the file does not exist, is not a pack, is damaged, or could do harm.
    """

    def __init__(self, path: Path):
        self.path = path
        self._archive = self._opened()
        infos = {info.filename: info for info in self._archive.infolist()}
        if MANIFEST not in infos:
            self._refuse(f"it has no {MANIFEST}")
        self.manifest = self._json(self._bytes(MANIFEST, MOST_MANIFEST), MANIFEST)
        self.runs: dict[str, dict] = self._runs()
        self._check_names(set(infos) - {MANIFEST})
        self._check_files()

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"'{self.path}' is refused: {printable(why)}; get it again, or from another source",
            exit_code=1,
        )

    def _opened(self) -> zipfile.ZipFile:
        """Open the zip, and refuse members with unsafe names, repeated names, or links."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                self._refuse("it is not a regular file")
        except OSError as error:
            raise UserError(f"'{self.path}' cannot be read: {error.strerror}") from None
        try:
            archive = opened(self.path)
        except Exception as error:  # a damaged zip may raise nearly any type
            self._refuse(f"it cannot be read ({_reason(error)})")
        twice = Counter(info.filename for info in archive.infolist())
        for info in archive.infolist():
            if not is_safe(info.filename):
                self._refuse(f"its file name '{info.filename:.100}' is unsafe")
            if twice[info.filename] > 1:
                self._refuse(f"it has '{info.filename}' {twice[info.filename]} times")
            if stat.S_ISLNK(info.external_attr >> 16):
                self._refuse(f"its file '{info.filename}' is a link")
        return archive

    def _bytes(self, name: str, most: int) -> bytes:
        try:
            return unpacked(self._archive, name, most)
        except Exception as error:  # unpacking may raise nearly any type
            self._refuse(f"its file '{name}' cannot be read ({_reason(error)})")

    def _json(self, content: bytes, name: str) -> dict:
        """Return the object in a JSON file."""

        def no_number(word: str) -> NoReturn:
            raise ValueError(f"{word} is not a number")

        try:
            found = json.loads(content.decode(), parse_constant=no_number)
        except RecursionError:
            self._refuse(f"its file '{name}' is nested too deeply")
        except ValueError as error:
            self._refuse(f"its file '{name}' is not JSON ({_reason(error)})")
        if not isinstance(found, dict):
            self._refuse(f"its file '{name}' is not a JSON object")
        return found

    def _runs(self) -> dict[str, dict]:
        """Return the manifest's entry of each run, by the name of its folder."""
        found = self.manifest.get("format")
        if found != FORMAT:
            self._refuse(f"its format is {json.dumps(found)[:40]}, not {FORMAT}")
        runs = self.manifest.get("runs")
        if not isinstance(runs, dict) or not runs:
            self._refuse(f"{MANIFEST} lists no runs")
        for name, entry in runs.items():
            files = entry.get("files") if isinstance(entry, dict) else None
            if not isinstance(files, dict) or set(files) != set(FILES):
                self._refuse(f"{MANIFEST} does not list {' and '.join(FILES)} of the run '{name}'")
        return runs

    def _check_names(self, there: set[str]) -> None:
        """Refuse a pack whose files are not those that the manifest lists."""
        listed = {f"{folder}/{name}" for folder in self.runs for name in FILES}
        for name in sorted(listed - there):
            self._refuse(
                f"it lacks '{name}'" + ", the predictions of a run" * name.endswith(f"/{NAME}")
            )
        for name in sorted(there - listed):
            self._refuse(f"its file '{name}' is not listed in {MANIFEST}")

    def _check_files(self) -> None:
        """Refuse a pack whose files have changed, or have more bytes than a pack may have."""
        total: Counter = Counter()
        for folder in sorted(self.runs):
            for name, (_, most) in FILES.items():
                total[name] += len(self._file(folder, name))
                if total[name] > most:
                    self._refuse(f"its files {name} have more than {most:,} bytes")

    def _file(self, folder: str, name: str) -> bytes:
        """Return the content of a file of a run, after checking it against the manifest."""
        content, entry = self._bytes(f"{folder}/{name}", FILES[name][0]), self.runs[folder]["files"]
        if entry[name] != described(content):
            self._refuse(f"its file '{folder}/{name}' has changed since it was packed")
        return content

    def predictions(self, folder: Path) -> dict[str, np.ndarray]:
        """Return the predictions of a run.

        Args:
            folder: the folder of a `Run` of this pack.

        Raises:
            UserError: the file is not in the format of train.py.
        """
        name = folder.relative_to(self.path).as_posix()
        try:
            return arrays_in(self._file(name, NAME))
        except UserError:
            raise
        except Exception as error:
            self._refuse(f"its file '{name}/{NAME}' cannot be read ({_reason(error)})")

    def outcomes(self, protocols: Sequence[Protocol] | None = None) -> list[Outcome]:
        """Return the outcomes of the runs of some protocols, or of all.

        Raises:
            UserError: a record is not in the format of train.py, or belongs to another run.
        """
        every = list(PROTOCOLS.values())
        runs = {p: p.on_disk(self.path, sorted(self.runs)) for p in every}
        known = {self._name(run) for of in runs.values() for run in of}
        for name in sorted(set(self.runs) - known):
            self._refuse(f"its folder '{name}' does not belong to a run of any protocol")
        return [
            Outcome(run, self._record(run), predictions=self.predictions)
            for protocol in protocols or every
            for run in runs[protocol]
            if self._name(run) in self.runs  # false if a folder is `shots_04`, which is read as 4
        ]

    def _name(self, run) -> str:
        return run.folder.relative_to(self.path).as_posix()

    def _record(self, run) -> dict:
        name = self._name(run)
        result = self._json(self._file(name, RESULTS), f"{name}/{RESULTS}")
        why = flaw(result) or ((why := misfit(run, result)) and f"holds {why}")
        if why:
            self._refuse(f"its file '{name}/{RESULTS}' {why}")
        for key in FACTS:
            if result.get(key) != self.runs[name].get(key):
                self._refuse(f"its file '{name}/{RESULTS}' has another {key} than {MANIFEST}")
        result.pop("config", None)  # takes most of the memory
        return result


def _reason(error: Exception) -> str:
    return in_short(error).removeprefix("ValueError ")  # our own messages need no type


def is_safe(name: str) -> bool:
    """Return True if a relative file name stays inside its folder on any system."""
    parts = PurePosixPath(name).parts
    return (
        0 < len(name) <= MOST_LETTERS
        and "/".join(parts) == name  # not absolute; without `.`, `//` or a trailing `/`
        and ".." not in parts
        and not any(letter in name for letter in "\\:")
        and printable(name) == name
    )


def described(content: bytes) -> dict:
    """Return the manifest entry of a file."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def images_hash(arrays: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of a run's test images and their labels, independent of their order."""
    pairs = sorted(zip(arrays["image"].tolist(), arrays["label"].tolist(), strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
