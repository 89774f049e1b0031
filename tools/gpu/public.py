"""Time training steps of published code, in a checkout of the CoOp family."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmark.measure.case import Case
from benchmark.measure.geometry import class_names, untrained_clip
from trainers.prompting.errors import UserError

PROGRAM = Path(__file__).with_name("public_step.py")
DASSL = Path(__file__).resolve().parents[2] / "dassl-lite"
PARTS = ("train.py", "trainers", "clip")


def check_checkout(path: Path) -> None:
    """Check that a folder is such a checkout.

    Raises:
        UserError: it lacks a part.
    """
    if missing := [name for name in PARTS if not (path / name).exists()]:
        raise UserError(
            f"--public '{path}' has no {' and no '.join(missing)}: give a checkout of CoOp, MaPLe, "
            "PromptSRC or another repository like them"
        )


def public_step(case: Case, checkout: Path, repeats: int) -> dict:
    """Measure training steps of a checkout, with random weights of the case's geometry.

    Returns:
        A record with `seconds` of each repeat, `peak_mib` and `operations`, or with a `problem`,
        the last line of the checkout's error.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "clip.pt"
        torch.save(untrained_clip(case.geometry).state_dict(), weights)
        asked = {
            "checkout": str(checkout.resolve()), "weights": str(weights), "trainer": case.trainer,
            "names": class_names(case.classes), "batch": case.batch, "device": case.device,
            "precision": case.precision, "threads": case.threads, "repeats": repeats,
            "resolution": case.geometry[1],
        }  # fmt: skip
        paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(DASSL)]
        run = subprocess.run(
            [sys.executable, PROGRAM],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            cwd=folder,  # checkouts write caches below it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    if run.returncode:
        return {"problem": (run.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(run.stdout.strip().splitlines()[-1])
