"""The base-to-new protocol: generalization to new classes of the same data set, as in CoCoOp."""

from itertools import product

from .base import METHOD, Part, Plot, Protocol, base_and_others
from .configs import ANY, Rule


class Base2New(Protocol):
    """Train and test on the base classes, then test on the new ones."""

    name = "base2new"
    title = "Base-to-new"
    summary = "train on base classes, test on base and new classes"
    parts = {
        "base": Part(f"base2new/train_base/{{dataset}}/{METHOD}/seed{{seed}}", "base", "base"),
        "new": Part(f"base2new/test_new/{{dataset}}/{METHOD}/seed{{seed}}", "new", "new", True),
    }
    columns = {"base": "Base", "new": "New", "h": "H"}
    rules = [Rule("*", "*", ANY, "base2new")]
    untrained_once = False  # for each number of shots, in whose table it stands
    new_classes = True
    costs = True
    table_title = "Base-to-new on {dataset}"
    plot = Plot(
        name="base2new",
        x="base",
        y="new",
        x_label="Accuracy on base classes (%)",
        y_label="Accuracy on new classes (%)",
        sentence="Accuracy on new classes against accuracy on base classes, with lines of equal "
        "harmonic mean",
        kind="plane",
    )

    def plan(self, output, datasets, seeds, configs, trainers, shots):
        """Return the runs: for each method a training on base classes and a test on new classes."""
        runs = []
        for seed, dataset, trainer in product(seeds, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, shots)
            runs += base_and_others(self, output, dataset=dataset, **method)
        return list(dict.fromkeys(runs))


BASE2NEW = Base2New()
