"""A tiny data set of 32x32 images, and runs of train.py on it with the golden tests' tiny CLIP."""

import functools
import io
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from paths import GOLDEN
from PIL import Image

import train
from trainers.prompting.checkpoint.keys import role_of
from trainers.prompting.trainer.trainer import PromptTrainer

# class names with words that the tiny CLIP knows
COLOURS = {
    "forest": (40, 200, 40),
    "sea": (40, 40, 200),
    "road": (128, 128, 128),
    "annual crop": (200, 160, 40),
}
OTHERS = {"tower": (200, 40, 40), "bridge": (40, 200, 200), "snow field": (230, 230, 230)}


@functools.cache
def noisy(*colours, **splits) -> list[tuple[str, str, int, bytes]]:
    """Return (split, name, number, PNG) of images, which hundreds of runs write."""
    rng, found = np.random.default_rng(0), []
    for name, colour in colours:
        for split, count in splits.items():
            for i in range(count):
                pixels = np.array(colour) + rng.integers(-30, 30, (32, 32, 3))
                file = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(file, "PNG")
                found.append((split, name, i, file.getvalue()))
    return found


@DATASET_REGISTRY.register()
class TinyColours(DatasetBase):
    """Noisy squares of one colour per class: 6 training, 2 validation and 4 test images of each."""

    dataset_dir = "tiny_colours"
    colours = property(lambda self: COLOURS)
    splits = {"train": 6, "val": 2, "test": 4}

    def __init__(self, cfg):
        folder = Path(cfg.DATASET.ROOT) / self.dataset_dir
        folder.mkdir(parents=True, exist_ok=True)
        data = {split: [] for split in self.splits}
        for split, name, i, content in noisy(*self.colours.items(), **self.splits):
            path = folder / f"{split}_{name}_{i}.png"
            if not path.exists():
                path.write_bytes(content)
            label = [*self.colours].index(name)
            data[split].append(Datum(impath=str(path), label=label, classname=name))
        shots = cfg.DATASET.NUM_SHOTS
        few = self.generate_fewshot_dataset(data["train"], num_shots=shots)
        super().__init__(train_x=few, val=data["val"], test=data["test"])


@DATASET_REGISTRY.register()
class TinyOthers(TinyColours):
    """Three other classes. Their folder is outside of DATASET.ROOT, which `ImageFolder` reads."""

    dataset_dir = "../tiny_others"
    colours = property(lambda self: OTHERS)


# The classes of `write_halves`, sorted as `ImageFolder` sorts them; three are the base classes.
HALVES = ["annual crop", "forest", "river bank", "road", "sea"]
OF_HALVES = ["DATASET.NAME", "ImageFolder", "DATASET.SUBSAMPLE_CLASSES"]  # add base, new or all


def write_halves(root: Path) -> Path:
    """Write a folder for `ImageFolder`: 5 classes, with 5 training, 2 validation, 3 test images."""
    rng = np.random.default_rng(0)
    for name in HALVES:
        folder = root / name.replace(" ", "_")
        folder.mkdir(parents=True)
        colour = rng.integers(30, 225, 3)
        for i in range(10):
            pixels = (colour + rng.integers(-30, 30, (32, 32, 3))).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def write_sentences(folder: Path) -> str:
    """Write two sentences about each class, for CoPrompt, and return the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sentences.json"
    about = {name: [f"a photo of a {name}.", f"a {name} from above."] for name in COLOURS}
    path.write_text(json.dumps(about))
    return str(path)


def arguments(root, trainer="ALIGN", output=None, epochs=2, *more) -> list[str]:
    """Return the command line of a short run; `more` are flags, before the KEY VALUE pairs."""
    node = {
        "ALIGN": ["TRAINER.ALIGN.DEPTH", "2", "TRAINER.ALIGN.M", "2", "TRAINER.ALIGN.N", "2"],
        "HiCroPL": [
            "TRAINER.HICROPL.PROMPT_DEPTH", "4", "TRAINER.HICROPL.CROSS_LAYER", "2",
            "TRAINER.HICROPL.SENTENCES", "emoji",
        ],
        "PromptSRC": ["TRAINER.PROMPTSRC.GPA_MEAN", "1"],
        "TCP": ["TRAINER.COOP.INSERT_BLOCK", "2"],
    }  # fmt: skip
    if trainer == "CoPrompt":
        sentences = write_sentences(Path(root))
        node[trainer] = ["DATALOADER.K_TRANSFORMS", "2", "TRAINER.CoPrompt.SENTENCES", sentences]
    flags = ["--root", str(root), "--seed", "1", "--trainer", trainer, *more]
    flags += ["--backbone", str(GOLDEN / "tiny_clip_seed0.safetensors")]
    flags += ["--output-dir", str(output or f"{root}/output")]
    pairs = {
        "DATASET.NAME": "TinyColours",
        "DATASET.NUM_SHOTS": "4",
        "INPUT.SIZE": "(32, 32)",
        "INPUT.TRANSFORMS": "['random_flip', 'normalize']",
        "DATALOADER.NUM_WORKERS": "0",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": "0.01",
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.MAX_EPOCH": str(epochs),
    }
    return flags + [word for pair in pairs.items() for word in pair] + node.get(trainer, [])


def run(*args, extra=()) -> int:
    """Run train.py in this process, and return its exit code."""
    return train.run([*arguments(*args), *extra])


def results(folder: Path) -> dict:
    """Return the record of a run in its folder."""
    return json.loads((folder / "results.json").read_text())


def learned(folder: Path, epoch: int) -> dict:
    """Return what the checkpoint of an epoch has learned, by name."""
    file = next(folder.glob(f"*/model.pth.tar-{epoch}"))
    return torch.load(file, weights_only=True)["state_dict"]


@contextmanager
def killed_after(epoch: int):
    """Runs end after an epoch, counted from 1, as by Ctrl-C: with exit code 130."""
    after_epoch = PromptTrainer.after_epoch

    def kill(trainer):
        after_epoch(trainer)
        if trainer.epoch + 1 == epoch:
            raise KeyboardInterrupt

    with mock.patch.object(PromptTrainer, "after_epoch", kill):
        yield


if __name__ == "__main__":  # train.py on this data set in a separate process
    sys.exit(train.run())


def edit_run(folder, values, source=None) -> None:
    """Set keys in the `run.json` of a run folder, which is that of another one at first."""
    content = json.loads(((source or folder) / "run.json").read_text())
    for place, value in values.items():
        role = role_of(place)
        content["run"][role if role in content["run"] else "data"][place] = value
    (folder / "run.json").write_text(json.dumps(content))
