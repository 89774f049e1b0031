"""Estimate the time that runs still take, from runs of their kind that are done or make progress.

Neither start-up nor epochs before a resumption count.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import NamedTuple

from ..protocols.base import Run
from ..records import Outcome


class Advance(NamedTuple):
    """The advance of a training."""

    done: float = 0.0  # the fraction of its training
    whole: float | None = None  # seconds of its whole training at its own pace, if that is known
    left: float | None = None  # seconds of training left, likewise


class Pace:
    """The speed of a training since its first progress line."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # seconds, and the fraction done by then
        self._last: tuple[float, float] | None = None

    def see(self, seconds: float, fraction: float | None) -> None:
        """Record the fraction of the training done after so many seconds; None is ignored."""
        if fraction is not None and (self._last is None or fraction > self._last[1]):
            self._first = self._first or (seconds, fraction)
            self._last = (seconds, fraction)

    def at(self, seconds: float) -> Advance:
        """Return the advance after so many seconds."""
        if self._first is None or self._last is None:
            return Advance()
        (start, before), (then, done) = self._first, self._last
        if done == before:
            return Advance(done)
        whole = (then - start) / (done - before)
        return Advance(done, whole, max(0.0, then + whole * (1 - done) - seconds))


class TimeLeft:
    """Estimates seconds of runs by those of others of their `kind`."""

    def __init__(self, outcomes: Iterable[Outcome] = ()):
        self._ended: dict[tuple, list[float]] = defaultdict(list)
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Count the seconds in the record of a run that is done."""
        if outcome.problem is None and outcome.seconds:
            self._ended[kind(outcome.run)].append(outcome.seconds)

    def of(self, run: Run) -> float | None:
        """Return the mean seconds of the runs of its kind that have ended; None without any."""
        ended = self._ended.get(kind(run))
        return mean(ended) if ended else None

    def estimate(
        self, runs: Iterable[Run], advances: Mapping[Run, Advance]
    ) -> tuple[list[float], int]:
        """Return the seconds that each run still takes, and the number of those not known.

        A run takes as long as others of its kind: those that have ended, else one in `advances`.
        """
        pace = {kind(run): of.whole for run, of in advances.items() if of.whole is not None}
        seconds, unknown = [], 0
        for run in runs:
            advance, whole = advances.get(run, Advance()), self.of(run) or pace.get(kind(run))
            if advance.left is not None:
                seconds.append(advance.left)
            elif whole is not None:
                seconds.append(whole * (1 - advance.done))
            else:
                unknown += 1
        return seconds, unknown


def kind(run: Run) -> tuple:
    """Return a key that is equal for runs that take about the same time."""
    return run.trainer, run.dataset, run.config, run.opts, run.shots, run.eval_only
