"""Sentences below tables on few images, and intervals of the accuracy of one run."""

from itertools import chain

from trainers.prompting.record.metrics import wilson

from .tables import Cell, Table, number_or_none

FEW = 1000  # test images; with fewer, an accuracy has an interval
TOO_FEW = 6  # test images; with fewer, their number stands beside the interval
ONE_RUN = (
    "[low, high]: 95% interval (Wilson) for other test images, shown for fewer than 1,000. It does "
    "not say how other trainings would differ."
)
SEEDS = (
    "± is not about other test images: with {} of them, the 95% interval (Wilson) of an accuracy "
    "of 50% reaches from {:.0f} to {:.0f}%."
)


def interval(cell: Cell) -> str:
    """Return the interval of the accuracy of one run on few images; empty for other cells."""
    if not cell.images or cell.images >= FEW or cell.value is None:
        return ""
    right = round(cell.images * cell.value / 100)
    low, high = wilson(right / cell.images, cell.images)
    few = f" ({cell.images} images)" if cell.images < TOO_FEW else ""
    return f"[{100 * low:.1f}, {100 * high:.1f}]{few}"


def notes(table: Table) -> list[str]:
    """Return the sentences below a table, with those on few images of a class or test."""
    cells, caption = list(chain(*table.lines)), [*table.caption, *_shots_note(table)]
    if any(map(interval, cells)):
        return [*caption, ONE_RUN]
    tested = {
        int(row.images)
        for row in table.rows
        if row.metric == "accuracy" and not row.average and number_or_none(row.images)
    }
    some = sorted(count for count in tested if 0 < count < FEW)
    if not some or not any("±" in cell.text for cell in cells):
        return caption
    least = f"{some[0]}" + " (the fewest here)" * (len(tested) > 1)
    low, high = wilson(round(some[0] / 2) / some[0], some[0])
    return [*caption, SEEDS.format(least, 100 * low, 100 * high)]


def _shots_note(table: Table) -> list[str]:
    """Return a sentence on the smallest class, if it has fewer training images than shots."""
    least = min((x for row in table.rows if 0 < (x := row.least) < row.shots), default=None)
    if least is None:
        return []
    return [f"The smallest class has {least:.0f} training image{'s' * (least > 1)}, not all shots."]


def bold_note(table: Table) -> list[str]:
    """Return a sentence on what is bold in a table, if anything is."""
    if not any(table.all_best()):
        return []
    return [f"Bold: the best of its {'line' if table.by_line else 'column'}."]
