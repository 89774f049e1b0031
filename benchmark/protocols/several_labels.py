"""The protocols of images with several labels: few images or few known labels, and base-to-new."""

from itertools import product

from ..cli import each, from_zero
from .base import METHOD, TRAINERS, Part, Plot, Protocol, base_and_others, learns_nothing
from .configs import ANY, Rule
from .few_shot import FEW_SHOT

OF_SEVERAL = Rule("*", "DualCoOp RAM TaIDPT SPARC", ANY, "several_labels")
METHODS = TRAINERS["--trainers"] | {"default": "ZeroshotCLIP LinearProbe CoOp DualCoOp ALIGN"}
ALL = -1  # DATASET.NUM_SHOTS of runs on all images


def shots_or_all(text: str) -> int:
    """Argument type: a number of shots, or 0 for all images."""
    return from_zero(text) or ALL


SHOTS = {
    "--shots": {
        "type": each(shots_or_all),
        "default": "0",
        "help": "images that have a class, in one argument; 0 takes all images (default: 0)",
    }
}


def share(text: str) -> str:
    """Argument type: a share, as text."""
    return f"{float(text):g}"


class SeveralLabels(Protocol):
    """Train on all classes with each number of shots, or each share of known labels, and test."""

    name = "several_labels"
    title = "Several labels an image"
    summary = "images with several labels: train with few images or few known labels"
    parts = {"all": Part(f"several_labels/{{dataset}}/{METHOD}/seed{{seed}}", "map")}
    columns = {"map": "mAP"}
    rules = [OF_SEVERAL, *FEW_SHOT.rules]
    datasets = "emoji_scenes"
    options = {"--trainers": METHODS} | SHOTS | {
        "--known": {
            "type": each(share),
            "default": "1",
            "help": "shares of the labels of training images that are known, in one argument "
            "(default: 1)",
        }
    }  # fmt: skip
    untrained_once = False  # for each number of shots, in whose table it stands
    several = True
    table_title = "Several labels on {dataset}"
    plot = Plot(
        name="several_labels",
        x="shots",
        y="map",
        x_label="Training images that have a class",
        y_label="mAP (%)",
        sentence="mAP against the number of training images that have a class",
    )

    def plan(self, output, datasets, seeds, configs, trainers, shots, known):
        """Return the runs: for each method a training with each number of shots or known share."""
        runs = []
        of = product(seeds, shots, known, datasets, trainers)
        for seed, number, part, dataset, trainer in of:
            method = self.method(configs, trainer, dataset, seed, number)
            hides = part != "1" and not learns_nothing(trainer)
            opts = ("DATASET.KNOWN", part) if hides else ()
            runs.append(self.run(output, "all", dataset=dataset, opts=opts, **method))
        return list(dict.fromkeys(runs))


class SeveralBase2New(Protocol):
    """Train on base classes; test on images with base, with new, and with either classes."""

    name = "several_base2new"
    title = "Several labels an image, base-to-new"
    summary = "images with several labels: train on base classes, test on base and new classes"
    parts = {
        part: Part(
            f"several_base2new/{folder}/{{dataset}}/{METHOD}/seed{{seed}}", part, part, eval_only
        )
        for part, folder, eval_only in (
            ("base", "train_base", False), ("new", "test_new", True), ("both", "test_both", True),
        )
    }  # fmt: skip
    columns = {"base": "mAP, base", "new": "mAP, new", "both": "mAP, both"}
    note = (
        "Base: mAP of the base classes on test images that have one; new: the same of new classes; "
        "both: of all classes on images that have any. They have no common scale, so there is no H."
    )
    rules = [
        Rule("*", "DualCoOp", ANY, "unseen"), OF_SEVERAL, Rule("*", "*", ANY, "base2new"),
    ]  # fmt: skip
    datasets = "emoji_scenes"
    options = {"--trainers": METHODS | {"default": "ZeroshotCLIP CoOp DualCoOp ALIGN"}} | SHOTS
    untrained_once = False
    new_classes = True
    several = True
    table_title = "Several labels, base-to-new on {dataset}"

    def plan(self, output, datasets, seeds, configs, trainers, shots):
        """Return the runs: a training on base classes, and tests on new ones and on both."""
        runs = []
        for seed, number, dataset, trainer in product(seeds, shots, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, number)
            runs += base_and_others(self, output, dataset=dataset, **method)
        return list(dict.fromkeys(runs))


SEVERAL_LABELS, SEVERAL_BASE2NEW = SeveralLabels(), SeveralBase2New()
