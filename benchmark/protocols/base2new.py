"""Base-to-new: generalization to new classes of the same data set, as in CoCoOp."""

from itertools import product

from .base import METHOD, Part, Plot, Protocol, base_and_new
from .configs import ANY, Rule


class Base2New(Protocol):
    """Train and test on the base classes, then test on the new ones."""

    name = "base2new"
    title = "Base-to-new"
    summary = "train on base classes, test on base and on new"
    parts = {
        "base": Part(f"base2new/train_base/{{dataset}}/{METHOD}/seed{{seed}}", "base", "base"),
        "new": Part(f"base2new/test_new/{{dataset}}/{METHOD}/seed{{seed}}", "new", "new", True),
    }
    columns = {"base": "Base", "new": "New", "h": "H"}
    rules = [Rule("*", "*", ANY, "base2new")]
    untrained_once = False  # every seed fills its columns, like those of any method
    new_classes = True
    costs = True
    table_title = "Base-to-new on {dataset}"
    plot = Plot(
        name="base2new",
        x="base",
        y="new",
        x_label="Accuracy on base classes (%)",
        y_label="Accuracy on new classes (%)",
        sentence="Accuracy on new against that on base classes, over lines of equal harmonic mean",
        kind="plane",
    )
    cost_plot = Plot(
        name="base2new_cost",
        x="",
        y="h",
        x_label="",
        y_label="H (%)",
        sentence="Harmonic mean of base and new accuracy against the number of trained parameters "
        "and against training time; a dotted line is of a method that learns nothing",
        kind="cost",
    )

    def plan(self, output, datasets, seeds, configs, trainers, shots):
        """The runs: a training on base classes and a test on new ones for each method."""
        runs = []
        for seed, dataset, trainer in product(seeds, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, shots)
            runs += base_and_new(self, output, dataset=dataset, **method)
        return runs


BASE2NEW = Base2New()
