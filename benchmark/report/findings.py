"""Sentences on what runs found, from the numbers of their tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import nan
from typing import Any

import pandas as pd

from trainers.prompting.errors import UserError, printable

from ..protocols.base import shots_text
from .compare import Comparisons
from .frame import column_of, each_row, main_rows
from .names import ZERO_SHOT, in_words
from .notes import data_name
from .paired import LEAST
from .summary import count_text, protocol_of
from .training import ATTACK

RIVALS = 4  # lines after the best that it is compared with
LEVEL = 0.05  # of p times the number of pairs of lines (Bonferroni)
NOTHING = "nothing is claimed about methods that depend on seeds"
FEW = {1: f"with one seed, {NOTHING}", 2: f"intervals of two seeds are so wide that {NOTHING}"}


def findings(tidy: pd.DataFrame, numbers: pd.DataFrame) -> list[str]:
    """Return a sentence or two on each table, or on the average of those that have one.

    They name the line with the highest mean in the last column (H, or accuracy with the most
    shots), what it is better than, lines that lack runs, zero-shot CLIP (without a run of it, that
    beside a method) and chance. A difference is claimed as of `is_above`, where there are three
    seeds, or none matters. Attacked images come first. `numbers` are the summary of these runs.
    """
    places = _places(main_rows(numbers))
    texts = (text for place in places for text in _findings(tidy, numbers, *place))
    return [*map(printable, texts)]


def _places(table_rows: pd.DataFrame) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield the rows that compete, the best first, and those that lack runs; averages if any."""
    targets = table_rows[table_rows["dataset"] != table_rows["source"]]
    for _, group in targets.groupby("group", sort=False):
        averaged = bool((group["average"] & group["complete"]).any())
        members = group[group["average"] == averaged]
        for _, place in members.groupby(["table", "dataset"], sort=False):
            last = place[place["column"] == list(protocol_of(place).columns)[-1]]
            finished = last[last["complete"]].sort_values("mean", ascending=False, kind="stable")
            most = [0, finished["shots"].max()]
            rows = [*each_row(finished[finished["shots"].isin(most)])]
            if rows:
                yield rows, [*each_row(last[~last["complete"] & last["shots"].isin(most)])]


def _findings(
    tidy: pd.DataFrame, numbers: pd.DataFrame, rows: list[Any], lacking: list[Any]
) -> list[str]:
    best, others = rows[0], rows[1:]
    shots = max(row.shots for row in rows)
    details = [
        f"{protocol_of(best).title}, {data_name(best)}",
        *([shots_text(shots)] if shots else []),
    ]
    what = "H" if best.column == "h" else "mAP" if best.main == "map" else "accuracy"
    attacked = [f"{', '.join(details)}: {text}" for text in _under_attack(numbers, rows, what)]
    details += ["before the attack"] * bool(attacked)
    zero = next((row for row in rows if row.trainer == ZERO_SHOT), None)
    parts = [_first(best.name, what, best.mean, others)]
    claims: dict[str, str] = {}
    if others:
        place = main_rows(numbers[~numbers["average"] & numbers["shots"].isin([0, shots])])
        place = place[place["dataset"] != place["source"]]
        same = "group" if best.average else "table"
        place = place[place[same] == getattr(best, same)]
        seeds = min(map(len, place.loc[~place["untrained"], "seeds"]), default=0)
        rivals = others[:RIVALS] + [row for row in others[RIVALS:] if row is zero]
        if seeds in FEW:
            parts.append(FEW[seeds])
            rivals = [row for row in rivals if best.untrained and row.untrained]
        claims = _claims(tidy, place, best, rivals, len(rows))
        named = [row for row in rivals if row is not zero and row.name in claims]
        above = [row for row in named if claims[row.name]][:1]
        level = [row for row in named if not claims[row.name]]
        parts += [f"{claims[row.name]} above {row.name} ({row.mean:.1f})" for row in above]
        names = [f"{row.name} ({row.mean:.1f})" for row in level]
        parts += [f"not told apart from {in_words(names)}"] if level else []
    sentences = [f"{', '.join(details)}: {'; '.join(parts)}."]
    names = [row.name + count_text(row) for row in lacking]
    sentences += [f"Left out, as runs are missing: {in_words(names)}."] * bool(names)
    if zero is not None and zero is not best:
        claim = claims.get(zero.name)
        ending = f", {claim} lower" if claim else "" if claim is None else ", not told apart"
        sentences.append(f"Zero-shot CLIP has {zero.mean:.1f}{ending}.")
    for row in rows if zero is None else ():
        beside = _mean(numbers, row, "zero_shot_accuracy")
        if beside == beside:
            sentences.append(f"Zero-shot CLIP with the text of {row.name} has {beside:.1f}.")
            break
    chance = _mean(numbers, best, "chance")
    sentences += [f"Chance is {chance:.1f}."] if chance == chance else []
    return [*attacked, " ".join(sentences)]


def _first(name: str, what: str, number: float, others: Any) -> str:
    alone = f"the {what} of {name} is {number:.1f}"
    return f"{name} has the highest {what}, {number:.1f}" if others else alone


def _under_attack(numbers: pd.DataFrame, rows: list[Any], what: str) -> Iterator[str]:
    """Yield a sentence on each attack; runs do not keep answers to attacked images."""
    by_attack = defaultdict[str, list[tuple[float, str]]](list)
    for row in rows:
        robust = _mean(numbers, row, "robust_accuracy")
        if robust == robust:
            attack = str(dict(row.settings).get(ATTACK)).removesuffix(", static")
            by_attack[attack].append((robust, row.name.replace(f", {ATTACK} {attack}", "")))
    for attack, found in by_attack.items():
        (robust, name), *others = sorted(found, reverse=True)
        text = f"under {attack}, {_first(name, f'robust {what}', robust, others)}"
        names = in_words([f"{name} ({robust:.1f})" for robust, name in others[:RIVALS]])
        yield f"{text}, before {names}; no difference is tested." if others else f"{text}."


def _claims(
    tidy: pd.DataFrame, place: pd.DataFrame, best: Any, rivals: list[Any], lines: int
) -> dict[str, str]:
    """Return how far the best of so many lines is above rivals in the rows of a place, by name.

    It is a text with an interval, empty where they are not told apart; rivals that cannot be
    compared are left out.
    """
    place = place[place["name"].isin([best.name, *(row.name for row in rivals)])]
    runs = tidy[tidy["line"].isin(place["line"])]
    try:
        records = Comparisons(runs, place, best.name).records()
    except UserError:  # all have other CLIPs, or other test images
        return {}
    wanted = {"dataset": best.dataset, "column": column_of(best)}
    return {
        found["other"]: f"{found['difference']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
        if is_above(found["low"], found["p"], lines)
        else ""
        for found in records
        if all(found[key] == value for key, value in wanted.items())
        and found["difference"] is not None
        and (found["p"] is not None or found["differing"] < LEAST)  # else nothing varies
        and found["datasets"] == found["of"]
    }


def is_above(low: float, p: float | None, lines: int) -> bool:
    """Return True if the best of so many lines is claimed to be above another one.

    The data have chosen the best, so that any pair of lines might have been the claim. `low` is the
    lower end of the interval of their difference.
    """
    return low > 0 and p is not None and p * lines * (lines - 1) / 2 < LEVEL


def _mean(numbers: pd.DataFrame, row: Any, metric: str) -> float:
    """Return the mean of another metric of a row; NaN if runs or data sets lack it."""
    place = numbers["metric"].eq(metric) & numbers["column"].eq(row.column)
    place &= numbers["line"].eq(row.line) & numbers["count"].eq(row.count)
    found = numbers["mean"][place]
    return float(found.iloc[0]) if len(found) else nan
