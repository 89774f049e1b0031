"""Tables over base and new classes together: accuracies, their averages, and costs."""

from ..protocols.base import Protocol, shots_text
from ..records import Metric
from .joint import JOINT, RELATIVE, RELATIVE_TO, Both, averaged, averages
from .tables import (
    AVERAGE_H,
    EACH_H,
    Cell,
    Table,
    first_head,
    metric_cell,
    more,
    seeds_text,
    spread_note,
    table_name,
)

JOINT_NOTE = (
    "Joint, ECE (expected calibration error, in 15 bins) and ECE scaled (after division of the "
    "logits by a temperature) are over all classes; OpenworldAUC and AUROC over pairs of a base "
    "and a new image. All in %."
)


def both_tables(every: list[Both]) -> dict[Protocol, list[Table]]:
    """Return the tables of each protocol: accuracies and costs of each data set, then averages."""
    found: dict[Protocol, list[Table]] = {}
    for both in every:
        tables = [_joint(both), *([_costs(both)] if both.first.protocol.costs else [])]
        found.setdefault(both.first.protocol, []).extend(tables)
    for artist, group in averaged(every):
        found[group[0].first.protocol].append(_average(group, artist))
    return found


def both_records(every: list[Both]) -> list[dict]:
    """Return the lines of the tables as plain numbers: those of data sets, then the averages."""
    found = [both.record(method) for both in every for method in both.lines]
    for artist, group in averaged(every):
        row = group[0].first
        place = {"protocol": row.protocol.name, "source": row.source, "dataset": "average"}
        place |= {"artist": artist or None}
        place |= {"shots": row.shots, "column": "base and new"}
        for method, means in averages(group).items():
            numbers = {key: means[key][0] if key in means else None for key in JOINT}
            over = {"datasets": means["h"][1] if "h" in means else 0, "of": len(group)}
            found.append(place | {"method": method, "problems": []} | over | numbers)
    return found


def _joint(both: Both) -> Table:
    """Return the table of accuracies of one data set."""
    head = [first_head(both.first.protocol), *(metric.head for metric in JOINT.values())]
    lines = [
        [
            Cell(both.marked[method]),
            *(metric_cell(numbers[key], metric) for key, metric in JOINT.items()),
        ]
        for method, numbers in both.numbers.items()
    ]
    caption = [spread_note(both.seeds), EACH_H, JOINT_NOTE, *both.meaning]
    title = _title(both, "base and new classes together")
    return Table(title, head, lines, caption, both.problems)


def _average(group: list[Both], artist: str) -> Table:
    """Return the table of averages over data sets; `artist` drew all of them, or is ""."""
    first = group[0].first
    names = {method: name for both in group for method, name in both.marked.items()}
    lines = [
        [
            Cell(names[method]),
            *(_mean_cell(means.get(key), len(group), JOINT[key]) for key in JOINT),
        ]
        for method, means in averages(group).items()
    ]
    kind = f"{artist or 'embedded'} " if first.embedded else ""
    what = f"average over {len(group)} {kind}data sets"
    what = f"{first.protocol.title}, {what}: base and new classes together"
    head = [first_head(first.protocol), *(metric.head for metric in JOINT.values())]
    marks = dict.fromkeys(sentence for both in group for sentence in both.meaning)
    caption = [AVERAGE_H, JOINT_NOTE, *marks]
    return Table(f"{what}, {shots_text(first.shots)}", head, lines, caption)


def _mean_cell(found: tuple[float, int] | None, of: int, metric: Metric) -> Cell:
    """Return the cell of a mean over data sets; an incomplete one is never marked as the best."""
    if found is None:
        return Cell("-")
    value, count = found
    if count < of:
        return Cell(f"{value:.2f} ({count} of {of})")
    return Cell(f"{value:.2f}", value if metric.more_is_better else -value)


def _costs(both: Both) -> Table:
    """Return the table of H and the costs of training."""
    head = [first_head(both.first.protocol), "H", *more(both.first)]
    head += [f"{name}, x {RELATIVE_TO}" for name in RELATIVE.values()]
    lines = [
        [
            Cell(both.marked[method]),
            metric_cell(both.numbers[method]["h"], JOINT["h"]),
            *(Cell(text) for text in more(row).values()),
            *(
                Cell("-" if value is None else f"{value:.2f}")
                for value in both.relative[method].values()
            ),
        ]
        for method, row in both.lines.items()
    ]
    caption = [spread_note(both.seeds), EACH_H, "Training is the mean over the seeds."]
    caption += both.meaning
    return Table(_title(both, "accuracy and cost"), head, lines, caption)


def _title(both: Both, what: str) -> str:
    first = both.first
    details = [f"{table_name(first)}: {what}", shots_text(first.shots), seeds_text(first.seeds)]
    return ", ".join(details)
