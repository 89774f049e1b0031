"""Names of the user's own image folders, so that two folders are two data sets."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from trainers.prompting.errors import printable

from ..protocols.configs import IMAGE_FOLDER, dataset_name
from ..protocols.launches import read_launch
from ..records import Outcome, value_of


def images_folder(result: dict | None) -> Path | None:
    """Return the folder of the images of a record, if it says one that has a name."""
    root = Path(str(value_of(result, "DATASET.ROOT") or ""))
    return None if root.name in ("", "..") else root


def name_folders(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return outcomes in which each `image_folder` without a name has that of its folder.

    Runs without a record have the name of the others of their output. Folders of one name with
    other images are numbered, from the second: `photos #2`.
    """
    outcomes = list(outcomes)
    images: dict[Path, set] = defaultdict(set)
    by_origin: dict[str, Path] = {}
    for outcome in outcomes:
        folder = images_folder(outcome.result)
        if folder and outcome.run.dataset == IMAGE_FOLDER:
            images[folder].add((outcome.result or {}).get("data_fingerprint"))
            by_origin.setdefault(outcome.origin, folder)
    names, apart = {}, defaultdict[str, list[set]](list)  # folders of one name by their images
    for folder, mine in images.items():
        others = apart[folder.name]
        place = next((i for i, theirs in enumerate(others) if mine & theirs), len(others))
        others[place : place + 1] = [mine.union(*others[place : place + 1])]
        number = f" #{place + 1}" if place else ""
        names[folder] = printable(f"{IMAGE_FOLDER}={folder.name}{number}")

    def rename(outcome: Outcome) -> Outcome:
        run, others = outcome.run, by_origin.get(outcome.origin)
        own = images_folder(outcome.result) if run.dataset == IMAGE_FOLDER else None
        if IMAGE_FOLDER not in (run.dataset, run.source) or not (folder := own or others):
            return outcome
        dataset, source = (
            names[folder] if asked == IMAGE_FOLDER else asked for asked in (run.dataset, run.source)
        )
        return replace(outcome, run=replace(run, dataset=dataset, source=source))

    return [rename(outcome) for outcome in outcomes]


def name_in(folder: Path, record: dict) -> str:
    """Return the name of the data set of a run: of own images, the one given, or their folder's."""
    dataset = str(record.get("dataset"))
    if dataset != dataset_name(IMAGE_FOLDER):
        return dataset
    run, images = read_launch(folder), images_folder(record)
    given = run.dataset.partition("=")[2] if run else ""
    return printable(given or (images.name if images else dataset))
