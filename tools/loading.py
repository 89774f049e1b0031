"""Measure images per second of the training loader, and of the training step that it feeds.

The options are those of train.py; without any, ALIGN on emoji is measured. Nothing is written.
"""

import sys
import time
from contextlib import redirect_stdout
from itertools import islice

import torch
from dassl.engine import build_trainer
from tabulate import tabulate

import train  # registers the data sets, too
from benchmark.protocols.configs import CONFIGS
from trainers.prompting.errors import UserError

from . import run

STEPS = 10  # timed steps, after a first one that is not counted
CAPTION = (
    "In the first epoch images are decoded and kept in memory, up to DATALOADER.CACHE_GIB. The "
    "training step is timed on batches that are already loaded."
)


def main(argv: list[str]) -> None:
    """Run `python -m tools.loading`."""
    parser = train.build_parser()
    parser.prog, parser.description = "python -m tools.loading", __doc__
    parser.set_defaults(
        trainer="ALIGN",
        config_file=str(CONFIGS / "trainers" / "ALIGN" / "emoji.yaml"),
        dataset_config_file=str(CONFIGS / "datasets" / "emoji.yaml"),
    )
    cfg = train.setup_cfg(train.parse_args(argv, parser))
    cfg.defrost()
    cfg.OUTPUT_DIR = cfg.RESUME = ""
    with redirect_stdout(sys.stderr):
        trainer = build_trainer(cfg)
    loader = trainer.train_loader_x
    if not trainer.get_model_names() or trainer.optim is None:
        raise UserError(f"{cfg.TRAINER.NAME} has nothing to train: choose another --trainer")
    first, later = epoch(loader, "first epoch"), epoch(loader, "second epoch")
    step = loader.batch_size / step_seconds(trainer, list(islice(loader, STEPS + 1)))
    print(
        f"{cfg.TRAINER.NAME} on {cfg.DATASET.NAME}: {len(loader.dataset)} training images, batches "
        f"of {loader.batch_size}, {loader.num_workers} workers, {trainer.device}"
    )
    rates = {"loader, first epoch": first, "loader, later": later, "training step": step}
    rows = [[name, rate, rate / step] for name, rate in rates.items()]
    print(tabulate(rows, ["", "Images/s", "Over the step"], floatfmt=".1f"))
    print(CAPTION)


def epoch(loader, name: str) -> float:
    """Return images per second of one pass through the loader."""
    print(f"loader: {name}, {len(loader)} batches", file=sys.stderr, flush=True)
    started = time.perf_counter()
    images = sum(len(batch["label"]) for batch in loader)
    return images / (time.perf_counter() - started)


def step_seconds(trainer, batches: list[dict]) -> float:
    """Return the mean seconds of a training step; the first step is not counted."""
    trainer.set_model_mode("train")
    trainer.epoch, trainer.num_batches = 0, len(batches) + 1  # no epoch ends
    started = time.perf_counter()
    for i, batch in enumerate(batches):
        print(f"step {i + 1} of {len(batches)}", file=sys.stderr, flush=True)
        trainer.batch_idx = i
        trainer.forward_backward(batch)
        if i == 0 and len(batches) > 1:
            wait(trainer.device)
            started = time.perf_counter()
    wait(trainer.device)
    return (time.perf_counter() - started) / max(1, len(batches) - 1)


def wait(device: torch.device) -> None:
    """Wait until the GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    run("loading", main)
