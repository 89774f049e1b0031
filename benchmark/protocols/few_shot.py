"""The few-shot protocol: recognition with 1 to 16 training images per class, as in CoOp."""

from itertools import product

from ..cli import each, from_one
from .base import METHOD, TRAINERS, Part, Plot, Protocol
from .configs import ANY, Rule


class FewShot(Protocol):
    """Train and test on all classes, with each number of shots."""

    name = "few_shot"
    title = "Few-shot recognition"
    summary = "train with few images of all classes, test on all"
    parts = {"all": Part(f"few_shot/{{dataset}}/{METHOD}/seed{{seed}}")}
    rules = [
        Rule("imagenet", "CoOp PLOT ProGrad", ANY, "vit_b16_ep50"),
        Rule("*", "CoOp PLOT ProGrad", 1, "vit_b16_ep50"),
        Rule("*", "CoOp PLOT ProGrad", 4, "vit_b16_ep100"),
        Rule("*", "CoOp PLOT ProGrad", ANY, "vit_b16"),
        Rule("*", "KgCoOp TCP", ANY, "vit_b16_ep100_ctxv1"),
        Rule("*", "PromptSRC", ANY, "vit_b16_c2_ep50_batch4_4+4ctx_few_shot"),
        Rule("*", "CoPrompt", ANY, "base2new"),
        Rule("*", "CoCoOp", ANY, "vit_b16_c4_ep10_batch1_ctxv1"),
        Rule("*", "*", ANY, "few_shot"),
        Rule("*", "*", 4, "few_shot_1_2_4"),
        Rule("*", "*", ANY, "few_shot_8_16"),
    ]
    options = TRAINERS | {
        "--shots": {
            "type": each(from_one),
            "default": "1 2 4 8 16",
            "help": "images per class, in one argument (default: '%(default)s')",
        }
    }
    across = "shots"
    table_title = "Few-shot on {dataset}"
    plot = Plot(
        name="few_shot",
        x="shots",
        y="accuracy",
        x_label="Labelled images per class",
        y_label="Accuracy (%)",
        sentence="Accuracy against the number of labelled images per class; the star marks "
        "zero-shot CLIP",
    )

    def plan(self, output, datasets, seeds, configs, trainers, shots):
        """Return the runs: for each method a training with each number of shots."""
        runs = []
        for seed, number, dataset, trainer in product(seeds, shots, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, number)
            runs.append(self.run(output, "all", dataset=dataset, **method))
        return list(dict.fromkeys(runs))


FEW_SHOT = FewShot()
