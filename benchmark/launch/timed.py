"""Time a short training and two short evaluations, in a separate process.

`python -m benchmark.launch.timed FILE WORDS...` writes what it measures to FILE; WORDS are those of
train.py. It is a run as train.py does it, with few steps and few test images.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from dassl.data import data_manager
from dassl.engine import build_trainer

import train
from recipe.folder import output_folder
from recipe.run import exit_code, setup_run
from trainers.prompting.running.devices import device_name

IMAGES = 400  # of a test
WARM = 2  # steps that are not counted: the first ones take longer


class Clock:
    """Seconds since the last look, `[by the clock, of the processor]`, when the device is idle."""

    def __init__(self) -> None:
        self.then = self.now()

    def now(self) -> tuple[float, float]:
        """Return both times."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def lap(self) -> list[float]:
        """Return the seconds since the last call, or the beginning."""
        then, self.then = self.then, self.now()
        return [after - before for before, after in zip(then, self.then, strict=True)]


def measure_run(words: list[str]) -> dict:
    """Do a short run, and return what it took.

    Returns:
        `classes`, `batch`, `steps` and `images` (of a test), `device` and `threads`, and pairs of
        seconds: `build`, `first` (as `decoding` returns it), `step` (each of several), `test`,
        `again` (the same test a second time), `whole` (of all but `again`).

    Raises:
        UserError: as train.py would.
    """
    clock = Clock()
    begun = clock.then
    cfg = train.setup_cfg(train.parse_args(words))
    steps: list[list[float]] = []
    tests: list[list[float]] = []
    with output_folder(Path(cfg.OUTPUT_DIR)):
        setup_run(cfg)
        with few_tested():
            trainer = build_trainer(cfg)
        build = clock.lap()
        first = decoding(trainer, clock)
        trainer.forward_backward = add_clock(trainer.forward_backward, clock, steps)
        trainer.test = add_clock(trainer.test, clock, tests, before=True)
        trainer.train()
        whole = [now - then for now, then in zip(clock.now(), begun, strict=True)]
        trainer.test()
    used = device_name("cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu")
    planned = getattr(trainer, "planned", [])  # then each step has its share of the plan
    counted = steps if planned else steps[WARM:] or steps[-1:]
    return {
        "batch": trainer.batch_size,
        "first": first,
        "classes": len(trainer.dm.dataset.classnames),
        "steps": len(steps),
        "images": len(trainer.dm.dataset.test),
        "build": build,
        "step": [sum(each) / len(counted) for each in zip(*counted, strict=True)] or [0.0, 0.0],
        "test": tests[0],
        "again": tests[1],
        "whole": whole,
        "device": used,
        "threads": torch.get_num_threads(),
    }


@contextmanager
def few_tested() -> Iterator[None]:
    """Let data sets that are built meanwhile have at most IMAGES test images."""
    build = data_manager.build_dataset

    def short(cfg):
        dataset = build(cfg)
        images = dataset.test
        images[:] = images[:: math.ceil(len(images) / IMAGES)]
        return dataset

    data_manager.build_dataset = short
    try:
        yield
    finally:
        data_manager.build_dataset = build


def decoding(trainer, clock: Clock) -> list[float]:
    """Return what an image takes when it is first read, beyond what it takes again from the cache.

    Workers read while steps are computed, so with them it is nothing.
    """
    loader = trainer.train_loader_x
    count = min(trainer.batch_size, len(loader.dataset))
    if loader.num_workers:
        return [0.0, 0.0]
    laps = []
    for _ in range(2):
        for index in range(count):
            loader.dataset[index]
        laps.append(clock.lap())
    return [max(0.0, first - again) / count for first, again in zip(*laps, strict=True)]


def add_clock(function: Callable, clock: Clock, laps: list[list[float]], before: bool = False):
    """Return a function that also notes its seconds: since the last lap, or only its own."""

    def call(*args, **more):
        if before:
            clock.lap()
        result = function(*args, **more)
        laps.append(clock.lap())
        return result

    return call


def main(argv: list[str]) -> int:
    """Measure, and write the result; return the exit code."""
    file, *words = argv

    def work() -> None:
        Path(file).write_text(json.dumps(measure_run(words)))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
