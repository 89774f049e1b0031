"""Build a small checkout with the real benchmark/ and scripts/, and a train.py without training."""

import atexit
import compileall
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import fake_train
from paths import HALF_WRITTEN

from benchmark.__main__ import main
from benchmark.launch import command as launch_command
from benchmark.launch import engine, local
from benchmark.launch.slurm import executor, site
from benchmark.launch.start import INTERRUPTS
from benchmark.protocols import configs

REPOSITORY = Path(__file__).parents[2]
TRAINERS = ("ZeroshotCLIP", "CoOp", "MaPLe", "ALIGN")
# Words of a command: one method and one seed; a transfer from emoji.
ONE = ("--trainers", "CoOp", "--seeds", "1")
EMOJI = ("--source", "emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1")


class Checkout:
    """A small checkout, with methods that call its commands and read its files.

    Most of its commands are called in this process, which has imported what they need.
    """

    def __init__(self, root: Path):
        self.root = root
        self.output = root / "output"
        self.calls_file = root / "calls.jsonl"
        for dataset in (
            "emoji",
            "emoji_animals",
            "emoji_food",
            "emoji_pixels",
            "emoji_scenes",
            "dtd",
        ):
            path = root / "configs" / "datasets" / f"{dataset}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"DATASET:\n  NAME: {dataset.title()}\n")
        for trainer in TRAINERS:
            path = root / "configs" / "trainers" / trainer
            path.mkdir(parents=True)
            (path / "emoji.yaml").touch()
        (path / "base2new.yaml").touch()  # only for ALIGN

    def write_code(self) -> None:
        """Write the program, for commands in separate processes, if it is not yet there."""
        if not (self.root / "train.py").exists():
            shutil.copytree(program(), self.root, dirs_exist_ok=True)

    def environment(self, **fake: str) -> dict:
        """Return the environment of a call; `fake` says what goes wrong in which run."""
        variables = {"FAKE": json.dumps(fake), "FAKE_CALLS": str(self.calls_file)}
        variables |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        return kept | variables

    def start(
        self,
        *words: str,
        command: str = "base2new",
        fake: dict | None = None,
        stderr=subprocess.PIPE,
        **variables,
    ):
        """Start `python -m benchmark COMMAND ...` in a separate process, without waiting for it."""
        self.write_code()
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", command, *words],
            cwd=self.root,
            env=self.environment(**fake or {}) | variables,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=hear_interrupts,
        )

    def base2new(self, *words: str, code: int = 0, **more) -> CompletedProcess:
        """Call `python -m benchmark base2new ...`; check its exit code and return its output."""
        return self.protocol("base2new", *words, code=code, **more)

    def protocol(
        self, *words: str, code: int = 0, fake: dict | None = None, **variables: str
    ) -> CompletedProcess:
        """Call `python -m benchmark COMMAND ...`; check its exit code and return its output."""
        out, errors = StringIO(), StringIO()
        environment = self.environment(**fake or {}) | variables
        with self._here(environment), redirect_stdout(out), redirect_stderr(errors):
            try:
                found = main([str(word) for word in words])
            except SystemExit as ended:
                found = ended.code
        assert found == code, errors.getvalue()
        return CompletedProcess(words, found, out.getvalue(), errors.getvalue())

    @contextmanager
    def _here(self, environment: dict):
        """Let this process be one that was started in the checkout."""
        places = [(module, "ROOT", self.root) for module in (engine, executor, site)]
        places += [(configs, "CONFIGS", self.root / "configs")]
        places += [(local, "train", fake_train.be)]
        places += [(launch_command, "check_settings", unchecked)]
        places += [(launch_command, "check_validation", unchecked)]
        places += [(launch_command, "lacking", nothing)]
        with ExitStack() as stack:
            for number in INTERRUPTS:
                stack.callback(signal.signal, number, signal.getsignal(number))
            stack.enter_context(patch.dict(os.environ, environment, clear=True))
            for module, name, value in places:
                stack.enter_context(patch.object(module, name, value))
            stack.enter_context(chdir(self.root))
            yield

    def separately(self, command: str, *words: str, code: int = 0, **more):
        """Run `python -m benchmark COMMAND ...` in a separate process, as `protocol` does here."""
        process = self.start(*words, command=command, **more)
        process.stdout, process.stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, process.stderr
        return process

    def run(self, *command, cwd: Path | None = None, **variables: str):
        """Run any command in the checkout, in a separate process."""
        self.write_code()
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.root,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def calls(self) -> list[dict]:
        """Return the calls of train.py until now, oldest first."""
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    def begun(self) -> int:
        """Return how many of these calls have trained, and print nothing more before they end."""
        folders = (Path(call["folder"]) for call in self.calls())
        return sum((folder / "prompt_learner" / "checkpoint").exists() for folder in folders)

    def runs(self) -> list[str]:
        """Return the runs of these calls, as trainer/seed/classes."""
        return [call["run"] for call in self.calls()]

    def folders(self) -> list[str]:
        """Return the run folders of these calls, relative to the output."""
        return [str(Path(call["folder"]).relative_to(self.output)) for call in self.calls()]

    def folder(self, trainer: str, seed: int, part: str = "train_base") -> Path:
        """Return the run folder of a base-to-new run on emoji."""
        return self.output / "base2new" / part / "emoji/shots_16" / trainer / f"emoji/seed{seed}"


@functools.cache
def program() -> Path:
    """Write the program into a folder, compiled, which checkouts copy."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for folder in ("benchmark", "recipe", "scripts"):
        shutil.copytree(
            REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns(HALF_WRITTEN)
        )
    plugin = root / "trainers" / "prompting"  # only its light modules
    light = ["__init__.py", "marks.py", "errors.py", "one_package.py"]
    light += [
        f"record/{name}.py" for name in ("hashes", "metrics", "predictions", "scores", "several")
    ]
    light += [f"storage/{name}.py" for name in ("files", "run_record")]
    light += [f"checkpoint/{name}.py" for name in ("identity", "keys")]
    light += ["building/base_config.py", "building/by_run.py"]
    light += ["use/commands/arguments.py", "advice/page.css"]
    packages = ("advice", "checkpoint", "embedded", "record", "storage", "building", "use")
    packages = (*packages, "use/commands")
    for name in (*light, *(f"{package}/__init__.py" for package in packages)):
        (plugin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "trainers" / "prompting" / name, plugin / name)
    shutil.copy(Path(__file__).parent / "fake_train.py", root / "train.py")
    # settings and data are not checked: that needs Dassl and the methods
    replaced = ("checks", "check_settings"), ("checks", "check_validation")
    for name, function in (*replaced, ("needs", "lacking")):
        with (root / "benchmark" / "launch" / f"{name}.py").open("a") as file:
            file.write(f"\n\ndef {function}(*args, **more):\n    return []\n")
    (root / "benchmark" / "launch" / "preload.py").write_text("")
    compileall.compile_dir(root, quiet=2)
    return root


def unchecked(*args):
    """Stand in for checks of settings and data, which need Dassl and the methods."""


def nothing(*args, **more) -> list:
    """Stand in for the search for what is missing."""
    return []


def hear_interrupts():
    """Let a process receive Ctrl-C, which background jobs of a shell ignore by default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PATIENCE = 300  # seconds for what takes one: many tests may share the machine


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SLOW = {"CoOp/1/base": "slow"}


@contextmanager
def working(checkout, *words, calls=1, fake=SLOW, **variables):
    """Run a base2new in the background during a `with` block; interrupt it at the end."""
    before = checkout.begun()
    process = checkout.start(*words, fake=fake, **variables)
    try:
        wait_for(lambda: checkout.begun() == before + calls)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
