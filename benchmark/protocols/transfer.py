"""The transfer protocols: train on one data set, test on others.

The targets have other classes (cross-dataset) or the same classes in other styles (domain
generalization).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from trainers.prompting.errors import need

from .base import METHOD, SHOTS, TRAINERS, Part, Protocol, Run, learns_nothing
from .configs import ANY, GROUPS, Rule, check_datasets


class Transfer(Protocol):
    """Train and test on the source, then test on the targets with the same config.

    Both transfer protocols use the same trainings.
    """

    rules = [
        Rule("*", "CoOp", ANY, "vit_b16_ep50_ctxv1"),
        Rule("*", "CoCoOp", ANY, "vit_b16_c4_ep10_batch1_ctxv1"),
        Rule("*", "MaPLe", ANY, "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"),
        Rule("*", "IVLP", ANY, "vit_b16_c2_ep5_batch4_2+2ctx"),
        Rule("*", "VPT", ANY, "vit_b16_c2_ep5_batch4_4"),
        Rule("*", "PLOT ProGrad", ANY, "vit_b16_ep50"),
        Rule("*", "KgCoOp TCP", ANY, "vit_b16_ep100_ctxv1"),
        Rule("*", "PromptSRC", ANY, "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets"),
        Rule("*", "GDA", ANY, "few_shot"),
        Rule("*", "*", ANY, "cross_dataset"),
    ]
    datasets = ""
    options = (
        TRAINERS
        | SHOTS
        | {
            "--source": {
                "default": "imagenet",
                "help": "the data set to train on (default: %(default)s)",
            }
        }
    )
    across = "dataset"

    def __init__(self):
        target = f"{self.name}/{{source}}/{{dataset}}/{METHOD}/seed{{seed}}"
        self.parts = {
            "source": Part(f"transfer/{{source}}/{METHOD}/seed{{seed}}"),
            "target": Part(target, eval_only=True),
        }
        self.table_title = f"{self.title} from {{source}}"

    def plan(self, output, datasets, seeds, configs, trainers, shots, source):
        """Return the runs: for each method a training on the source and a test on each target."""
        check_datasets([source])
        targets = datasets or self.targets.get(source, [])
        need(targets, f"the source {source} has no default targets: name some data sets")
        runs = []
        for seed, trainer in product(seeds, trainers):
            method = self.method(configs, trainer, source, seed, shots) | {"source": source}
            training = self.run(output, "source", dataset=source, **method)
            needs = None if learns_nothing(trainer) else training
            runs.append(training)
            for target in (name for name in targets if name != source):  # it is tested anyway
                runs.append(self.run(output, "target", dataset=target, **method, needs=needs))
        return list(dict.fromkeys(runs))


def _training(run) -> tuple:
    """Return the fields that identify a run's training."""
    return run.source, run.shots, run.trainer, run.config, run.opts, run.seed


def shared_trainings(runs: Iterable[Run]) -> Iterator[Run]:
    """Yield the runs, and a training on a source once for each protocol that tests it."""
    protocols: dict[tuple, dict[Protocol, None]] = defaultdict(dict)
    runs = list(runs)
    for run in runs:
        if run.part == "target":
            protocols[_training(run)][run.protocol] = None
    for run in runs:
        tested = protocols.get(_training(run)) if run.part == "source" else None
        yield from (replace(run, protocol=protocol) for protocol in tested or [run.protocol])


def places_of_sources(runs: list[Run]) -> list[str]:
    """Return the planned folders of trainings on sources whose tests are among the runs."""
    known = {_training(run) for run in runs if run.part == "source"}
    tests = {_training(run): run for run in runs if run.part == "target"}
    alone = [run for training, run in tests.items() if training not in known]
    return [replace(run, part="source", dataset=run.source).place for run in alone]


class CrossDataset(Transfer):
    """Transfer to data sets with other classes."""

    name = "cross_dataset"
    title = "Cross-dataset transfer"
    summary = "train on one data set, test on others"
    new_classes = True
    targets = {
        "imagenet": GROUPS["ten"],
        "emoji": ["emoji_animals", "emoji_food"],
    }  # fmt: skip


class DomainGeneralization(Transfer):
    """Transfer to the source's classes in other styles."""

    name = "domain_generalization"
    title = "Domain generalization"
    summary = "train on one data set, test on its classes in other styles"
    targets = {
        "imagenet": GROUPS["imagenet_variants"],
        "emoji": [
            "emoji_blur", "emoji_fog", "emoji_hue", "emoji_dither", "emoji_motion", "emoji_night",
            "emoji_pixels",
        ],
    }  # fmt: skip


CROSS_DATASET = CrossDataset()
DOMAIN_GENERALIZATION = DomainGeneralization()
TRANSFER = (CROSS_DATASET, DOMAIN_GENERALIZATION)
