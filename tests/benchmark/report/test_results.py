"""Whether results are those of a run."""

from outcomes import outcome

from benchmark.report.results import misfit


def test_results_must_be_those_of_the_run():
    run = outcome("CoOp", 1, "base", 50.0).run
    result = {"trainer": "CoOp", "dataset": "emoji", "seed": 1, "shots": 16}
    result |= {"subsample_classes": "base", "config": {"OPTIM": {"LR": 0.002, "NAMES": ["a"]}}}
    assert misfit(run, result) is None
    assert misfit(run, result | {"seed": 2}) == "seed 2, not 1"
    assert misfit(run, result | {"dataset": "dtd"}) == "dataset dtd, not emoji"
    keys = {"OPTIM.LR": "2e-3", "OPTIM.NAMES": "('a',)", "NO.KEY": 1}
    assert misfit(run, result, keys) is None
    assert misfit(run, result, {"OPTIM.LR": 0.01}) == "OPTIM.LR 0.002, not 0.01"
