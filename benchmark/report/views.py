"""Further parts of a report: comparisons, metrics and classes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import pandas as pd

from trainers.prompting.errors import need

from ..protocols.base import Protocol
from .render import as_csv, in_style
from .summary import accuracies

if TYPE_CHECKING:
    from .compare import Comparisons
    from .metrics import Classes, Metrics
    from .plots import Drawing

    View = Comparisons | Metrics | Classes

# In HTML they follow the usual tables, else they take their place.
VIEWS: dict[str, dict[str, Any]] = {
    "--compare": {
        "metavar": "METHOD",
        "help": "show the differences between this method (a name in the tables, such as 'ALIGN, "
        "BETA 0', or of single runs the folder of one) and every other, paired by test image, "
        "with 95%% intervals and p-values",
    },
    "--metrics": {
        "action": "store_true",
        "help": "show more metrics: top-5 accuracy, calibration error, likelihood, metrics over "
        "base and new classes together, and costs; --plots draws reliability diagrams",
    },
    "--classes": {
        "action": "store_true",
        "help": "show the accuracy of each class; --plots draws confusion matrices",
    },
}


def requested_views(args: argparse.Namespace) -> list[str]:
    """Return the flags of the views that are asked for; raises UserError for several in CSV."""
    flags = [flag for flag in VIEWS if getattr(args, flag[2:]) not in (None, False)]
    need(
        len(flags) < 2 or args.format != "csv",
        f"--format csv takes one of {' and '.join(flags)}, as their columns differ: make a file of "
        "each",
    )
    return flags


def views(args: argparse.Namespace, tidy: pd.DataFrame, numbers: pd.DataFrame) -> list[View]:
    """Return the views that are asked for, as in VIEWS, of runs and their summary.

    Raises UserError if one shows nothing.
    """
    chosen: list[View] = []
    if args.compare:
        from .compare import Comparisons

        chosen.append(Comparisons(tidy, accuracies(numbers), args.compare, args.metric))
    if args.metrics or args.classes:
        from .metrics import Classes, Metrics

        chosen += [Metrics(tidy, numbers)] if args.metrics else []
        chosen += [Classes(tidy, numbers)] if args.classes else []
    return chosen


def format_views(chosen: Sequence[View], form: str) -> str:
    """Return the tables or records of views as text, in one of FORMATS but html; CSV of one."""
    if form == "json":
        return json.dumps({type(of).__name__.lower(): of.records() for of in chosen}, indent=2)
    if form == "csv":
        return as_csv(chosen[0].records())
    groups = chain.from_iterable(of.tables().values() for of in chosen)
    return in_style(dict(enumerate(groups)), form)


def pictures_of(view: View, told: set[str], protocol: Protocol | None = None) -> Drawing:
    """Return the figures of a view by name, or those of one protocol; none of some views.

    `told` is as in `pictures.figures`.
    """
    if not view.picture:
        return {}
    from . import pictures  # matplotlib is slow to load

    tests = [test for test in view.tests if protocol in (None, test.protocol)]
    return pictures.figures(tests, view.picture, told)
