"""Sentences on what runs found, from the numbers of their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import nan
from typing import Any

import pandas as pd

from trainers.prompting.errors import UserError, printable

from ..protocols.base import shots_text
from .compare import Comparisons
from .frame import each_row
from .gains import ZERO_SHOT
from .names import dataset_title
from .paired import harmonic
from .tables import average_name, protocol_of

RIVALS = 4  # lines after the best that it is compared with
LEVEL = 0.05  # of p times the number of other lines (Bonferroni)


def findings(tidy: pd.DataFrame, table_rows: pd.DataFrame) -> list[str]:
    """Return a sentence or two on each table, or on the average of those that have one.

    They name the line with the highest mean in the last column (H, or accuracy with the most
    shots), what it is better than, zero-shot CLIP and chance. A difference is claimed where its
    interval excludes zero and p, times the number of other lines, is below 0.05, and there are
    several seeds. Without a run of zero-shot CLIP, it is that beside a method, if one has it.
    `table_rows` are as `rows` returns them.
    """
    texts = (_finding(tidy, place) for place in _places(table_rows))
    return [printable(text) for text in texts if text]


def _places(table_rows: pd.DataFrame) -> Iterator[list[Any]]:
    """Yield the finished rows that compete, the best first: of averages where there are some."""
    finished = table_rows[table_rows["complete"] & (table_rows["dataset"] != table_rows["source"])]
    for _, group in finished.groupby("group", sort=False):
        averages = group[group["average"]]
        members = group if averages.empty else averages
        for _, place in members.groupby(["table", "dataset"], sort=False):
            last = place["column"] == list(protocol_of(place).columns)[-1]
            most = place["shots"].isin([0, place["shots"].max()])
            rows = [*each_row(place[last & most])]
            if rows:
                yield sorted(rows, key=lambda row: -row.mean)


def _finding(tidy: pd.DataFrame, rows: list[Any]) -> str:
    best, others = rows[0], rows[1:]
    where = average_name(best) if best.average else dataset_title(best.dataset)
    shots = max(row.shots for row in rows)
    details = [f"{protocol_of(best).title}, {where}", *([shots_text(shots)] if shots else [])]
    what = "H" if best.column == "h" else "accuracy"
    zero = next((row for row in rows if row.trainer == ZERO_SHOT), None)
    parts = [f"{best.name} has {'the highest' if others else 'the'} {what}, {best.mean:.1f}"]
    claims: dict[str, str] = {}
    if others and not best.untrained and len(best.seeds) < 2:
        parts.append("with one seed, no difference is claimed")
    elif others:
        rivals = others[:RIVALS] + [row for row in others[RIVALS:] if row is zero]
        claims = _claims(tidy, best, rivals, shots, len(others))
        named = [row for row in rivals if row is not zero and row.name in claims]
        above = [row for row in named if claims[row.name]][:1]
        level = [row for row in named if not claims[row.name]]
        parts += [f"{claims[row.name]} above {row.name} ({row.mean:.1f})" for row in above]
        names = [f"{row.name} ({row.mean:.1f})" for row in level]
        parts += [f"not told apart from {_list(names)}"] if level else []
    sentences = [f"{', '.join(details)}: {'; '.join(parts)}."]
    if zero is not None and zero is not best:
        claim = claims.get(zero.name)
        ending = f", {claim} lower" if claim else "" if claim is None else ", not told apart"
        sentences.append(f"Zero-shot CLIP has {zero.mean:.1f}{ending}.")
    for row in rows if zero is None else ():
        beside = _of_records(tidy, row, lambda record: record.get("zero_shot_accuracy"))
        if beside == beside:
            sentences.append(f"Zero-shot CLIP with the text of {row.name} has {beside:.1f}.")
            break
    chance = _of_records(tidy, best, lambda record: 100 / (record.get("num_classes") or nan))
    sentences += [f"Chance is {chance:.1f}."] if chance == chance else []
    return " ".join(sentences)


def _claims(
    tidy: pd.DataFrame, best: Any, rivals: list[Any], shots: int, others: int
) -> dict[str, str]:
    """Compare the best line with rivals.

    Returns:
        By the name of a rival the difference with its interval, empty where it is not told apart;
        rivals that cannot be compared are left out.
    """
    names = [best.name, *(row.name for row in rivals)]
    of_place = tidy["name"].isin(names) & tidy["shots"].isin([0, shots])
    of_place &= (tidy["group"] == best.group) if best.average else (tidy["table"] == best.table)
    try:
        records = Comparisons(tidy[of_place], best.name).records()
    except UserError:  # all have other CLIPs, or other test images
        return {}
    wanted = {"dataset": best.dataset, "column": best.column, "artist": None}
    return {
        found["other"]: f"{found['difference']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        if found["low"] > 0 and found["p"] * others < LEVEL
        else ""
        for found in records
        if all(found[key] == value for key, value in wanted.items())
        and found["difference"] is not None
        and found["datasets"] == found["of"]
    }


def _list(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _of_records(tidy: pd.DataFrame, row: Any, number: Callable[[dict], float | None]) -> float:
    """Return the mean of a number (%) of a row's records, or its H; NaN if a record has none."""
    same = (tidy["group"] == row.group) if row.average else (tidy["line"] == row.line)
    runs = tidy[same & (tidy["name"] == row.name) & (tidy["dataset"] != tidy["source"])]
    numbers = [number(outcome.result or {}) for outcome in runs["outcome"]]
    by_column = pd.Series(numbers, runs.index, dtype=float).groupby(runs["column"])
    means = by_column.agg(lambda column: column.mean(skipna=False))
    both = row.column == "h"
    return float(harmonic(means["base"], means["new"]) if both else means.mean())
