"""`python -m benchmark tune`: runs, chosen settings and refusals."""

import json
import shlex
import signal

import pytest
import yaml
from checkout import PATIENCE, wait_for
from fake_slurm import FakeSlurm

from benchmark.protocols.configs import TrainerConfigs
from recipe.configs import read_keys

RATES = "OPTIM.LR=0.1,0.3,0.2"
ONE = ("--trainers", "CoOp", "--seeds", "1")
CHOSEN = "tune/base2new/chosen"


@pytest.fixture
def tuned(checkout):
    """A checkout whose config of CoOp has values, one of them for a data set."""
    config = "OPTIM:\n  NAME: sgd\n  LR: 0.002\n"
    own = "BY_DATASET:\n  Emoji:\n    OPTIM:\n      LR: 0.5\n      WARMUP_EPOCH: 1\n"
    (checkout.root / "configs/trainers/CoOp/emoji.yaml").write_text(config + own)
    return checkout


def chosen(tuned, trainer: str = "CoOp") -> dict:
    return read_keys(tuned.output / CHOSEN / trainer / "emoji_tuned.yaml")


def test_the_best_on_all_data_sets_together_is_chosen(tuned):
    words = ("emoji", "emoji_food", RATES, "--trainers", "CoOp", "--seeds", "1 2")
    words += ("--backbone", "some.pt", "DATALOADER.NUM_WORKERS", "0")
    done = tuned.protocol("tune", *words)
    assert len(tuned.calls()) == 2 * 2 * 3  # data sets, seeds, settings
    for call in tuned.calls():
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
        "MODEL.BACKBONE.NAME": "some.pt",
        "BY_DATASET.Emoji.OPTIM.WARMUP_EPOCH": 1,
    }  # fmt: skip
    record = json.loads((tuned.output / CHOSEN / "CoOp/emoji_tuned.json").read_text())
    assert record["settings"][0]["average"] == 54.5
    assert record["settings"][0]["setting"] == {"OPTIM.LR": "0.3"}
    again = tuned.protocol("tune", *words)
    assert again.stdout == done.stdout and len(tuned.calls()) == 12


@pytest.mark.parametrize("values, said", [("2,1", "1 other has"), ("2,1,3", "2 others have")])
def test_a_tie_is_named(tuned, values, said):
    done = tuned.protocol("tune", f"OPTIM.WARMUP_EPOCH={values}", *ONE)
    tie = f"{said} the same accuracy: the first in the search space is taken."
    assert done.stdout.splitlines()[-1] == f"Chosen: OPTIM.WARMUP_EPOCH 2. {tie}"
    assert f"\n# {tie}\n" in (tuned.output / CHOSEN / "CoOp/emoji_tuned.yaml").read_text()
    tuned.protocol("tune", RATES, *ONE)
    assert "same accuracy" not in (tuned.output / CHOSEN / "CoOp/emoji_tuned.yaml").read_text()


@pytest.mark.parametrize("words", [("--vary", RATES), (f"--vary={RATES}",)])
def test_vary_can_be_written_out(tuned, words):
    done = tuned.protocol("tune", *words, *ONE, "--dry-run")
    assert all(f"OPTIM.LR={rate}" in done.stdout for rate in (0.1, 0.3, 0.2))


def test_the_chosen_files_serve_the_other_commands(tuned):
    tuned.protocol("tune", "OPTIM.LR=0.1,0.3", "--seeds", "1")
    folder = tuned.output / CHOSEN
    asked = ("--trainers", "CoOp ALIGN", "--config", str(folder), "--seeds", "1")
    listed = tuned.base2new(*asked, "--dry-run").stdout
    for name in ("CoOp", "ALIGN"):
        assert listed.count(shlex.quote(str(folder / f"{name}/emoji_tuned.yaml"))) == 2
    (folder / "CoOp/other.yaml").touch()
    refused = tuned.base2new(*asked, code=2)
    assert "exactly one .yaml file, but holds emoji_tuned.yaml, other.yaml" in refused.stderr


def test_a_setting_that_fails_is_named_and_not_chosen(tuned):
    done = tuned.protocol("tune", RATES, *ONE, fake={"OPTIM.LR 0.3": "error"})
    assert chosen(tuned)["OPTIM.LR"] == 0.2
    assert ["OPTIM.LR", "0.3", "failed"] in [line.split() for line in done.stdout.splitlines()]
    failed = "OPTIM.LR=0.3, seed 1, base2new: failed: The loss is not finite at step 31"
    assert failed in done.stdout


def test_a_setting_that_fails_with_a_single_seed_is_not_chosen(tuned):
    words = (RATES, "--trainers", "CoOp", "--seeds", "1 2", "--jobs", "1")
    tuned.protocol("tune", *words, fake={"CoOp/2/base": "error"}, code=1)
    assert not (tuned.output / CHOSEN / "CoOp/emoji_tuned.yaml").exists()
    tuned.protocol("tune", *words)  # repeats the failed runs
    assert len(tuned.calls()) == 6 + 3 and chosen(tuned)["OPTIM.LR"] == 0.3


def test_if_all_settings_fail_an_earlier_choice_is_deleted(tuned):
    tuned.protocol("tune", RATES, *ONE)
    other = ("OPTIM.LR=0.4,0.5", *ONE)
    done = tuned.protocol("tune", *other, fake={"emoji": "crash"}, code=1)
    assert "None is chosen: each has failed." in done.stdout
    assert not (tuned.output / CHOSEN / "CoOp/emoji_tuned.yaml").exists()


def test_an_interruption_loses_nothing(tuned):
    words = (RATES, *ONE, "--jobs", "1")
    process = tuned.start(*words, command="tune", fake={"OPTIM.LR 0.3": "slow once"})
    wait_for(lambda: any((tuned.output / "tune").rglob("OPTIM.LR=0.3/seed1/*/checkpoint")))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Rerun the same command to resume" in told
    assert not (tuned.output / CHOSEN).exists()
    tuned.protocol("tune", *words)
    assert [bool(call["resume"]) for call in tuned.calls()] == [False, False, True, False]
    assert chosen(tuned)["OPTIM.LR"] == 0.3


@pytest.mark.slow
def test_as_slurm_jobs(tuned, tmp_path):
    slurm = FakeSlurm(tmp_path / "slurm")
    words = (RATES, *ONE, "--per-job", "2", "--slurm=--time=5")
    told = tuned.protocol("tune", *words, **slurm.variables)
    assert "3 have been submitted" in told.stderr and told.stdout == ""
    asked = tuned.protocol("status", **slurm.variables)
    assert "CoOp on emoji, OPTIM.LR=0.2, seed 1, base2new: queued" in asked.stdout
    tuned.write_code()
    slurm.work(tuned.environment() | slurm.variables)
    tuned.protocol("tune", *words, **slurm.variables)
    assert len(tuned.calls()) == 3 and chosen(tuned)["OPTIM.LR"] == 0.3


@pytest.mark.slow
def test_the_script_tunes_for_a_protocol_by_a_space_file(tuned, tmp_path):
    space = {"OPTIM.LR": [0.1, 0.2], "BY_TRAINER": {"ALIGN": {"TRAINER.ALIGN.BETA": [0, 1]}}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    script = tuned.root / "scripts" / "tune.sh"
    asked = {"SPACE": "space.yaml", "PROTOCOL": "few_shot", "SHOTS": "2", "SEEDS": "1"}
    asked |= {"TRAINERS": "ZeroshotCLIP CoOp ALIGN", "OUTPUT": "my output"}
    done = tuned.run("bash", script, "--dry-run", cwd=tmp_path, **asked)
    assert done.returncode == 0 and done.stdout.count("# run: ") == 2 + 4, done.stderr
    assert done.stdout.count("DATASET.SUBSAMPLE_CLASSES all ") == 6
    assert "Left out, as it learns nothing: ZeroshotCLIP" in done.stderr
    assert "(CoOp 2, ALIGN 4): with --budget 2 all get the same number" in done.stderr
    same = tuned.run("bash", script, "--dry-run", cwd=tmp_path, **asked, BUDGET="2")
    assert same.stdout.count("# run: ") == 2 + 2 and "effort" not in same.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["OPTIM.LR=0.1"], "CoOp has a single setting, so there is nothing to choose: give"),
        (["OPTIM.LR=0.1,0.1"], "CoOp has a single setting"),
        (["OPTIM.LR="], "'OPTIM.LR=' is not a list of values: write KEY="),
        (["OPTIM.LR=[0.1"], "'OPTIM.LR=[0.1' is not a list of values"),
        ([RATES, "--budget", "1"], "--budget 1 leaves nothing to choose: give 2 or more"),
        ([RATES, "OPTIM.LR", "0.2"], "OPTIM.LR cannot be given as KEY VALUE: tune sets it"),
        ([RATES, "TEST.SPLIT", "test"], "TEST.SPLIT cannot be given as KEY VALUE: tune sets it"),
        (["DATASET.NUM_SHOTS=1,2"], "DATASET.NUM_SHOTS cannot be varied: --shots sets it"),
        (["SEED=1,2"], "SEED cannot be varied: --seeds sets it"),
        ([RATES, "--trainers", "ZeroshotCLIP"], "--trainers has no method that learns"),
        ([RATES, "--protocol", "ablation"], "invalid choice: 'ablation'"),
        ([RATES, "--space", "no.yaml"], "There is no config file 'no.yaml'"),
        (
            ["emoji", "dtd", RATES, "--trainers", "ALIGN"],
            "ALIGN has different config files on these data sets (emoji for emoji, base2new for "
            "dtd): tune them separately",
        ),
    ],
)
def test_mistakes_are_one_sentence(tuned, refused, words, sentence):
    said = refused("tune", *words)
    assert sentence in said.err.splitlines()[-1] and said.out == ""
    assert not tuned.calls()


def test_a_key_with_lower_case_letters_is_a_setting(tuned):
    listed = tuned.protocol("tune", RATES, *ONE, "--dry-run", "TRAINER.CoPrompt.N_CTX", "4").stdout
    assert listed.count("TRAINER.CoPrompt.N_CTX 4") == 3


def test_a_folder_of_config_files_must_have_one_of_the_trainer(tmp_path):
    with pytest.raises(ValueError, match="must hold exactly one .yaml file, but holds none"):
        TrainerConfigs(str(tmp_path)).find([], "CoOp", "emoji", 16)
