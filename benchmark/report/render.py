"""Render rows of a summary as tables, or as plain numbers in CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from trainers.prompting.errors import printable

from ..records import COSTS
from .frame import column_of, each_row, setting_texts
from .summary import minus_published, number_or_none, published_beside
from .table import TABLE_FORMATS, Table, as_markdown, as_text, lead
from .tables import joint_tables, tables

if TYPE_CHECKING:
    import pandas as pd

    from .classes import Classes
    from .compare import Comparisons

FORMATS = (*TABLE_FORMATS, "csv", "json", "html")


def render(
    rows: pd.DataFrame | None,
    form: str,
    all_published: bool = False,
    sentences: Sequence[str] = (),
    views: Sequence[Comparisons | Classes] = (),
) -> str:
    """Return all tables of these rows and views, or in CSV and JSON their numbers; not as HTML.

    `form` is one of FORMATS; in CSV there are rows or a view. With `all_published`, methods that
    were not run have their published numbers, too. `sentences` come first, not in CSV.
    """
    further = [table for view in views for of in view.tables().values() for table in of]
    if form == "latex":
        from .latex import as_document

        of_views = ((table.title, table.caption, [table]) for table in further)
        joined = () if rows is None else joint_tables(rows, all_published)
        return lead(sentences, form) + as_document([*joined, *of_views])
    if form in TABLE_FORMATS:
        usual = () if rows is None else chain(*tables(rows, all_published).values())
        return lead(sentences, form) + in_style([*usual, *further], form)
    records: dict[str, list] = {"findings": [*sentences]} if sentences else {}
    if rows is not None:
        records |= {"rows": [], "averages": []}
        several = rows["metric"].nunique() > 1
        for _, line in rows.groupby(["line", "metric"], sort=False):
            numbers = list(each_row(line))
            metric = numbers[0].metric
            of_line = {"metric": metric} if several or metric != "accuracy" else {}
            records["averages" if numbers[0].average else "rows"].append(of_line | record(numbers))
    records |= {type(view).__name__.lower(): view.records() for view in views}
    if form == "json":
        return json.dumps(records, indent=2)
    return as_csv(records["rows"] if rows is not None else views[0].records())


def in_style(tables: Iterable[Table], form: str) -> str:
    """Return tables as `text`, `markdown` or `latex`."""
    if form == "latex":
        from .latex import as_document

        return as_document((table.title, table.caption, [table]) for table in tables)
    return "\n\n".join(map({"text": as_text, "markdown": as_markdown}[form], tables))


OPTIONAL = ("source", "settings", "beyond", "other_code", "differing", "origin")  # not if empty


def record(line: list[Any]) -> dict:
    """Return the rows of a line as plain numbers, by the keys of CSV and JSON."""
    first = line[0]
    names = ["protocol", "source", "dataset", "shots", "method", "trainer", "config"]
    if first.average:
        names = ["protocol", "shots", "method"]
    values = {name: getattr(first, name) for name in names}
    values |= {"settings": ", ".join(setting_texts(first.settings)), "beyond": first.beyond}
    values |= {"other_code": first.edited}
    if first.average:
        values |= {"datasets": first.count, "of": first.of, "differing": first.apart}
        values |= {column_of(row): row.mean for row in line if first.count}
    else:
        values |= {"origin": first.origin, "from_logs": bool(first.label)}
        values |= {"split": first.split, "seeds": first.seeds}
        for row in line:
            name = column_of(row)
            values[f"{name}_mean"] = number_or_none(row.mean)
            values[f"{name}_std"] = number_or_none(row.std)
            if row.interval:
                values[f"{name}_half_interval_95"] = number_or_none(row.spread)
            values[f"{name}_n"] = row.count
    if theirs := published_beside(first):
        values["published_source"] = theirs.source
        values["published_is_misprint"] = theirs.misprint
        for row in line:
            values[f"{row.column}_published"] = theirs.values[row.column]
            values[f"{row.column}_difference"] = minus_published(row)
    if not first.average:
        values |= {key: number_or_none(getattr(first, key)) for key in COSTS}
        if values["num_params"] is not None:
            values["num_params"] = int(values["num_params"])
        values["problems"] = [f"{row.column}: {why}" for row in line for why in row.problems]
    return {key: value for key, value in values.items() if value or key not in OPTIONAL}


def as_csv(records: list[dict]) -> str:
    """Return the records as comma-separated values; lists are joined by semicolons."""
    import pandas as pd

    for record in records:
        for key, value in record.items():
            text = "; ".join(map(str, value)) if isinstance(value, list) else value
            record[key] = printable(text) if isinstance(text, str) else text
    table = pd.DataFrame(records, dtype=object)  # integers next to missing numbers stay integers
    return table.to_csv(index=False, lineterminator="\n").rstrip("\n")
