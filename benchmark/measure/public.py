"""Time published code, in a checkout of the CoOp family, in turn with ours."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from trainers.prompting.errors import UserError

from .case import Case, node_of
from .geometry import class_names, untrained_clip

PROGRAM = Path(__file__).with_name("public_step.py")
DASSL = Path(__file__).resolve().parents[2] / "dassl-lite"
PARTS = ("train.py", "trainers", "clip*/")  # LoCoOp's is clip_w_local
LOOPS = {"tpt_classification.py": "TPT", "fs/twostage.py": "TwoSFS"}  # of public_loops.py


def check_checkout(path: Path, option: str = "--public") -> None:
    """Check that a folder is such a checkout; raises UserError if it lacks a part."""
    if missing := [name.strip("*/") for name in PARTS if not any(path.glob(name))]:
        raise UserError(
            f"{option} '{path}' has no {' and no '.join(missing)}: give a checkout of CoOp, MaPLe, "
            "ALIGN or another repository like them"
        )


def check_public(path: Path, trainers: list[str]) -> None:
    """Check that a folder is a checkout whose steps can be timed, of these methods."""
    trainer = of_loops(path)
    if not trainer:
        check_checkout(path)
    elif trainers != [trainer]:
        raise UserError(
            f"--public '{path}' is the code of {trainer} alone: add --trainers {trainer}"
        )


def of_loops(path: Path) -> str:
    """Return the method of a checkout with loops of its own; empty for one of Dassl trainers."""
    if (path / "train.py").exists():
        return ""
    return next((trainer for file, trainer in LOOPS.items() if (path / file).is_file()), "")


def check_public_precision(path: Path, device: str, precisions: list[str]) -> None:
    """Refuse precisions in which a checkout does not compute, as our code beside it (UserError).

    Public code has CUDA's autocast, which is float16 and off on a CPU; loops always have it.
    """
    possible = ["amp"] if of_loops(path) else ["fp32", "amp", "fp16"]
    if device == "cpu":
        possible = ["fp32"]
    if others := [name for name in precisions if name not in possible]:
        raise UserError(
            f"--public '{path}' does not compute in {others[0]} on {device}: choose --precision "
            f"{' or '.join(possible)}"
        )


def environment(dassl: Path = DASSL) -> dict[str, str]:
    """Return the environment of a process that imports a checkout, with a folder of Dassl."""
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [*others, str(DASSL)] if dassl == DASSL else [str(dassl), *others]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def last_line(errors: Path) -> str:
    """Return the last line of a file of error messages, cut to 200 characters."""
    lines = errors.read_text(errors="replace").strip().splitlines()
    return (lines or ["no message"])[-1][:200]


class Public:
    """The method of a checkout in a separate process, with random weights of the case's geometry.

    Attributes:
        record: `seconds` and `processor_seconds` of each step or evaluation, its `operations`, and
            `peak_mib`; or a `problem`, the last line of the checkout's error.
    """

    def __init__(self, case: Case, checkout: Path):
        self.record: dict = {"seconds": [], "processor_seconds": []}
        self._folder = tempfile.TemporaryDirectory()  # checkouts write caches below it
        weights, self._errors = (Path(self._folder.name) / name for name in ("clip.pt", "errors"))
        torch.save(untrained_clip(case.geometry).state_dict(), weights)
        request = {
            "checkout": str(checkout.resolve()), "weights": str(weights), "trainer": case.trainer,
            "names": class_names(case.classes), "batch": case.batch, "device": case.device,
            "training": case.training, "precision": case.precision, "threads": case.threads,
            "resolution": case.geometry[1],
            "settings": node_of(case.trainer, case.settings, case.classes),
        }  # fmt: skip
        with open(self._errors, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, PROGRAM], text=True, cwd=self._folder.name,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=environment(),
            )  # fmt: skip
        self.record |= self._answer(json.dumps(request))

    def _answer(self, line: str) -> dict:
        """Send a line to the program; return its answer, or {} and enter a problem."""
        try:
            self._process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            answer = self._process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self.record = {"problem": last_line(self._errors)}
        return json.loads(answer or "{}")

    def step(self) -> None:
        """Time a step or an evaluation and enter it, unless there was a problem."""
        if "problem" not in self.record and (answer := self._answer("step")):
            for key in ("seconds", "processor_seconds"):
                self.record[key].append(answer[key])
            self.record["peak_mib"] = answer["peak_mib"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
