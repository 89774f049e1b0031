"""Repeat a recorded training of public code with our method, and compare the two."""

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dassl.engine import TRAINER_REGISTRY
from dassl.utils import set_random_seed
from safetensors import safe_open

from .recording import Replayed, Tensors, evaluate, recorded_training

# Limits within which two trainings agree.
LOSS = 1e-4  # of losses, over max(1, |loss|)
RATE = 1e-6  # of learning rates, over the largest
WEIGHT = 1e-3  # of weights, over how far they moved
CLEAR = 1e-3  # predictions agree where the two best logits are further apart


class Record(NamedTuple):
    """A training of public code, as public_training.py writes it.

    facts: `trainer`, `settings` (KEY VALUE pairs of our train.py), `dassl` (version), `images`
    (file names of the training images), `base` and `new` (accuracies); tensors: those of
    `recorded_training`, and `logits/base` and `logits/new`.
    """

    facts: dict[str, Any]
    tensors: Tensors

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a record from its file."""
        with safe_open(path, "pt") as file:
            facts = {key: json.loads(value) for key, value in file.metadata().items()}
            return cls(facts, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118

    def part(self, prefix: str) -> Tensors:
        """Return the tensors under a prefix, named without it."""
        part = {k: v for k, v in self.tensors.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in part.items()}


class Places(NamedTuple):
    """The places of our side: DATASET.ROOT, the file of the CLIP, the folder of the outputs."""

    root: Path
    weights: Path
    output: Path


def cfg_of(trainer: str, settings: Sequence[str], places: Places):
    """Return our cfg for a method and KEY VALUE pairs; raises UserError if one is invalid."""
    train: Any = import_module("train")
    words = ["--trainer", trainer, "--root", places.root, "--backbone", places.weights]
    words += ["--output-dir", places.output, *settings]
    return train.setup_cfg(train.parse_args([str(word) for word in words]))


def replay(record: Record, places: Places, changes: Sequence[str] = ()) -> Record:
    """Train our method from the start and on the batches of a record of public code.

    `changes` are KEY VALUE pairs for our side.

    Returns:
        Our record: `base`, `new` and the tensors; or `why` it cannot be compared step by step.
    """
    name, settings = record.facts["trainer"], [*record.facts["settings"], *changes]

    def build(subset: str):
        pairs = [*settings, "DATASET.SUBSAMPLE_CLASSES", subset]
        cfg = cfg_of(name, pairs, places._replace(output=places.output / "ours" / subset))
        set_random_seed(cfg.SEED)
        return TRAINER_REGISTRY.get(name)(cfg)

    with redirect_stdout(io.StringIO()):  # the log of a run
        trainer = build("base")
        images = [Path(item.impath).name for item in trainer.dm.dataset.train_x]
        if images != record.facts["images"]:
            return Record({"why": "the few-shot images differ"}, {})
        epochs, steps = trainer.max_epoch, len(record.tensors["loss"])
        if trainer.epoch_steps * epochs != steps:
            why = f"ours has {trainer.epoch_steps * epochs} steps, public code {steps}"
            return Record({"why": why}, {})
        trainer.method.load_public_state_dict(record.part("start/"))
        trainer.train_loader_x = Replayed(record.tensors, trainer.train_loader_x, trainer.cfg)
        tensors = recorded_training(trainer, trainer.method.public_parameters)
        base, tensors["logits/base"] = evaluate(trainer)
        new_trainer = build("new")
        new_trainer.load_model(trainer.output_dir, epoch=epochs)
        new, tensors["logits/new"] = evaluate(new_trainer)
    return Record({"base": base, "new": new}, tensors)


class Difference(NamedTuple):
    """The distance between two trainings.

    loss, rate, weights: the largest difference of a loss (over max(1, |loss|)), a learning rate
    and a weight; moved: how far the weights moved from their start, at most; predictions: how many
    differ, of base and new classes; problems: sentences, each on a limit that is passed.
    """

    steps: int
    loss: float
    rate: float
    weights: float
    moved: float
    predictions: int
    problems: list[str]


def compare_records(theirs: Record, ours: Record) -> Difference:
    """Compare a training of public code with our repetition."""
    losses, rates = (
        (theirs.tensors[key], (theirs.tensors[key] - ours.tensors[key]).abs())
        for key in ("loss", "lr")
    )
    relative = losses[1] / losses[0].abs().clamp(min=1)
    problems = []
    if not relative.max() <= LOSS:
        step = int((~(relative <= LOSS)).nonzero()[0])
        problems.append(f"losses differ from step {step + 1} on")
    if not rates[1].max() <= RATE * rates[0].max():
        problems.append("learning rates differ")
    start, final, repeated = (
        {name.removeprefix("prompt_learner."): x.float() for name, x in part.items()}
        for part in (theirs.part("start/"), theirs.part("final/"), ours.part("final/"))
    )
    moved = {name: (final[name] - start[name]).abs().max().item() for name in start}
    trained = {name for name in start if name in repeated or moved[name]}
    if alone := sorted(repeated.keys() ^ trained):
        problems.append(f"one side alone trains {', '.join(alone[:3])}")
    weights = {
        name: (final[name] - repeated[name].reshape(final[name].shape)).abs().max().item()
        for name in start.keys() & repeated.keys()
    }
    far = max(moved.values())
    if not all(weight <= WEIGHT * far for weight in weights.values()):
        problems.append("weights differ")
    differ, clear = 0, 0
    for half in ("logits/base", "logits/new"):
        logits = theirs.tensors[half]
        top = logits.topk(2).values
        differing = logits.argmax(1) != ours.tensors[half].argmax(1)
        differ += int(differing.sum())
        clear += int((differing & (top[:, 0] - top[:, 1] > CLEAR)).sum())
    if clear:
        problems.append(f"{clear} predictions differ that are not close")
    largest = float(relative.max()), float(rates[1].max()), max(weights.values(), default=0.0)
    return Difference(len(relative), *largest, far, differ, problems)
