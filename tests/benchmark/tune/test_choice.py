"""The choice among settings whose runs were computed in several precisions."""

from dataclasses import replace
from pathlib import Path

from outcomes import outcome

from benchmark.protocols.tuning import TUNING, VALIDATION
from benchmark.tune.choice import choices


def tried(rate, seed, accuracy, precision):
    """Return the outcome of a run of CoOp with a learning rate."""
    one = outcome("CoOp", seed, "base", accuracy, precision=precision)
    setting = ("OPTIM.LR", str(rate))
    names = {"protocol": TUNING, "part": "base2new", "variant": f"OPTIM.LR={rate}"}
    run = replace(one.run, config_file=Path("emoji.yaml"), opts=setting + VALIDATION, **names)
    return replace(one, run=run)


def test_runs_in_another_precision_than_most_are_not_averaged():
    outcomes = [tried(rate, seed, 50.0 + rate, "float32") for rate in (1, 2) for seed in (1, 2)]
    (choice,) = choices(outcomes)
    assert choice.best.name == "OPTIM.LR 2" and choice.best.average == 52
    outcomes[3] = tried(2, 2, 90.0, "bfloat16")
    (choice,) = choices(outcomes)
    assert choice.best.name == "OPTIM.LR 1"
    assert [cell.text for cell in choice.table().lines[1]] == ["OPTIM.LR 2", "failed"]
    (problem,) = choice.table().problems
    assert problem.endswith(
        "computed in bfloat16, not in float32 as most: delete its folder, and run it where those "
        "were"
    )
