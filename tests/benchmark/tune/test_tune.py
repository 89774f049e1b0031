"""scripts/tune.sh and `python -m benchmark tune`: runs, chosen settings and refusals."""

import json
import shlex

import pytest
from fake_slurm import FakeSlurm
from outcomes import outcome

from benchmark.protocols.configs import TrainerConfigs
from benchmark.protocols.launches import Launch
from benchmark.tune.command import choices
from recipe.configs import read_keys

RATES = ("--vary", "OPTIM.LR=0.1,0.3,0.2")
ONE = ("--trainers", "CoOp", "--seeds", "1")
CHOSEN = "base2new/chosen"


@pytest.fixture
def tuned(checkout):
    """A checkout whose config of CoOp has values, one of them for a data set."""
    config = "OPTIM:\n  NAME: sgd\n  LR: 0.002\n"
    own = "BY_DATASET:\n  Emoji:\n    OPTIM:\n      LR: 0.5\n      WARMUP_EPOCH: 1\n"
    (checkout.root / "configs/trainers/CoOp/emoji.yaml").write_text(config + own)
    return checkout


@pytest.fixture
def tune(tuned):
    """A function that tries settings on validation images, and chooses among all in the output."""

    def call(*words, code=0, **more):
        tuned.protocol("base2new", *words, "TEST.SPLIT", "val", code=int("fake" in more), **more)
        return tuned.protocol("tune", "output", code=code)

    return call


def chosen(tuned, trainer: str = "CoOp") -> dict:
    return read_keys(tuned.output / CHOSEN / trainer / "emoji_tuned_16.yaml")


def test_the_best_on_all_data_sets_together_is_chosen(tuned, tune):
    words = ("emoji", "emoji_food", *RATES, "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1 2")
    done = tune(*words, "DATALOADER.NUM_WORKERS", "0")
    tried = [call for call in tuned.calls() if call["run"].startswith("CoOp")]
    assert len(tried) == 2 * 2 * 3  # data sets, seeds, settings
    for call in tuned.calls():  # new classes stay unseen
        assert call["opts"]["TEST.SPLIT"] == "val"
        assert call["opts"]["DATASET.SUBSAMPLE_CLASSES"] == "base"
    title, head, _, *lines = done.stdout.splitlines()
    assert title == (
        "CoOp (emoji), tuned for base2new: accuracy (%) on validation images of base classes, "
        "16 shots, seeds 1 2"
    )
    assert head.split() == ["Setting", "emoji", "emoji_food", "Average"]
    assert [line.split() for line in lines] == [
        ["OPTIM.LR", "0.3", "54.50", "54.50", "54.50"],
        ["OPTIM.LR", "0.2", "53.50", "53.50", "53.50"],
        ["OPTIM.LR", "0.1", "52.50", "52.50", "52.50"],
        ["Chosen:", "OPTIM.LR", "0.3."],
    ]
    assert chosen(tuned) == {
        "OPTIM.NAME": "sgd", "OPTIM.LR": 0.3, "DATALOADER.NUM_WORKERS": 0,
        "BY_DATASET.Emoji.OPTIM.WARMUP_EPOCH": 1,
    }  # fmt: skip
    record = json.loads((tuned.output / CHOSEN / "CoOp/emoji_tuned_16.json").read_text())
    assert record["settings"][0]["average"] == 54.5
    assert record["settings"][0]["setting"] == {"OPTIM.LR": "0.3"}


def test_the_backbone_is_kept(tuned, tune):
    tune(*RATES, *ONE, "--backbone", "some.pt")
    keys = read_keys(tuned.output / CHOSEN / "CoOp" / "emoji@some_tuned_16.yaml")
    assert keys["MODEL.BACKBONE.NAME"] == "some.pt"


@pytest.mark.parametrize("values, said", [("2,1", "1 other has"), ("2,1,3", "2 others have")])
def test_a_tie_is_named(tuned, tune, values, said):
    done = tune("--vary", f"OPTIM.WARMUP_EPOCH={values}", *ONE)
    tie = f"{said} the same accuracy: the first by its name is taken."
    assert done.stdout.splitlines()[-1] == f"Chosen: OPTIM.WARMUP_EPOCH 1. {tie}"
    assert f"\n# {tie}\n" in (tuned.output / CHOSEN / "CoOp/emoji_tuned_16.yaml").read_text()


def test_several_calls_are_one_choice(tuned, tune):
    tune("--vary", "OPTIM.NAME=sgd", *RATES, *ONE)
    done = tune("--vary", "OPTIM.NAME=adam", "--vary", "OPTIM.LR=0.4,0.5", *ONE)
    assert done.stdout.splitlines()[-1] == "Chosen: OPTIM.NAME adam, OPTIM.LR 0.5."
    assert "among 5 settings" in (tuned.output / CHOSEN / "CoOp/emoji_tuned_16.yaml").read_text()


def test_the_chosen_files_serve_the_other_commands(tuned, tune):
    tune(*RATES, "--trainers", "CoOp ALIGN", "--seeds", "1")
    folder = tuned.output / CHOSEN
    asked = ("--trainers", "CoOp ALIGN", "--config", str(folder), "--seeds", "1")
    listed = tuned.base2new(*asked, "--dry-run").stdout
    for name in ("CoOp", "ALIGN"):
        assert listed.count(shlex.quote(str(folder / f"{name}/emoji_tuned_16.yaml"))) == 2
    (folder / "CoOp/other.yaml").touch()
    refused = tuned.base2new(*asked, code=2)
    assert "exactly one .yaml file, but holds emoji_tuned_16.yaml, other.yaml" in refused.stderr


def test_a_setting_that_fails_is_named_and_not_chosen(tuned, tune):
    done = tune(*RATES, *ONE, fake={"OPTIM.LR 0.3": "error"})
    assert chosen(tuned)["OPTIM.LR"] == 0.2
    assert ["OPTIM.LR", "0.3", "failed"] in [line.split() for line in done.stdout.splitlines()]
    assert "LR 0.3, seed 1, base: failed: The loss is not finite at step 31" in done.stdout


def test_a_setting_that_lacks_a_run_is_not_chosen(tuned, tune):
    tune(*RATES, *ONE)
    done = tune("--vary", "OPTIM.LR=0.1,0.2", "--trainers", "CoOp", "--seeds", "2")
    assert chosen(tuned)["OPTIM.LR"] == 0.2
    assert "OPTIM.LR 0.3: no run on emoji, seed 2" in done.stdout


def test_if_all_settings_fail_an_earlier_choice_is_deleted(tuned, tune):
    tune(*RATES, *ONE)
    for record in tuned.output.rglob("results.json"):
        record.unlink()
    done = tuned.protocol("tune", "output", code=1)
    assert "None is chosen: each has failed." in done.stdout
    assert not (tuned.output / CHOSEN / "CoOp/emoji_tuned_16.yaml").exists()


def test_what_cannot_be_chosen_among(tuned, tune):
    tuned.base2new(*RATES, *ONE)  # on test images
    tuned.base2new(*ONE, "--output", "val", "TEST.SPLIT", "val")  # one setting
    for output in ("output", "val", "nowhere"):
        refused = tuned.protocol("tune", output, code=2).stderr
        assert f"{output}' has no runs of --vary on validation images: do some" in refused
    for epochs in ("2", "3"):
        more = ("--output", "mixed", "OPTIM.MAX_EPOCH", epochs, "TEST.SPLIT", "val")
        tuned.base2new("--vary", f"OPTIM.LR=0.{epochs}", *ONE, *more)
    refused = tuned.protocol("tune", "mixed", code=2).stderr
    assert "differ in settings that are not varied: choose among each in another out" in refused


def test_the_script_tries_and_chooses(tuned):
    script = tuned.root / "scripts" / "tune.sh"
    asked = {"TRAINERS": "CoOp", "SEEDS": "1"}
    done = tuned.run("bash", script, "emoji", "OPTIM.LR=0.1,0.3,0.2", **asked)
    assert done.returncode == 0 and done.stdout.endswith("Chosen: OPTIM.LR 0.3.\n"), done.stderr
    assert (tuned.output / "tune" / CHOSEN / "CoOp/emoji_tuned_16.yaml").exists()
    refused = tuned.run("bash", script, "emoji", "OPTIM.LR=", **asked)
    assert refused.returncode == 2 and "is not a list of values" in refused.stderr


def test_the_script_has_settings_to_try_and_takes_a_protocol(tuned, tmp_path):
    def listed(*words, **variables) -> str:
        script = tuned.root / "scripts" / "tune.sh"
        more = {"SEEDS": "1", "TRAINERS": "ALIGN"} | variables
        done = tuned.run("bash", script, *words, "--dry-run", cwd=tmp_path, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert listed().count("# run: ") == 2 * 2
    assert listed("dtd").count("# run: ") == 5
    of_few = listed("emoji", "--vary", "A=1,2", "--jobs", "1", "B.C", "3", PROTOCOL="few_shot")
    assert of_few.count("# run: ") == 2 == of_few.count("DATASET.SUBSAMPLE_CLASSES all A ")
    assert (
        of_few.count("B.C 3 TEST.SPLIT val") == 2 and f"{tmp_path}/output/tune/few_shot" in of_few
    )
    source = {"PROTOCOL": "cross_dataset", "SOURCE": "emoji"}
    assert listed("OPTIM.LR=1,2", **source).count("# run: ") == 2  # trained, and not transferred


@pytest.mark.slow
def test_as_slurm_jobs(tuned, tmp_path):
    slurm = FakeSlurm(tmp_path / "slurm")
    script, words = tuned.root / "scripts" / "tune.sh", ("OPTIM.LR=0.1,0.3", "--per-job", "2")
    asked = {"TRAINERS": "CoOp", "SEEDS": "1", "SLURM": "--time=5"} | slurm.variables
    told = tuned.run("bash", script, *words, **asked)
    assert "2 have been submitted" in told.stderr and "jobs are open: rerun" in told.stderr
    assert told.stdout == ""
    slurm.work(tuned.environment() | slurm.variables)
    told = tuned.run("bash", script, *words, **asked)
    assert told.stdout.endswith("Chosen: OPTIM.LR 0.3.\n") and len(tuned.calls()) == 2


def test_a_folder_of_config_files_must_have_one_of_the_trainer(tmp_path):
    with pytest.raises(ValueError, match="must hold exactly one .yaml file, but holds none"):
        TrainerConfigs(str(tmp_path)).find([], "CoOp", "emoji", 16)


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
