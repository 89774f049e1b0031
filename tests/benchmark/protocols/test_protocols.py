"""The protocols beside base-to-new, on a train.py that learns nothing; and their config files."""

import itertools
import json
import shlex
import signal
import sys
from contextlib import ExitStack

import pytest
import tiny
from checkout import REPOSITORY, wait_for

from benchmark.launch.child import Child
from benchmark.protocols import (
    ABLATION,
    BASE2NEW,
    CROSS_DATASET,
    DOMAIN_GENERALIZATION,
    FEW_SHOT,
    PROTOCOLS,
    configs,
)
from benchmark.protocols.configs import TrainerConfigs, config_keys, known_trainers
from benchmark.protocols.transfer import TRANSFER as TRANSFER_PROTOCOLS
from trainers.prompting.errors import UserError

METHODS = known_trainers()
TRANSFER = [protocol.name for protocol in TRANSFER_PROTOCOLS]
EMOJI = ("--source", "emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1")


@pytest.fixture
def planned(checkout, monkeypatch):
    """The runs of each protocol on the emoji sets, in the output of the checkout."""
    monkeypatch.setattr(configs, "CONFIGS", checkout.root / "configs")
    output, seeds = checkout.output, [1, 2]
    every = {"trainers": ["ZeroshotCLIP", "CoOp", "ALIGN"]}
    transfer = {"shots": 16, "source": "emoji"} | every
    asked = {
        BASE2NEW: (["emoji", "dtd"], {"trainers": ["ALIGN"], "shots": 4}),
        FEW_SHOT: (["emoji"], every | {"shots": [1, 4]}),
        CROSS_DATASET: (["emoji_food", "emoji_animals"], transfer),
        DOMAIN_GENERALIZATION: (["emoji_food", "emoji_animals"], transfer),
        ABLATION: (["emoji"], {"shots": 16, "betas": [0, 0.5], "mn": [(1, 2)]}),
    }
    return {
        protocol: protocol.plan(output, datasets, seeds, TrainerConfigs(), **options)
        for protocol, (datasets, options) in asked.items()
    }


def config_of(protocol: str, method: str, dataset: str, shots: int, asked=None):
    return TrainerConfigs(asked).find(PROTOCOLS[protocol].rules, method, dataset, shots)


def rows(text: str) -> dict[str, list[str]]:
    """The words of each line of a table, by its method."""
    lines = [line.split() for line in text.splitlines() if line.startswith(tuple(METHODS))]
    return {line[0]: line[1:] for line in lines}


def test_few_shot_trains_with_each_number_of_shots_and_tests_zero_shot_once(checkout):
    words = ("--trainers", "ZeroshotCLIP CoOp", "--seeds", "1 2", "--jobs", "1")
    done = checkout.protocol("few_shot", *words, "--shots", "4 1")
    assert checkout.folders() == [
        "few_shot/emoji/shots_0/ZeroshotCLIP/emoji/seed1",
        "few_shot/emoji/shots_4/CoOp/emoji/seed1",
        "few_shot/emoji/shots_1/CoOp/emoji/seed1",
        "few_shot/emoji/shots_4/CoOp/emoji/seed2",
        "few_shot/emoji/shots_1/CoOp/emoji/seed2",
    ]
    assert {call["run"].split("/")[2] for call in checkout.calls()} == {"all"}
    shots = [call["opts"]["DATASET.NUM_SHOTS"] for call in checkout.calls()]
    assert shots == ["0", "4", "1", "4", "1"]
    assert "61.50 ± 0.71" in done.stdout  # CoOp: 61 and 62
    more = checkout.protocol("few_shot", *words, "--shots", "1 2")
    assert "5 runs, 2 to do; " in more.stderr
    assert [folder.split("/")[2] for folder in checkout.folders()[5:]] == ["shots_2"] * 2
    table = json.loads((checkout.output / "few_shot" / "table.json").read_text())
    assert {row["shots"] for row in table["rows"]} == {0, 1, 2, 4}


def test_transfer_trains_once_for_all_targets_of_both_protocols(checkout):
    first = checkout.protocol("cross_dataset", *EMOJI)
    training = "transfer/emoji/shots_16/CoOp/emoji/seed1"
    targets = {f"cross_dataset/emoji/emoji_{name}/shots_16/CoOp/emoji/seed1"
               for name in ("animals", "food")}  # fmt: skip
    calls = {call["folder"].removeprefix(f"{checkout.output}/"): call for call in checkout.calls()}
    trained = {folder for folder in calls if "/shots_16/" in folder}
    assert trained == {training, *targets} and len(calls) == 6
    for folder in targets:
        assert calls[folder]["model_dir"] == str(checkout.output / training)
        assert calls[folder]["opts"]["DATASET.SUBSAMPLE_CLASSES"] == "all"
    assert rows(first.stdout)["CoOp"][:3] == ["61.00"] * 3
    second = checkout.protocol("domain_generalization", *EMOJI, "emoji_sketch")
    assert "4 runs, 2 to do; " in second.stderr
    assert sorted(checkout.folders()[6:]) == [
        "domain_generalization/emoji/emoji_sketch/shots_0/ZeroshotCLIP/emoji/seed1",
        "domain_generalization/emoji/emoji_sketch/shots_16/CoOp/emoji/seed1",
    ]


def test_the_config_of_the_source_serves_for_its_targets(checkout):
    checkout.protocol("cross_dataset", *EMOJI, "dtd")
    files = {call["config"].rpartition("/trainers/")[2] for call in checkout.calls()}
    assert files == {"ZeroshotCLIP/emoji.yaml", "CoOp/emoji.yaml"}


def test_a_training_that_fails_takes_its_targets_along_and_a_target_only_itself(checkout):
    failed = checkout.protocol("cross_dataset", *EMOJI, fake={"CoOp/1/all": "error"}, code=1)
    assert failed.stdout.count("not run: it needs CoOp on emoji, seed 1, source") == 2
    assert len(checkout.calls()) == 4
    failed = checkout.protocol("cross_dataset", *EMOJI, fake={"emoji_food": "crash"}, code=1)
    assert "[4/6]" in failed.stderr and len(checkout.calls()) == 7
    assert "failed: RuntimeError: Sizes do not match: [seed 1]" in failed.stdout
    checkout.protocol("cross_dataset", *EMOJI)
    assert checkout.folders()[7:] == ["cross_dataset/emoji/emoji_food/shots_16/CoOp/emoji/seed1"]


def test_a_new_training_makes_its_targets_new(checkout):
    checkout.protocol("cross_dataset", *EMOJI)
    (checkout.output / "transfer/emoji/shots_16/CoOp/emoji/seed1/results.json").unlink()
    done = checkout.protocol("cross_dataset", *EMOJI)
    assert "6 runs, 3 to do; " in done.stderr


def test_protocols_that_share_a_training_do_not_write_it_at_once(checkout):
    slow = {"CoOp/1/all": "slow"}
    process = checkout.start(*EMOJI, "--jobs", "4", command="cross_dataset", fake=slow)
    try:
        wait_for(lambda: "CoOp/1/all" in checkout.runs())
        refused = checkout.protocol("domain_generalization", *EMOJI, "emoji_sketch", code=2)
        training = checkout.output / "transfer/emoji/shots_16/CoOp/emoji/seed1"
        assert f"{training} is being written by another process" in refused.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_ablation_varies_beta_and_the_prompts(checkout):
    words = ("--seeds", "1", "--betas", "0 .5", "--mn", "1,1 2,4")
    done = checkout.protocol("ablation", *words)
    found = {}
    for call in checkout.calls():
        part, _, _, _, _, variant, _ = call["folder"].removeprefix(
            f"{checkout.output}/ablation/").split("/")  # fmt: skip
        keys = {key.removeprefix("TRAINER.ALIGN."): value for key, value in call["opts"].items()}
        found[part, variant] = {key: keys[key] for key in keys if not key.startswith("DATASET")}
        assert bool(call["model_dir"]) == (part == "test_new")
        assert call["model_dir"].endswith(f"{variant}/seed1") or not call["model_dir"]
    expected = {
        "beta0": {"BETA_FORM": "convex", "BETA": "0.0"},
        "beta0.5": {"BETA_FORM": "convex", "BETA": "0.5"},
        "M1_N1": {"M": "1", "N": "1"},
        "M2_N4": {"M": "2", "N": "4"},
    }
    parts = ("train_base", "test_new")
    assert found == {(p, name): expected[name] for p in parts for name in expected}
    assert done.stdout.count("65.62") == 4  # H of 61 and 71
    assert "8 runs, 0 to do; " in checkout.protocol("ablation", *words).stderr


def test_ablation_gives_each_textual_prompt_a_template_where_the_config_lists_them(checkout):
    config = checkout.root / "configs/trainers/ALIGN/emoji.yaml"
    config.write_text("TRAINER:\n  ALIGN:\n    CTX_INIT: ['a photo of a', 'X X of a']\n")
    words = ("--betas", "", "--mn", "4,1 1,3", "--seeds", "1", "--dry-run")
    lines = checkout.protocol("ablation", *words).stdout.splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    key = "TRAINER.ALIGN.CTX_INIT"
    templates = [command[command.index(key) + 1] for command in commands]
    assert templates[::2] == ["['a photo of a']", "['a photo of a', 'X X of a', 'a photo of a']"]


def test_results_of_another_beta_are_refused(checkout):
    checkout.protocol("ablation", "--seeds", "1", "--betas", "0.5")
    folder = checkout.output / "ablation/train_base/emoji/shots_16/ALIGN/emoji"
    (folder / "beta0.5").rename(folder / "beta0.2")
    refused = checkout.protocol("ablation", "--seeds", "1", "--betas", "0.2", code=2)
    assert "another run (TRAINER.ALIGN.BETA 0.5, not 0.2)" in refused.stderr


def test_results_of_an_older_config_file_are_refused(checkout):
    checkout.protocol("cross_dataset", *EMOJI, "OPTIM.MAX_EPOCH", "8")
    config = checkout.root / "configs/trainers/CoOp/emoji.yaml"
    config.write_text("OPTIM:\n  MAX_EPOCH: 8\nTRAIN:\n  PRINT_FREQ: 7\n")
    checkout.protocol("domain_generalization", *EMOJI, "emoji_sketch")
    config.write_text("OPTIM:\n  MAX_EPOCH: 9\n")
    refused = checkout.protocol("domain_generalization", *EMOJI, "emoji_sketch", code=2)
    assert "another run (OPTIM.MAX_EPOCH 8, not 9)" in refused.stderr
    checkout.protocol("cross_dataset", *EMOJI, "OPTIM.MAX_EPOCH", "8")
    assert len(checkout.calls()) == 6 + 2


def test_a_full_disk_leaves_nothing_that_is_taken_for_a_result(checkout):
    words = ("--trainers", "CoOp", "--seeds", "1", "--shots", "1")
    failed = checkout.protocol("few_shot", *words, fake={"CoOp/1/all": "full"}, code=1)
    assert "failed: OSError: [Errno 28] No space left on device [seed 1]" in failed.stdout
    told = checkout.run(sys.executable, "-m", "benchmark", "report").stdout
    assert "No space left on device" in told and "50.0" not in told
    table = checkout.output / "few_shot/table.json"
    table.unlink()
    table.mkdir()
    failed = checkout.protocol("few_shot", *words, code=2)
    assert "61.00" in failed.stdout
    assert "table.json cannot be written: Is a directory" in failed.stderr
    table.rmdir()
    assert checkout.protocol("few_shot", *words).stdout == failed.stdout


def test_a_run_whose_console_cannot_be_kept_ends_all_the_same(planned):
    with open("/dev/full", "w", buffering=1) as console:
        program = "print('x' * 1000000); print('epoch [1/2] batch [1/4]')"
        command = [sys.executable, "-c", program]
        child = Child(planned[FEW_SHOT][0], command, {}, console, ExitStack())
        wait_for(child.ended)
        assert child.failure() is None and child.fraction == 1 / 8
        child.close("# failed: a note that has no room either")
        assert console.closed


def test_dry_run_lists_every_protocol_and_writes_nothing(checkout):
    counts = {"few_shot": 1 + 2 * 3 * 5, "ablation": 2 * 3 * 5}
    counts |= dict.fromkeys(TRANSFER, 2 * (1 + 2 * 3))
    for protocol, count in counts.items():
        words = ("--source", "emoji", "emoji_food") if protocol in TRANSFER else ()
        listed = checkout.protocol(protocol, *words, "--dry-run").stdout
        assert listed.count("# run: ") == count
    assert not checkout.output.exists() and not checkout.calls()


@pytest.mark.parametrize(
    ("protocol", "words", "sentence"),
    [
        ("few_shot", ["--shots", "1 0"], "argument --shots: '0' is not a whole number from 1 on"),
        ("few_shot", ["--shots", " "], "--shots names none"),
        ("few_shot", ["dtd"], "There is no config of ZeroshotCLIP for dtd 'base2new'"),
        ("cross_dataset", [], "There is no data set 'imagenet'"),
        ("cross_dataset", ["--source", "dtd"], "the source dtd has no usual targets: name some"),
        ("cross_dataset", ["--source", "emoji", "emoji"], "the source emoji cannot be a target"),
        ("cross_dataset", ["--source", "emoji", "emojy_food"], "did you mean 'emoji_food'?"),
        ("domain_generalization", ["--source", "emoji"], "There is no data set 'emoji_3d'"),
        ("ablation", ["--betas", "1.5"], "argument --betas: '1.5' is not a number from 0 to 1"),
        ("ablation", ["--betas", "nan"], "argument --betas: 'nan' is not a number"),
        ("ablation", ["--betas", ""], "there is nothing to vary"),
        ("ablation", ["--mn", "4"], "argument --mn: '4' is not a pair M,N"),
        ("ablation", ["--mn", "4,0"], "argument --mn: '0' is not a whole number from 1 on"),
        ("ablation", ["--trainers", "CoOp"], "unrecognized arguments: --trainers"),
        ("ablation", ["TRAINER.ALIGN.BETA", "1"], "TRAINER.ALIGN.BETA cannot be given as an"),
    ],
)
def test_bad_input_is_one_sentence(checkout, protocol, words, sentence):
    refused = checkout.protocol(protocol, *words, code=2)
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    assert not checkout.output.exists()


def test_a_context_for_each_class_is_refused_where_other_classes_are_tested(
    checkout,
):
    asked = ("--trainers", "CoOp", "--dry-run", "TRAINER.COOP.CSC", "True")
    refused = checkout.protocol("cross_dataset", "--source", "emoji", *asked, code=2)
    assert "CoOp with a context for each class (CSC) cannot be tested on other" in refused.stderr
    assert refused.stderr.count("\n") == 1
    checkout.base2new(*asked, code=2)
    checkout.protocol("domain_generalization", "--source", "emoji", "emoji_sketch", *asked)
    checkout.protocol("few_shot", *asked)
    checkout.base2new(*asked, "TRAINER.COOP.CTX_INIT", "a photo of a")


def test_scripts_take_variables_and_run_from_anywhere(checkout, tmp_path):
    def script(name: str, *words: str, **variables: str) -> list[dict[str, str]]:
        """Flags and KEY VALUE pairs of the commands that the script lists."""
        path = checkout.root / "scripts" / f"{name}.sh"
        done = checkout.run("bash", path, *words, "--dry-run", cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        commands = [shlex.split(line)[2:] for line in done.stdout.splitlines() if line[0] != "#"]
        for command in commands:
            if "--eval-only" in command:
                command.remove("--eval-only")
        return [dict(zip(words[::2], words[1::2], strict=True)) for words in commands]

    shared = {"SEEDS": "4", "DATA": "my data", "OUTPUT": "my output", "CONFIG": "emoji"}
    shared |= {"BACKBONE": "ViT-B/16", "JOBS": "1", "TRAINERS": "ALIGN"}
    shots = [call["DATASET.NUM_SHOTS"] for call in script("few_shot", SHOTS="2 8", **shared)]
    assert shots == ["2", "8"]
    both = {"SOURCE": "emoji_food", "TARGETS": "emoji_sketch dtd", "SHOTS": "2"}
    for name in TRANSFER:
        calls = script(name, **shared, **both)
        datasets = [call["--dataset-config-file"].rpartition("/")[2] for call in calls]
        assert datasets == ["emoji_food.yaml", "emoji_sketch.yaml", "dtd.yaml"]
        folder = tmp_path / "my output" / name / "emoji_food/dtd/shots_2/ALIGN/emoji/seed4"
        assert calls[2]["--output-dir"] == str(folder)
        assert calls[2]["--root"] == str(tmp_path / "my data")
        assert calls[2]["--backbone"] == "ViT-B/16"
    assert len(script("cross_dataset", SOURCE="emoji", TRAINERS="CoOp", SEEDS="1")) == 3
    calls = script("ablation", "OPTIM.LR", "0.1", **shared, SHOTS="2", BETAS="0.3", MN="2,2 1,3")
    folders = [call["--output-dir"].split("/")[-2] for call in calls[::2]]
    assert folders == ["beta0.3", "M2_N2", "M1_N3"]
    assert {call["OPTIM.LR"] for call in calls} == {"0.1"}
    assert len(script("ablation", SEEDS="1", BETAS="", MN="2,2")) == 2
    assert len(script("ablation", SEEDS="1")) == 10


def test_what_is_planned_is_what_is_found_on_disk(checkout, planned):
    def found(protocol) -> set:
        return {run.folder for run in protocol.on_disk(checkout.output)}

    for protocol in PROTOCOLS.values():
        if protocol in TRANSFER_PROTOCOLS:
            continue
        for run in planned[protocol]:
            run.folder.mkdir(parents=True)
        known = {run.folder: run for run in protocol.on_disk(checkout.output)}
        assert known.keys() == {run.folder for run in planned[protocol]}
        for run in planned[protocol]:
            twin = known[run.folder]
            for name in ("trainer", "dataset", "config", "seed", "shots", "subsample", "part",
                         "protocol", "eval_only", "source", "variant"):  # fmt: skip
                assert getattr(twin, name) == getattr(run, name)
    (checkout.output / "few_shot/emoji/shots_x/CoOp/emoji/seed1").mkdir(parents=True)
    assert len(found(FEW_SHOT)) == len(planned[FEW_SHOT])

    first, second = TRANSFER_PROTOCOLS
    mine, others = ([run.folder for run in planned[name]] for name in TRANSFER_PROTOCOLS)
    trainings = set(mine) & set(others)
    assert len(trainings) == 5
    for folder in trainings:
        folder.mkdir(parents=True)
    assert found(first) == found(second) == trainings  # nothing is tested yet
    for folder in set(mine) - trainings:
        folder.mkdir(parents=True)
    assert found(first) == set(mine)
    assert found(second) == set()


def test_runs_are_told_apart_by_their_names_and_folders(planned):
    everything = [run for runs in planned.values() for run in runs]
    trainings = [run for run in planned[DOMAIN_GENERALIZATION] if run.part == "source"]
    folders = {run.folder for run in everything}
    assert len(folders) == len(everything) - len(trainings)
    for protocol, runs in planned.items():
        assert len({str(run) for run in runs}) == len(runs), protocol.name


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", ["dtd", "imagenet"])
def test_every_method_has_a_config_file_for_every_protocol(protocol, dataset):
    methods = METHODS if protocol != "ablation" else ["ALIGN"]
    for method, shots in itertools.product(methods, (1, 2, 4, 8, 16)):
        keys = config_keys(config_of(protocol, method, dataset, shots))
        assert keys["MODEL.BACKBONE.NAME"] == "ViT-B/16"


# Batch, learning rate and epochs for 1, 2, 4, 8 and 16 shots, as published.
PUBLISHED = {
    ("few_shot", "dtd", "ALIGN"): (4, 0.0035, [10, 10, 10, 40, 40]),
    ("few_shot", "dtd", "MMP"): (4, 0.0035, [10, 10, 10, 40, 40]),
    ("few_shot", "dtd", "CoOp"): (32, 0.002, [50, 100, 100, 200, 200]),
    ("few_shot", "dtd", "PLOT"): (32, 0.002, [50, 100, 100, 200, 200]),
    ("few_shot", "imagenet", "CoOp"): (32, 0.002, [50] * 5),
    ("base2new", "imagenet", "ALIGN"): (4, 0.0035, [8] * 5),
    ("ablation", "dtd", "ALIGN"): (4, 0.0035, [8] * 5),
    ("cross_dataset", "imagenet", "ALIGN"): (4, 0.0026, [2] * 5),
    ("cross_dataset", "imagenet", "CoOp"): (32, 0.002, [50] * 5),
    ("cross_dataset", "imagenet", "CoCoOp"): (1, 0.002, [10] * 5),
    ("domain_generalization", "imagenet", "ALIGN"): (4, 0.0026, [2] * 5),
    ("domain_generalization", "imagenet", "MaPLe"): (4, 0.0026, [2] * 5),
}


@pytest.mark.parametrize("case", PUBLISHED, ids=" ".join)
def test_published_hyper_parameters_are_chosen_by_protocol_and_shots(case):
    batch, rate, epochs = PUBLISHED[case]
    protocol, dataset, method = case
    for shots, number in zip((1, 2, 4, 8, 16), epochs, strict=True):
        keys = config_keys(config_of(protocol, method, dataset, shots))
        assert keys["OPTIM.MAX_EPOCH"] == number
        assert (keys["DATALOADER.TRAIN_X.BATCH_SIZE"], keys["OPTIM.LR"]) == (batch, rate)


def test_emoji_sets_have_one_config_for_all_protocols_and_a_missing_one_is_named():
    for protocol, dataset in itertools.product(PROTOCOLS, ("emoji", "emoji_food")):
        assert config_of(protocol, "ALIGN", dataset, 1).name == "emoji.yaml"
    with pytest.raises(UserError, match="no config of CoOp for emoji 'emojis': did you mean"):
        config_of("few_shot", "CoOp", "emoji", 1, "emojis")


NODES = {
    "MaPLe": {"MAPLE.PROMPT_DEPTH": "2"},
    "UPT": {"UPT.PROMPT_DEPTH": "2"},
    "VPT": {"VPT.PROMPT_DEPTH_VISION": "2"},
    "IVLP": {"IVLP.PROMPT_DEPTH_VISION": "2", "IVLP.PROMPT_DEPTH_TEXT": "2"},
    "MMP": {"MMP.TEXT_PROMPT_DEPTH": "2"},
    "CoOp": {"COOP.N_CTX": "4"},
    "CoCoOp": {"COCOOP.N_CTX": "4"},
    "PLOT": {"PLOT.N_CTX": "4"},
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "ZeroshotCLIP"])
def test_prompts_are_tested_on_other_class_names(tmp_path, capsys, monkeypatch, method):
    pairs = [word for key, value in NODES.get(method, {}).items()
             for word in (f"TRAINER.{key}", value)]  # fmt: skip
    assert tiny.run(tmp_path / "data", method, tmp_path / "source", 1, extra=pairs) == 0
    names = {"road sea": (9, 9, 9), "crop": (250, 9, 9), "annual road crop": (9, 250, 9)}
    monkeypatch.setattr(tiny, "COLOURS", names)
    capsys.readouterr()
    flags = ("--eval-only", "--model-dir", str(tmp_path / "source"))
    where = (tmp_path / "other data", method, tmp_path / "target", 1)
    assert tiny.run(*where, *flags, extra=pairs) == 0
    assert "Loading prompts from" in capsys.readouterr().out
    results = json.loads((tmp_path / "target" / "results.json").read_text())
    assert (results["num_classes"], results["num_test"]) == (3, 12)


def test_the_usual_targets_have_config_files():
    for protocol in TRANSFER_PROTOCOLS:
        for source, targets in protocol.targets.items():
            configs.check_datasets([source, *targets])


def test_the_real_scripts_are_those_of_the_protocols():
    scripts = {path.stem for path in (REPOSITORY / "scripts").glob("*.sh")}
    assert scripts == {*PROTOCOLS, "run"}
