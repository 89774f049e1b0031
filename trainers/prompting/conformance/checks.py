"""All checks of a method, in order, and what each says of a short training."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from ..errors import UserError, in_short
from . import built, evaluations, steps
from .findings import Skipped
from .short import ShortRun

Check = Callable[[Any], None]  # of a `ShortRun`; the first line of its docstring is the title

# In a second or two; runs of plug-ins do them, too.
CHECKS: tuple[Check, ...] = (
    built.check_clip, built.check_hooks, built.check_fields, built.check_frozen,
    built.check_seeds, built.check_built_twice,
    steps.check_gradients, evaluations.check_repeats, steps.check_used, evaluations.check_again,
    steps.check_unchanged, steps.check_terms, steps.check_labels, steps.check_rows,
    steps.check_scale, steps.check_evaluated, evaluations.check_scores,
    evaluations.check_temperature, evaluations.check_batches, evaluations.check_others,
    evaluations.check_order, evaluations.check_union, evaluations.check_kept,
    evaluations.check_support,
)  # fmt: skip
TIME_IS_UP = "the time was up"


def lines(
    build: Callable[[], ShortRun], checks: Iterable[Check] = CHECKS, seconds: float = float("inf")
) -> Iterator[tuple[str, str, str]]:
    """Yield for each check its state, title and sentence.

    States are ok, wrong, note, or - if it does not apply. Nothing begins after so many seconds,
    and after a changed CLIP or an evaluation that does not repeat, for which others would give
    wrong advice.
    """
    runs: list[ShortRun] = []
    until = time.monotonic() + seconds

    def train(_: Any) -> None:
        """It is built, and trains."""
        runs.append(build())
        runs[0].train()

    for check in chain((train,), checks):
        title = (check.__doc__ or "").partition(".\n")[0].removesuffix(".")
        if time.monotonic() > until:
            yield "-", title, TIME_IS_UP
            continue
        state, why = "ok", ""
        try:
            check(runs and runs[0])
        except Skipped as reason:
            state, why = reason.state, str(reason)
        except UserError as error:
            state, why = "wrong", str(error)
        except Exception as error:  # of the method
            state, why = "wrong", in_short(error)
        yield state, title, why
        if state == "wrong" and check in (train, built.check_clip, evaluations.check_repeats):
            return
