"""Outcomes of runs that never ran, for tests of tables and plots."""

from pathlib import Path

from benchmark.protocols import PROTOCOLS
from benchmark.report.results import Outcome


def outcome(
    trainer, seed, part, accuracy, dataset="emoji", problem=None, protocol="base2new", **more
) -> Outcome:
    """One outcome; `more` are fields of the run, or of its result."""
    names = {"config": "emoji", "shots": 16, "source": "", "variant": ""}
    result = {"split": "test", "backbone": "ViT-B/16", "num_params": 10, "train_seconds": 60.0}
    if trainer == "ZeroshotCLIP":
        result["num_params"] = 0
    names |= {key: more.pop(key) for key in list(more) if key in names}
    names |= {"trainer": trainer, "dataset": dataset, "seed": seed}
    run = PROTOCOLS[protocol].run(Path("nowhere"), part, **names)
    return Outcome(run, None if problem else {"accuracy": accuracy} | result | more, problem)


def few_shot(trainer, shots, accuracies, dataset="dtd", **more) -> list[Outcome]:
    """Outcomes of seeds 1, 2, ..."""
    return [
        outcome(trainer, seed, "all", value, dataset, protocol="few_shot", shots=shots, **more)
        for seed, value in enumerate(accuracies, 1)
    ]


def ablation(variant, base, new, dataset="emoji", **more) -> list[Outcome]:
    """Outcomes of seeds 1, 2, ... on the base and on the new classes."""
    return [
        outcome("ALIGN", seed, part, value, dataset, protocol="ablation", variant=variant, **more)
        for part, values in (("base", base), ("new", new))
        for seed, value in enumerate(values, 1)
    ]


def transfer(trainer, source, accuracies: dict, seed=1, shots=16, **more) -> list[Outcome]:
    """Outcomes on the source and on the targets, by their names."""
    more = {"protocol": "cross_dataset", "source": source, "shots": shots} | more
    return [
        outcome(trainer, seed, "source" if name == source else "target", value, name, **more)
        for name, value in accuracies.items()
    ]
