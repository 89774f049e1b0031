"""The choice among settings whose runs were computed in several precisions."""

from outcomes import outcome

from benchmark.protocols.launches import Launch
from benchmark.tune.command import choices


def tried(value, seed, accuracy, precision, key="OPTIM.LR"):
    """Return the outcome of a run of CoOp with a value of a key, here the learning rate."""
    one = outcome("CoOp", seed, "base", accuracy, precision=precision, opts=(key, str(value)))
    return one, Launch(one.run, None, {})


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


def test_precisions_that_are_tried_and_old_records_do_not_fail():
    outcomes = []
    for asked, computed in (("fp32", "float32"), ("amp", "bfloat16")):
        for seed in (1, 2):
            outcomes.append(tried(asked, seed, 50.0 + seed, computed, "TRAINER.COOP.PREC"))
            config = {"TRAINER": {"COOP": {"PREC": asked}}}
            outcomes[-1][0].result.update(trainer="CoOp", config=config)
    del outcomes[-1][0].result["precision"]
    (choice,) = choices(outcomes)
    assert choice.table().problems == [] and [t.average for t in choice.trials] == [51.5, 51.5]
    outcomes.append(tried("fp32", 3, 51.5, "float32", "TRAINER.COOP.PREC"))
    outcomes.append(tried("amp", 3, 90.0, "float16", "TRAINER.COOP.PREC"))
    outcomes[-2][0].result.update(trainer="CoOp", config={"TRAINER": {"COOP": {"PREC": "fp32"}}})
    outcomes[-1][0].result.update(trainer="CoOp", config=config)
    (choice,) = choices(outcomes)
    assert [trial.average for trial in choice.trials] == [51.5, None]
