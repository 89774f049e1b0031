"""Read an archive of `archive` that somebody hands on: unpacked safely, and checked.

Nothing in it is executed: records are JSON, and predictions are arrays without pickled objects.
"""

import contextlib
import io
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from trainers.prompting.errors import UserError, in_short, need, printable
from trainers.prompting.record.metrics import metrics
from trainers.prompting.record.predictions import NAME as PREDICTIONS
from trainers.prompting.record.predictions import read_predictions

from ..records import METRICS, PER_CLASS, RESULTS, Outcome
from .archive import COMMANDS, ENVIRONMENT, RUNS, SUFFIX

MOST, MOST_OF_FILE, MEMBERS = 4 << 30, 256 << 20, 100_000  # bytes unpacked; files
KNOWN = (RESULTS, PREDICTIONS)
EXACT, TOLERANCE = 1e-9, 1e-3  # relative: likelihoods are kept in half precision
MOST_CLASSES = 100_000  # more have no use, but would need memory


@contextlib.contextmanager
def open_archives(outputs: list[Path]) -> Iterator[list[Path]]:
    """Yield these folders, with archives among them unpacked into a folder that is then deleted.

    Raises:
        UserError: an archive is broken, too large, or holds something else than runs.
    """
    with contextlib.ExitStack() as stack:
        folders: list[Path] = []
        for output in outputs:
            if output.name.endswith(SUFFIX) and output.is_file():
                parent = stack.enter_context(tempfile.TemporaryDirectory(prefix="align_"))
                name = output.name.removesuffix(SUFFIX) or "archive"
                repeats = sum(
                    name == other.name.removesuffix(SUFFIX) for other in outputs[: len(folders)]
                )
                folder = Path(parent, f"{name} {repeats + 1}" if repeats else name)
                folder.mkdir()
                unpack_runs(output, folder)
                output = folder
            folders.append(output)
        yield folders


class Bounded:
    """An unpacked stream that refuses to give more than an archive may hold."""

    def __init__(self, stream: IO[bytes], name: str):
        self.stream, self.name, self.left = stream, name, MOST
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`."""
        self.check(size)
        content = self.stream.read(size)
        self.left -= len(content)
        return content

    def check(self, size: int) -> None:
        """Raise UserError if so many bytes are too many."""
        need(
            0 <= size <= min(self.left, MOST_OF_FILE),
            f"'{self.name}' is too large when unpacked (a file above {MOST_OF_FILE >> 20} MiB, or "
            f"all above {MOST >> 30} GiB), so it was not read: ask for the archive of fewer runs",
        )


def unpack_runs(file: Path, folder: Path) -> None:
    """Write the runs of an archive into a folder.

    Raises:
        UserError: it is broken, too large, or holds something else than runs.
    """
    try:
        with lzma.open(file) as raw:
            stream = Bounded(raw, str(file))
            with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
                for number, member in enumerate(archive):
                    place = _place(file, member)
                    stream.check(member.size if number < MEMBERS else MOST)
                    content = archive.extractfile(member)
                    if place is None or content is None:
                        continue
                    data = content.read()
                    if place.name == PREDICTIONS:
                        stream.check(_unzip(data))
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    (folder / place).write_bytes(data)
    except (tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"'{file}' is broken, or no archive of `python -m benchmark archive` "
            f"({in_short(error, 80)}): ask for it again"
        ) from None
    except OSError as error:
        raise UserError(f"'{file}' cannot be unpacked ({error.strerror}): see TMPDIR") from None


def _place(file: Path, member: tarfile.TarInfo) -> PurePosixPath | None:
    """Return the place of a member below the folder; None for one that is not of a run.

    Raises:
        UserError: an archive of this project has no such member.
    """
    place = PurePosixPath(member.name)
    kind = "" if member.isreg() and not member.issparse() else "a link, a folder or a device"
    if place.is_absolute() or ".." in place.parts or "\\" in member.name:
        kind = "a path that leads out of it"
    elif not kind and member.name in (ENVIRONMENT, COMMANDS):
        return None
    elif place.parts[:1] != (RUNS,) or len(place.parts) < 3 or place.name not in KNOWN:
        kind = kind or "no file of a run"
    if kind:
        raise UserError(
            f"'{file}' holds '{printable(member.name):.100}', {kind}, so it was not read: ask for "
            "one that `python -m benchmark archive` has written"
        )
    return PurePosixPath(*place.parts[1:])


def _unzip(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(member.file_size for member in archive.infolist())


def check_outcomes(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return outcomes, with a problem in place of each record that its predictions contradict."""
    verified = []
    for outcome in outcomes:
        if outcome.result is not None and (why := contradiction(outcome)):
            outcome = replace(outcome, result=None, problem=f"contradicted: {why}")
        verified.append(outcome)
    return verified


def contradiction(outcome: Outcome) -> str | None:
    """Return where the record of a run differs from its predictions; None if it does not.

    A run without predictions cannot be checked. Of the metrics, those are compared that follow
    from what an archive keeps.
    """
    record = outcome.result or {}
    try:
        arrays = read_predictions(outcome.run.folder)
    except UserError as error:
        return str(error)
    if arrays is None:
        return None
    from sklearn.metrics import f1_score  # slow to load

    label, prediction = arrays["label"], arrays["prediction"]
    classes = list(record.get(PER_CLASS) or {})
    largest = max(label.max(), prediction.max())
    number = int(record.get("num_classes") or len(classes) or largest + 1)
    if largest >= number or len(classes) not in (0, number) or number > MOST_CLASSES:
        return f"the record has {number:,} classes, the predictions others"
    if record.get("num_test") not in (None, len(label)):
        return f"the record is of {record['num_test']} images, {len(label)} are predicted"
    computed = metrics(arrays, classes or [str(k) for k in range(number)])
    computed["accuracy"] = 100 * float((prediction == label).mean())
    f1 = f1_score(label, prediction, labels=np.unique(label), average="macro")
    computed["macro_f1"] = 100 * f1
    by_class = computed.pop(PER_CLASS)
    for key, tolerance in (("accuracy", EXACT), ("macro_f1", EXACT),
                           ("calibration_error", TOLERANCE),
                           ("negative_log_likelihood", TOLERANCE)):  # fmt: skip
        recorded, value = record.get(key), computed[key]
        if recorded is not None and abs(recorded - value) > tolerance * max(1, abs(value)):
            name = METRICS[key].head
            return f"{name} is {recorded:.10g} in the record and {value:.10g} by the predictions"
    for name in classes:
        accuracies = record[PER_CLASS][name], by_class[name]
        recorded, value = (-1.0 if x is None else x for x in accuracies)
        if abs(recorded - value) > EXACT * 100:
            return f"the accuracy of the class '{name}' differs between record and predictions"
    return None
