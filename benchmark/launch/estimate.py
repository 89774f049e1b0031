"""`--estimate`: how long runs take, from a few steps and tests of each method on this device.

Each method is timed with each of its config files, where it has the fewest and the most classes. In
between, seconds are a straight line in the number of classes; a training has its steps, and a test
its images. On a CPU they are those of the processor, divided by the threads.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ..cli import write_output
from ..protocols.base import Run
from ..protocols.configs import dataset_class
from .engine import Engine, Settings, command
from .local import Local
from .needs import on_cpu
from .run_process import last_sentence
from .start import module_path

FILE = "estimate.json"  # in the output
STEPS = 12  # of a training that is timed
CLOSE = 1.2  # numbers of classes count as one up to this ratio
MARGIN = 1.3  # a range is from the guess divided by it to the guess times it


class Guesses(NamedTuple):
    """Seconds by the folder of a run without its seed, and the device that they are of."""

    seconds: dict[str, float]
    device: str = ""

    def of(self, runs: Iterable[Run], output: Path) -> dict[Run, float]:
        """Return the seconds of those runs that have a guess."""
        names = {run: folder_without_seed(run, output) for run in runs}
        return {run: self.seconds[name] for run, name in names.items() if name in self.seconds}


class Work(NamedTuple):
    """The work of a run: steps of training on `trained` images, and a test of `images`."""

    classes: int
    steps: int
    images: int
    trained: int = 0


def folder_without_seed(run: Run, output: Path) -> str:
    """Return the folder of a run below the output, without the seed."""
    return run.folder.parent.relative_to(output).as_posix()


def read_guesses(output: Path) -> Guesses:
    """Return the guesses that an earlier call has kept; none if the file is missing or broken."""
    return Guesses(*_read(output)[:2])


def _read(output: Path) -> tuple[dict[str, float], str, dict[str, list[dict]]]:
    try:
        content = json.loads((output / FILE).read_text())
        seconds = {str(name): float(value) for name, value in content["runs"].items()}
        return seconds, str(content["device"]), dict(content["timed"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, "", {}


def estimate(engine: Engine, output: Path, local: Local) -> Guesses:
    """Time what the runs to do need, as far as an earlier call has not, and keep what is found.

    Settings, weights and data of the runs are there. `local` has the threads of a run, and the
    GPUs, of which the first is used.

    Raises:
        OSError: the file cannot be written.
    """
    settings = engine.settings
    work = {run: job for run in engine.todo if (job := work_of(run, settings))}
    families: dict[str, list[Run]] = defaultdict(list)
    for run in work:
        families[family(run, settings)].append(run)
    seconds, device, timed = _read(output)
    environment = {"OMP_NUM_THREADS": str(local.threads)}
    environment |= {"CUDA_VISIBLE_DEVICES": local.gpus[0]} if local.gpus else {}
    now = _device(settings)
    threads = {each["threads"] for its in timed.values() for each in its}
    if device != now or (now == "cpu" and threads - {local.threads}):
        seconds, timed = {}, {}
    wanted = []
    for name, members in families.items():
        ends = _ends(members, work, settings)
        if not _cover(timed.get(name), ends):
            timed.pop(name, None)
            wanted += [(name, run, there.steps) for run, there in ends]
    for number, (name, run, steps) in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] timing {run}", file=sys.stderr, flush=True)
        if each := _time(run, settings, min(STEPS, steps), environment):
            timed.setdefault(name, []).append(each)
    for run, its in work.items():
        if measured := timed.get(family(run, settings)):
            seconds[folder_without_seed(run, output)] = guess(its, bool(run.needs), measured)
    content = {"device": now, "runs": seconds, "timed": timed}
    write_output(output / FILE, json.dumps(content, indent=1) + "\n")
    return Guesses(seconds, now)


def family(run: Run, settings: Settings) -> str:
    """Return a text that is the same for runs that differ only in data, seed and shots."""
    words = [run.trainer, str(run.config_file), *run.opts, *settings.opts]
    return " ".join([*words, settings.backbone or "", settings.features_of(run)])


def _ends(runs: list[Run], work: dict[Run, Work], settings: Settings) -> list[tuple[Run, Work]]:
    """Return the trainings with the fewest and the most classes, at the most shots.

    Only one of them if the numbers are close. `work` is that of the runs to do; a training that
    is finished has none there.
    """
    trainings = {run.needs or run: None for run in runs}
    works = {run: job for run in trainings if (job := work.get(run) or work_of(run, settings))}
    few = min(works, key=lambda run: (works[run].classes, -run.shots))
    many = max(works, key=lambda run: (works[run].classes, run.shots))
    close = works[many].classes <= CLOSE * works[few].classes
    return [(run, works[run]) for run in ([many] if close else [few, many])]


def _cover(timed: list[dict] | None, ends: list[tuple[Run, Work]]) -> bool:
    """Return True if what was timed reaches to these numbers of classes, or close to them."""
    if not timed:
        return False
    classes = [each["classes"] for each in timed]
    low, high = ends[0][1].classes, ends[-1][1].classes
    return min(classes) <= CLOSE * low and high <= CLOSE * max(classes)


def work_of(run: Run, settings: Settings) -> Work | None:
    """Return what a run has to do; None for a trainer of other code."""
    import train
    from datasets.base import subsample_classes
    from trainers.prompting.method import METHODS
    from trainers.prompting.trainer.schedule import steps

    kind = METHODS.get(run.trainer)
    if kind is None:
        return None
    with redirect_stdout(StringIO()):
        cfg = train.setup_cfg(train.parse_args(command(run, settings)[2:]))
        parts = _parts(
            run.dataset, settings.root_of(run) or "", settings.features_of(run), cfg.TEST.SPLIT
        )
    whole = parts[0]
    few, tested = subsample_classes(*parts, subset=run.subsample)
    each = Counter(item.label for item in few)
    images = sum(min(number, run.shots or number) for number in each.values())
    batch = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    images = len(whole) if kind.unlabelled else images
    short = 0 if cfg.DATALOADER.TRAIN_X.DROP_LAST else batch - 1
    n = max(1, (images + short) // batch)
    trains = kind.trains and not run.eval_only
    return Work(len(each), trains * steps(cfg.OPTIM, n), len(tested), trains * images)


@functools.cache
def _parts(dataset: str, root: str, features: str, split: str) -> tuple[list, list]:
    """Return the images of training and of the test of a data set."""
    from datasets.rows import read_rows

    kind = dataset_class(dataset)
    parts = read_rows(kind, features)[1] if features else kind.look(root)[1]
    training, val, test = parts
    return training, val if split == "val" else test


def _device(settings: Settings) -> str:
    from trainers.prompting.running.devices import device_name, usual_device

    return device_name("cpu" if on_cpu(settings) else usual_device())


def _time(run: Run, settings: Settings, steps: int, environment: dict[str, str]) -> dict | None:
    """Return what `timed` measures of a run; None, with a printed note, if it fails."""
    from trainers.prompting.method import METHODS

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "timed.json"
        words = command(replace(run, folder=Path(folder) / "run"), settings)[2:]
        words += length(METHODS[run.trainer], steps)
        done = subprocess.run(
            [sys.executable, "-m", "benchmark.launch.timed", str(file), *words],
            env=os.environ | environment | {"PYTHONPATH": module_path()},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode or not file.exists():
            why = last_sentence(filter(None, done.stderr.splitlines())) or "without a message"
            print(f"{run} cannot be timed: {why}", file=sys.stderr)
            return None
        record: dict = json.loads(file.read_text())
        return record


def length(kind: type, steps: int) -> list[str]:
    """Return the words for so many steps; of a method that plans them, for an epoch."""
    from trainers.prompting.capabilities.planned import Planned

    if steps and issubclass(kind, Planned):
        return ["OPTIM.STEPS", "0", "OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0"]
    return ["OPTIM.STEPS", str(steps)] if steps else []


def guess(work: Work, loads: bool, timed: list[dict]) -> float:
    """Return the seconds of a run.

    `loads` is True if it tests the prompts of another run; `timed` has what was measured with the
    fewest and with the most classes.
    """
    few, many = timed[0], timed[-1]
    span = many["classes"] - few["classes"]
    share = (min(max(work.classes, few["classes"]), many["classes"]) - few["classes"]) / (span or 1)
    low, high = _seconds(few, work, loads), _seconds(many, work, loads)
    return low + share * (high - low)


def _seconds(timed: dict, work: Work, loads: bool) -> float:
    """Return the seconds of a run if it had the number of classes that was timed."""
    by_processor = timed["device"] == "cpu"
    names = ("build", "first", "step", "test", "again", "whole")
    build, first, step, test, again, whole = (
        timed[name][1] / timed["threads"] if by_processor else timed[name][0] for name in names
    )
    tests = max(0.0, test - again) + work.images * again / timed["images"]
    once = build if loads else max(build, whole - timed["steps"] * step - test)
    step = max(0.0, step - timed["batch"] * first)  # those that were timed read new images
    return once + work.steps * step + work.trained * first + tests


def time_range(engine: Engine, guesses: Guesses, at_once: int) -> str:
    """Return the time that the runs to do take, as a range; empty if no run has a guess."""
    if not engine.guesses:
        return ""
    seconds, unknown = engine.remaining(at_once=at_once)
    unit, name = (60, "minutes") if seconds * MARGIN < 5400 else (3600, "hours")
    low, high = seconds / MARGIN / unit, seconds * MARGIN / unit
    more = f", unknown for {unknown}" if unknown else ""
    span = f"at least {low:.1f}" if unknown else f"about {low:.1f} to {high:.1f}"
    return f"{span} {name}, {at_once} at once on {guesses.device}{more}"
