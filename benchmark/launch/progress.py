"""What the user sees on stderr while runs are running."""

import shutil
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from ..protocols.base import Run
from ..report.results import CONSOLE, Outcome
from .engine import Working

HEARTBEAT = 4.8  # seconds: never more than 5 without a word
STARTING = "starting"


class Progress:
    """Tells of a list of runs: bars on a terminal, plain lines anywhere else."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.bars: list[tqdm] = []
        self.terminal = self.stream.isatty()
        self.done = self.total = 0
        self.last = time.monotonic()

    def begin(self, done: int, total: int) -> None:
        """Start, with `done` of `total` runs finished already."""
        self.done, self.total = done, total
        if self.terminal and done < total:
            form = "{n_fmt}/{total_fmt} runs |{bar:20}| {elapsed} {desc}"
            bar = tqdm(total=total, initial=done, bar_format=form, file=self.stream, leave=False)
            self.bars.append(bar)

    def started(self, run: Run, resumed: bool) -> None:
        """A run was started."""
        if not self.terminal:
            self._say(f"{run}: {'going on from its checkpoint' if resumed else 'started'}")

    def elsewhere(self, run: Run) -> None:
        """Another launcher is doing a run."""
        self._say(f"{run}: another launcher is at it; its results are waited for")

    def finished(self, outcome: Outcome) -> None:
        """A run ended, in whatever way."""
        self.done += 1
        if self.bars:
            self.bars[0].update()
        console = outcome.run.folder / CONSOLE
        if outcome.problem is None:
            text = f"{outcome.accuracy:.2f}%"
        elif console.exists():
            text = f"{outcome.problem} (see {console})"
        else:
            text = outcome.problem
        self._say(f"[{self.done}/{self.total}] {outcome.run}: {text}")

    def tick(self, children: Sequence[Working], seconds: float, complete: bool) -> None:
        """Show the latest of each running child; `seconds` are left, or more if not `complete`."""
        eta = f"{'' if complete else 'over '}{clock(seconds)} left"
        if not complete and not seconds:
            eta = "time left not known yet"
        news = [
            f"{child.run} ({clock(child.seconds)}): {child.latest or STARTING}"
            for child in children
        ]
        if self.bars:
            self._draw(news, eta)
        elif news and time.monotonic() - self.last > HEARTBEAT:
            self._say("\n".join(news) + f" | all: {eta}")

    def _draw(self, news: list[str], eta: str) -> None:
        self.bars[0].set_description_str(eta)
        while len(self.bars) <= len(news):
            form = "{desc}"
            self.bars.append(tqdm(total=0, bar_format=form, file=self.stream, leave=False))
        width = shutil.get_terminal_size().columns - 1
        for index, bar in enumerate(self.bars[1:]):
            bar.set_description_str(news[index][:width] if index < len(news) else "")

    def end(self) -> None:
        """Leave the terminal clean."""
        for bar in reversed(self.bars):
            bar.close()
        self.bars.clear()

    def _say(self, text: str) -> None:
        self.last = time.monotonic()
        if self.terminal:
            tqdm.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
