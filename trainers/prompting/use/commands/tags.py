"""Prints tags of images as they are found, so that an interrupted command has printed some."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import printable
from ...images.tables import SPLIT

# A file, and its tags with the scores of all names.
Tagged = tuple[str, Any]


def tags_of(run: Any, sure: bool, paths: list[Path], output: Any) -> Iterator[Tagged]:
    """Yield images with their tags and scores, from the output for them."""
    yield from zip(map(str, paths), run.tags(output, sure, paths), strict=True)


def print_tags(kind: str, found: Iterable[Tagged], names: Sequence[str]) -> None:
    """Print images with their tags, as `kind` says; no tag is an answer."""
    if kind == "json":
        print_list(
            {"image": file, "tags": tags, "scores": dict(zip(names, scores, strict=True))}
            for file, (tags, scores) in found
        )
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if kind == "csv":
        writer.writerow(map(printable, ["path", "tags", *names]))
    for file, (tags, scores) in found:
        if kind == "csv":
            cells = (f"{x:.6g}" for x in scores)
            writer.writerow([*map(printable, (file, SPLIT.join(tags))), *cells])
            sys.stdout.flush()
        else:
            print(printable(f"{file}: {', '.join(tags) or '-'}"), flush=True)


def print_list(objects: Iterable[dict[str, Any]]) -> None:
    """Print a list of objects in JSON as they come; an error still closes the list."""
    print("[", end="")
    start = "\n"
    try:
        for found in objects:
            print(start + json.dumps(found), end="", flush=True)
            start = ",\n"
    finally:
        print("\n]", flush=True)
