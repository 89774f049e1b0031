"""Whole runs of the commands: killed and resumed, and a benchmark beside the published numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from trainers.prompting.backbones.openai import CACHE, RELEASED
from trainers.prompting.method import METHODS

ROOT = Path(__file__).resolve().parents[2]
RESUMED = ("CoOp", "ALIGN")
COMPARED = "CoOp MaPLe ALIGN"
WAIT = 600  # seconds for a checkpoint to appear


class Failed(Exception):
    """A command failed; the message is the end of what it said."""


def train(output: Path, trainer: str, precision: str, deterministic: bool, epochs: int):
    """Start a few-shot training on the embedded data, with a checkpoint after each epoch."""
    node = METHODS[trainer].node
    command = [
        sys.executable, "train.py", "--trainer", trainer, "--output-dir", str(output),
        "--seed", "1", "--dataset-config-file", "configs/datasets/emoji.yaml",
        "--config-file", f"configs/trainers/{trainer}/emoji.yaml", "DATASET.NUM_SHOTS", "1",
        f"TRAINER.{node}.PREC", precision, "TRAINER.DETERMINISTIC", str(deterministic),
        "OPTIM.MAX_EPOCH", str(epochs), "TRAIN.CHECKPOINT_FREQ", "1",
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process) -> None:
    """Wait for a command; raises Failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise Failed(said.strip()[-300:])


def resume(folder: Path, trainer: str, precision: str, deterministic: bool, epochs: int) -> dict:
    """Train without a break, and killed after the first epoch and resumed; compare the ends.

    Returns:
        `difference`: the largest of trained values; `accuracies` of both; `start_seconds`: of the
        first, besides training and testing.
    """
    weights = METHODS[trainer].checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    whole, parts = folder / "whole", folder / "parts"
    try:
        started = time.perf_counter()
        finish(train(whole, trainer, precision, deterministic, epochs))
        taken = time.perf_counter() - started
        first = parts / weights / "model.pth.tar-1"
        process = train(parts, trainer, precision, deterministic, epochs)
        limit = time.monotonic() + WAIT
        while not first.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        finish(train(parts, trainer, precision, deterministic, epochs))
        ends = [
            torch.load(one / weights / f"model.pth.tar-{epochs}", weights_only=True)["state_dict"]
            for one in (whole, parts)
        ]
    except Failed as error:
        return {"problem": str(error)}
    records = [json.loads((one / "results.json").read_text()) for one in (whole, parts)]
    pairs = [(a.float(), ends[1][key].float()) for key, a in ends[0].items()]
    return {
        "killed": killed,
        "difference": max((a - b).abs().max().item() for a, b in pairs if a.numel()),
        "accuracies": [record["accuracy"] for record in records],
        "start_seconds": taken - records[0]["train_seconds"] - records[0]["test_seconds"],
    }


def resumed(folder: Path, small: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield the items of the piece `resume` by name."""
    for trainer in RESUMED[:1] if small else RESUMED:
        for precision in ("fp16",) if small else ("fp16", "amp"):
            for deterministic in (True,) if small else (True, False):
                how = "deterministic" if deterministic else "usual"
                name = f"{trainer}, {precision}, {how}"
                place = folder / name.replace(", ", "_")
                epochs = 2 if small else 10
                yield name, partial(resume, place, trainer, precision, deterministic, epochs)


# ------------------------------------------------------------------------------- a benchmark


def dataset(root: Path) -> str:
    """Return `eurosat` if its images and the weights of ViT-B/16 are here, else `emoji`."""
    weights = Path(CACHE) / Path(RELEASED["ViT-B/16"]).name
    return "eurosat" if (root / "eurosat").is_dir() and weights.is_file() else "emoji"


def run(output: Path, root: Path, small: bool, seconds: float) -> dict | None:
    """Run or continue base-to-new with three methods and three seeds.

    Args:
        output: the folder of the runs.
        root: the folder of the data sets.
        small: one method, seed and epoch.
        seconds: until the command is interrupted.

    Returns:
        `table`, the report in Markdown; `results`, its rows; None if the time did not suffice.
    """
    name = dataset(root)
    environment = {
        "TRAINERS": "CoOp" if small else COMPARED, "SEEDS": "1" if small else "1 2 3",
        "OUTPUT": str(output), "DATA": str(root) if name == "eurosat" else "",
        "PYTHON": sys.executable, "JOBS": "1",
    }  # fmt: skip
    keys = ["OPTIM.MAX_EPOCH", "1"] if small else []
    command = ["bash", "scripts/base2new.sh", name, *keys]  # shows its progress
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        code = process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        return None
    if code:
        return {"problem": f"scripts/base2new.sh ended with code {code}"}
    report = [sys.executable, "-m", "benchmark", "report", str(output), "--protocol", "base2new"]
    tables = {
        form: subprocess.run(
            [*report, "--format", form], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for form in ("markdown", "json")
    }
    return {"dataset": name, "table": tables["markdown"], "results": json.loads(tables["json"])}
