"""Images per second of the training loader alone, beside those of the step that it feeds.

The flags are those of train.py; without any it is ALIGN on emoji. Nothing is written.
"""

import sys
import time
from contextlib import redirect_stdout
from itertools import islice

import torch
from dassl.engine import build_trainer

from trainers.prompting.errors import UserError

from ..protocols.configs import CONFIGS
from ..report.render import as_text
from ..report.tables import Cell, Table

STEPS = 10  # that are timed, after one more
CAPTION = (
    "In the first epoch images are decoded, then kept in memory up to DATALOADER.CACHE_GIB. The "
    "step computes on batches that are there already."
)


def main(argv: list[str]) -> None:
    """`python -m benchmark loading FLAGS`."""
    import train  # registers the data sets too

    parser = train.build_parser()
    parser.prog, parser.description = "python -m benchmark loading", __doc__
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
    seconds = step_seconds(trainer, list(islice(loader, STEPS + 1)))
    step = loader.batch_size / seconds
    table = Table(
        f"{cfg.TRAINER.NAME} on {cfg.DATASET.NAME}: {len(loader.dataset)} training images, batches "
        f"of {loader.batch_size}, {loader.num_workers} workers, {trainer.device}",
        ["", "Images/s", "Over the step"],
        [
            [Cell(name), Cell(f"{rate:.1f}"), Cell(f"{rate / step:.1f}")]
            for name, rate in (("loader, first epoch", first), ("loader, later", later))
        ]
        + [[Cell("training step"), Cell(f"{step:.1f}"), Cell("1.0")]],
        [CAPTION],
    )
    print(as_text(table))


def epoch(loader, name: str) -> float:
    """Images per second of one pass through the loader."""
    print(f"loader: {name}, {len(loader)} batches", file=sys.stderr, flush=True)
    started = time.perf_counter()
    images = sum(len(batch["label"]) for batch in loader)
    return images / (time.perf_counter() - started)


def step_seconds(trainer, batches: list[dict]) -> float:
    """Seconds of a training step, a mean; the first one is not counted."""
    trainer.set_model_mode("train")
    trainer.epoch, trainer.num_batches = 0, len(batches) + 1  # no epoch ends
    started = time.perf_counter()
    for trainer.batch_idx, batch in enumerate(batches):
        print(f"step {trainer.batch_idx + 1} of {len(batches)}", file=sys.stderr, flush=True)
        trainer.forward_backward(batch)
        if trainer.batch_idx == 0 and len(batches) > 1:
            wait(trainer.device)
            started = time.perf_counter()
    wait(trainer.device)
    return (time.perf_counter() - started) / max(1, len(batches) - 1)


def wait(device: torch.device) -> None:
    """Until the accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
