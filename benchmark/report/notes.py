"""Places in words, and the sentences below tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from trainers.prompting.record.metrics import BINS, wilson

from ..protocols.base import shots_text
from .names import dataset_title, seeds_text
from .summary import metric_of, number_or_none, protocol_of
from .table import FEW
from .training import ATTACK

STD = "Mean ± sample standard deviation (n - 1) over the seeds."
INTERVAL = "Mean ± half of the 95% interval (Student's t) over the seeds."
OF_MAP = "Mean ± half of the 95% interval for other test images (jackknife) and other seeds."
OF_MAP_ONE = "± is half of the 95% interval for other test images (jackknife). One seed."
ONE_SEED = "One seed."
NONE_YET = "No run has finished."
SPREADS = (STD, INTERVAL, OF_MAP, OF_MAP_ONE, ONE_SEED, NONE_YET)
H_NOTE = "H is that of the means, 2 Base New / (Base + New), as in the papers."
AVERAGE_NOTE = "Means over the data sets."
OTHER_DATA = (
    "Other classes, or another number of test images, than published: {}. Published numbers are "
    "left out."
)
TARGET_AVERAGE = "The average is over the targets."
SEEDS = (
    "± is not about other test images: with {} of them, the 95% interval (Wilson) of an accuracy "
    "of 50% reaches from {:.0f} to {:.0f}%."
)

ATTACK_NOTE = (
    "Of lines with an attack, accuracy is that before it; `report --metrics` has Robust, the "
    "accuracy on attacked images."
)
STATIC_NOTE = (
    "static: attacked before the method adapts to the image, which an adaptive attack would not "
    "wait for."
)


# ------------------------------------------------------------------------------ places in words


def place_name(row: Any) -> str:
    """Return the head of a row's column in a table."""
    protocol = protocol_of(row)
    if protocol.across == "columns":
        return protocol.columns.get(row.column, row.column.capitalize())
    if protocol.across == "shots":
        return shots_text(row.shots)
    return "Average" if row.average else dataset_title(row.dataset)


def title_of(rows: Sequence[Any]) -> str:
    """Return the title of the rows of a table, or of several tables of a protocol together."""
    first, protocol = rows[0], protocol_of(rows[0])
    metric = metric_of(first.metric).head if first.metric != "accuracy" else "accuracy (%)"
    if first.average:
        return in_detail(f"{protocol.title}, {average_name(first)}: {metric}", first)
    tested = [row for row in rows if not row.average]
    splits = sorted({split for row in rows for split in row.split.split(" and ")})
    joint = protocol.across != "dataset" and len({row.dataset for row in tested}) > 1
    what = protocol.title if joint else table_name(first)
    seeds = {seed for row in tested for seed in row.seeds}
    return in_detail(f"{what}: {metric} on {' and '.join(splits)} images", first, seeds)


def in_detail(title: str, row: Any, seeds: Iterable[int] = ()) -> str:
    """Return a title with the shots of a row, if its columns do not say them, and seeds."""
    shots = [shots_text(row.shots)] * (protocol_of(row).across != "shots" and row.shots > 0)
    return ", ".join([title, *shots, *([seeds_text(sorted(seeds))] if seeds else [])])


def name_of_test(row: Any, shots: int) -> str:
    """Return the name of the test of a row, as `Base-to-new, DTD, new, 16 shots`."""
    protocol, source = protocol_of(row), dataset_title(row.source)
    what = [protocol.title, dataset_title(row.dataset)]
    what[1] += f" from {source}" if row.source not in ("", row.dataset) else ""
    what += [protocol.columns[row.column].lower()] if len(protocol.columns) > 1 else []
    return ", ".join([*what, shots_text(shots)])


def cell_name(row: Any, columns: Iterable[str]) -> str:
    """Return the data set, shots and columns of a row, as `DTD, Base, New`."""
    protocol = protocol_of(row)
    shots = [shots_text(row.shots)] if protocol.across == "shots" else []
    names = [protocol.columns[column] for column in columns]
    return ", ".join([dataset_title(row.dataset), *shots, *names])


def table_name(row: Any) -> str:
    """Return the name of a table by its protocol and data set, as `Few-shot on DTD`."""
    return protocol_of(row).table_title.format(
        dataset=dataset_title(row.dataset), source=dataset_title(row.source)
    )


def data_name(row: Any) -> str:
    """Return the data set, or the data sets of an average, that a row is of."""
    return average_name(row) if row.average else dataset_title(row.dataset)


def average_name(row: Any, count: int | None = None) -> str:
    """Describe an average (or that of `count` data sets) in words: `average over 11 data sets`."""
    kind = "embedded " * row.embedded
    return f"average over {count or row.of} {kind}data sets"


# ------------------------------------------------------------------------------ sentences


def caption(rows: list[Any]) -> list[str]:
    """Return the sentences below a table."""
    first, averages = rows[0], [row for row in rows if row.average]
    what = [*explain([first.metric]), *h_note(row.column for row in rows)]
    what += [note] if (note := protocol_of(first).note) else []
    if first.average:
        return [AVERAGE_NOTE, *what, *edited_note(rows), *computed_note(rows),
                *apart_note(averages), *attack_note(rows)]  # fmt: skip
    seeds = seeds_of(rows)
    spread = [spread_note(seeds, first)] * (seeds > 0 or first.metric == first.main)
    sentences = [*spread, *what, *edited_note(rows), *computed_note(rows)]
    sentences += [*repeated_note(rows), *attack_note(rows)]
    if first.metric == "map" and (lacking := max(row.lacking or 0 for row in rows)):
        sentences.append(f"Left out, as no test image has them: {lacking:.0f} classes.")
    if names := ", ".join(dict.fromkeys(dataset_title(x.dataset) for x in rows if x.other_data)):
        sentences.append(OTHER_DATA.format(names))
    teachers = {row.name: row.teacher for row in rows if number_or_none(row.teacher)}
    sentences += [f"Teacher of {name}: {text}." for name, text in teachers.items()]
    starts = {row.name: row.start for row in rows if number_or_none(row.start)}
    sentences += [f"Start of {name}: {text}." for name, text in starts.items()]
    if averages:
        sentences += [TARGET_AVERAGE, *apart_note(averages)]
    if labels := ", ".join(filter(None, dict.fromkeys(row.label for row in rows))):
        sentences.append(f"Read from log.txt files: {labels}.")
    return sentences


def edited_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the methods with runs of other code than the present, if any."""
    names = dict.fromkeys(f"{row.name} ({', '.join(row.edited)})" for row in rows if row.edited)
    return [f"Other code than the present, at least in part: {', '.join(names)}."] if names else []


def repeated_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the seeds of a line whose losses are all equal, if any are."""
    repeated = {row.name: sorted(row.repeated) for row in rows if isinstance(row.repeated, set)}
    names = ", ".join(f"{name} ({seeds_text(seeds)})" for name, seeds in repeated.items())
    return [f"Seeds whose losses are all equal, as of one training: {names}."] if names else []


def h_note(columns: Iterable[str]) -> list[str]:
    """Return the sentence that explains H, if it is one of these columns."""
    return [H_NOTE] if "h" in columns else []


def explain(names: Iterable[str]) -> list[str]:
    """Return a sentence on those of these metrics that need one, if any."""
    notes = [note.format(BINS) for name in names if (note := metric_of(name).note)]
    return [f"{'; '.join(notes)}."] if notes else []


def seeds_of(rows: Iterable[Any]) -> int:
    """Return the largest number of seeds that a mean in these rows is over."""
    return max((row.count for row in rows if not row.average), default=0)


def spread_note(seeds: int, row: Any) -> str:
    """Return the sentence on the cells of a row's table, given its largest number of seeds."""
    if not seeds:
        return NONE_YET
    if row.interval and row.metric == "map":
        return OF_MAP if seeds > 1 else OF_MAP_ONE
    return ONE_SEED if seeds < 2 else INTERVAL if row.interval else STD


def apart_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the settings in which the data sets of averages differ, if any."""
    names = dict.fromkeys(f"{row.name} ({row.apart})" for row in rows if row.apart)
    return [f"Settings that differ between the data sets: {', '.join(names)}."] if names else []


def attack_note(rows: Iterable[Any]) -> list[str]:
    """Return sentences on the attacks of rows of tables, if there are any."""
    texts = [text for row in rows if (text := dict(row.settings).get(ATTACK))]
    return [ATTACK_NOTE] * bool(texts) + [STATIC_NOTE] * any("static" in text for text in texts)


def computed_note(rows: Iterable[Any]) -> list[str]:
    """Return a sentence on the precisions that rows were computed in, if there are several."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for precision in row.precisions:
            names[precision][row.name] = None
    parts = [f"in {precision}: {', '.join(names[precision])}" for precision in sorted(names)]
    return [f"Computed {'; '.join(parts)}."] if len(parts) > 1 else []


def few_note(rows: Sequence[Any], spread: bool) -> list[str]:
    """Return sentences on few training images of a class, and of means with a spread, few tests."""
    least = min((x for row in rows if 0 < (x := row.least) < row.shots), default=None)
    notes = []
    if least is not None:
        images = f"{least:.0f} training image{'s' * (least > 1)}"
        notes.append(f"The smallest class has {images}, not all shots.")
    accuracies = (row for row in rows if row.metric == "accuracy" and not row.average)
    tested = {int(row.images) for row in accuracies if number_or_none(row.images)}
    some = sorted(count for count in tested if 0 < count < FEW)
    if some and spread:
        fewest = f"{some[0]}" + " (the fewest here)" * (len(tested) > 1)
        low, high = wilson(round(some[0] / 2) / some[0], some[0])
        notes.append(SEEDS.format(fewest, 100 * low, 100 * high))
    return notes
