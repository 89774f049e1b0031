"""Progress of runs on stderr."""

import shutil
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from ..protocols.base import Run
from ..records import CONSOLE, Outcome
from .run_process import Child

HEARTBEAT = 4.8  # seconds between lines; silence never lasts longer than 5 s


class Progress:
    """Shows the progress of runs: bars on a terminal, plain lines elsewhere."""

    def __init__(self, stream=None, heartbeat: float = HEARTBEAT):
        self.stream = stream or sys.stderr
        self.heartbeat = heartbeat
        self.bars: list[tqdm] = []
        self.terminal = self.stream.isatty()
        self.done = self.total = 0
        self.last = time.monotonic()

    def begin(self, done: int, total: int) -> None:
        """Begin, with `done` of `total` runs already finished."""
        self.done, self.total = done, total
        if self.terminal and done < total:
            form = "{n_fmt}/{total_fmt} runs |{bar:10}| {elapsed}, {remaining} left"
            self.bars.append(
                tqdm(
                    total=total, initial=done, bar_format=form, file=self.stream, leave=False,
                    smoothing=0,
                )
            )  # fmt: skip

    def report_start(self, run: Run, resumed: bool) -> None:
        """Report that a run was started."""
        if not self.terminal:
            self.say(f"{run}: {'resumed from its checkpoint' if resumed else 'started'}")

    def elsewhere(self, run: Run) -> None:
        """Report that another launcher is doing a run."""
        self.say(f"{run}: running in another launcher; waiting")

    def report_end(self, outcome: Outcome) -> None:
        """Report that a run has ended, with its accuracy or its problem."""
        self.done += 1
        if self.bars:
            self.bars[0].update()
        console = outcome.run.folder / CONSOLE
        if outcome.problem is None:
            text = outcome.text
        elif console.exists():
            text = f"{outcome.problem} (see {console})"
        else:
            text = outcome.problem
        self.say(f"[{self.done}/{self.total}] {outcome.run}: {text}")

    def tick(self, children: Sequence[Child]) -> None:
        """Show the latest line of each running child."""
        news = [f"{child.run}: {child.latest or 'starting'}" for child in children]
        if self.bars:
            self._draw(news)
        elif news and time.monotonic() - self.last > self.heartbeat:
            self.say("\n".join(news))

    def _draw(self, news: list[str]) -> None:
        self.bars[0].refresh()
        while len(self.bars) <= len(news):
            form = "{desc}"
            self.bars.append(tqdm(total=0, bar_format=form, file=self.stream, leave=False))
        width = shutil.get_terminal_size().columns - 1
        for index, bar in enumerate(self.bars[1:]):
            bar.set_description_str(news[index][:width] if index < len(news) else "")

    def end(self) -> None:
        """Remove all bars from the terminal."""
        for bar in reversed(self.bars):
            bar.close()
        self.bars.clear()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.last = time.monotonic()
        if self.terminal:
            tqdm.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)
