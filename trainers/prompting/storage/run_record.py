"""The record of a run, `results.json`: its numbers, read and checked."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..embedded import file_sha256
from ..errors import in_short

RECORD = "results.json"
RUN = "run.json"  # what the run is: `checkpoint.identity`
DRAWN = ("shuffled", "few", "stream", "separate")  # first words of a TEST.STREAM that is no file


class BadRecord(Exception):
    """A record that cannot be used; the message says why."""


def is_number(value: object, most: float = sys.float_info.max) -> bool:
    """Return True for a finite number from 0 to `most`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def is_percent(value: object) -> bool:
    """Return True for a number from 0 to 100."""
    return is_number(value, 100)


def main_metric(record: Mapping) -> str:
    """Return the key of the number that stands for a run: mAP if its images have several labels."""
    return "map" if record.get("several") else "accuracy"


def flaw(record: object) -> str | None:
    """Return why a record cannot be used; None if it has its main metric."""
    key = main_metric(record) if isinstance(record, dict) else "accuracy"
    if not isinstance(record, dict) or record.get(key) is None:
        return f"holds no {key}"
    if not is_percent(record[key]):
        text = json.dumps(record[key])[:40]
        return f"holds {key} {text}, which is not from 0 to 100"
    return None


@contextlib.contextmanager
def taking_apart(folder: Path) -> Iterator[None]:
    """Turn any error over what the record in a run folder holds into BadRecord."""
    try:
        yield
    except BadRecord:
        raise
    except Exception as error:  # odd content raises errors of many types
        raise BadRecord(f"{folder / RECORD} cannot be read ({in_short(error)})") from None


def read_record(folder: Path, flaw: Callable[[Any], str | None] = flaw) -> dict[str, Any] | None:
    """Return the record in a run folder; None if there is none.

    `flaw` says why a record cannot be used, or returns None.

    Raises:
        BadRecord: it cannot be read or used.
    """
    path = folder / RECORD
    with taking_apart(folder):
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        if why := flaw(record):
            raise BadRecord(f"{path} {why}")
        return record


def order_path(stream: str) -> str:
    """Return the path in a TEST.STREAM, which may end in the size of a batch."""
    return os.path.expanduser(re.sub(r":\d{1,9}$", "", stream))


def stream_text(stream: str) -> str:
    """Return a TEST.STREAM as records have it: of a file its name and what it holds."""
    path = order_path(stream)
    if stream.partition(":")[0] in DRAWN or not os.path.isfile(path):
        return stream
    return f"{os.path.basename(stream)} {file_sha256(path)[:12]}"


def sentences_text(source: str) -> str:
    """Return a DATASET.SENTENCES as records have it: of a file its name and what it holds."""
    if not source.endswith(".json") or not os.path.isfile(source):
        return source
    return f"{os.path.basename(source)} {file_sha256(source)[:12]}"
