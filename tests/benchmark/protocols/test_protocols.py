"""The protocols' runs, run folders and options, and a new protocol: each needs one class."""

import json
import re
import sys
from dataclasses import replace

import pytest
import tiny
from checkout import EMOJI

from benchmark.protocols import CROSS_DATASET, DOMAIN_GENERALIZATION, FEW_SHOT, PROTOCOLS
from benchmark.protocols.launches import write_launch
from benchmark.protocols.places import runs_in

TRANSFER = CROSS_DATASET, DOMAIN_GENERALIZATION


def test_few_shot_trains_with_each_number_of_shots_and_tests_zero_shot_once(checkout):
    words = ("--trainers", "ZeroshotCLIP CoOp", "--seeds", "2 1", "--jobs", "1")
    done = checkout.protocol("few_shot", *words, "--shots", "4 1")
    assert checkout.folders() == [
        "few_shot/emoji/shots_0/ZeroshotCLIP/emoji/seed1",
        "few_shot/emoji/shots_4/CoOp/emoji/seed2",
        "few_shot/emoji/shots_1/CoOp/emoji/seed2",
        "few_shot/emoji/shots_4/CoOp/emoji/seed1",
        "few_shot/emoji/shots_1/CoOp/emoji/seed1",
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


def test_several_labels_has_a_run_for_each_known_share(checkout):
    words = ("emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1", "--jobs", "1")
    listed = checkout.protocol("several_labels", *words, "--known", "0.1,1", "--dry-run").stdout
    folders = re.findall(r"--output-dir .*?/several_labels/emoji/shots_-1/(\S+)/seed1", listed)
    assert folders == ["ZeroshotCLIP/emoji", "CoOp/emoji+DATASET.KNOWN=0.1", "CoOp/emoji"]
    listed = checkout.protocol("several_base2new", *words, "--shots", "2", "--dry-run").stdout
    runs = [line for line in listed.splitlines() if "train.py" in line]
    assert [("--eval-only" in run, run.rpartition("CLASSES ")[2]) for run in runs] == [
        *[(False, "base"), (True, "new"), (True, "both")] * 2
    ]
    assert all("/shots_2/" in run for run in runs)  # ZeroshotCLIP stands in each table
    assert all("train_base" in run for run in runs[4:]) and "--model-dir" not in runs[1]


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
    row = next(line for line in first.stdout.splitlines() if line.startswith("CoOp "))
    assert row.split()[1:4] == ["61.00"] * 3
    second = checkout.protocol("domain_generalization", *EMOJI, "emoji_pixels")
    assert "4 runs, 2 to do; " in second.stderr
    assert sorted(checkout.folders()[6:]) == [
        "domain_generalization/emoji/emoji_pixels/shots_0/ZeroshotCLIP/emoji/seed1",
        "domain_generalization/emoji/emoji_pixels/shots_16/CoOp/emoji/seed1",
    ]


def test_targets_use_the_config_of_their_source(checkout):
    listed = checkout.protocol("cross_dataset", *EMOJI, "dtd", "--dry-run").stdout
    files = set(re.findall(r"/trainers/(\w+/\w+\.yaml)", listed))
    assert files == {"ZeroshotCLIP/emoji.yaml", "CoOp/emoji.yaml"}


def test_planned_runs_are_found_on_disk(checkout, planned):
    def found(protocol) -> set:
        return {run.folder for run in runs_in(checkout.output) if run.protocol is protocol}

    def start(run):
        run.folder.mkdir(parents=True, exist_ok=True)
        write_launch(run)

    for protocol in PROTOCOLS.values():
        if protocol in TRANSFER:
            continue
        for run in planned[protocol]:
            start(run)
        known = {run.folder: run for run in runs_in(checkout.output) if run.protocol is protocol}
        assert known.keys() == {run.folder for run in planned[protocol]}
        for run in planned[protocol]:
            assert known[run.folder] == replace(run, needs=None)
    (checkout.output / "few_shot/emoji/shots_2/CoOp/emoji/seed1").mkdir(parents=True)
    assert len(found(FEW_SHOT)) == len(planned[FEW_SHOT])  # nothing was started there

    first, second = TRANSFER
    mine, others = ([run.folder for run in planned[name]] for name in TRANSFER)
    trainings = set(mine) & set(others)
    assert len(trainings) == 5
    by_folder = {run.folder: run for name in TRANSFER for run in planned[name]}
    for folder in trainings:
        start(by_folder[folder])
    assert found(second) == trainings and not found(first)  # nothing is tested yet
    for run in planned[first]:
        start(run)
    assert found(first) == set(mine)
    assert found(second) == set()


def test_runs_are_told_apart_by_their_names_and_folders(planned):
    everything = [run for runs in planned.values() for run in runs]
    trainings = [run for run in planned[DOMAIN_GENERALIZATION] if run.part == "source"]
    folders = {run.folder for run in everything}
    assert len(folders) == len(everything) - len(trainings)
    for protocol, runs in planned.items():
        assert len({str(run) for run in runs}) == len(runs), protocol.name


@pytest.mark.parametrize("method", ["CoOp", "MaPLe", "ALIGN"])
def test_prompts_are_tested_on_other_class_names(tmp_path, capsys, method):
    pairs = ["TRAINER.MAPLE.PROMPT_DEPTH", "2"] if method == "MaPLe" else []
    assert tiny.run(tmp_path / "data", method, tmp_path / "source", 1, extra=pairs) == 0
    pairs += ["DATASET.NAME", "TinyOthers"]
    capsys.readouterr()
    flags = ("--eval-only", "--model-dir", str(tmp_path / "source"))
    where = (tmp_path / "other data", method, tmp_path / "target", 1)
    assert tiny.run(*where, *flags, extra=pairs) == 0
    assert "Loading prompts from" in capsys.readouterr().out
    results = json.loads((tmp_path / "target" / "results.json").read_text())
    assert (results["num_classes"], results["num_test"]) == (3, 12)


PROTOCOL = '''
from itertools import product

from .base import METHOD, Part, Protocol
from .configs import ANY, Rule


class OneShot(Protocol):
    """Train and test on all classes with one image of each."""

    name = "one_shot"
    title = "One-shot recognition"
    summary = "train with one image a class"
    parts = {"only": Part(f"one_shot/{{dataset}}/{METHOD}/seed{{seed}}")}
    rules = [Rule("*", "*", ANY, "base2new")]
    options = {"--trainers": {"type": str.split, "default": "CoOp ALIGN"}}
    table_title = "One-shot on {dataset}"

    def plan(self, output, datasets, seeds, configs, trainers):
        runs = []
        for seed, dataset, trainer in product(seeds, datasets, trainers):
            method = self.method(configs, trainer, dataset, seed, 1)
            runs.append(self.run(output, "only", dataset=dataset, **method))
        return runs
'''


@pytest.mark.slow
def test_a_protocol_is_added_with_one_class(checkout):
    checkout.write_code()
    folder = checkout.root / "benchmark" / "protocols"
    (folder / "one_shot.py").write_text(PROTOCOL)
    with open(folder / "__init__.py", "a") as file:
        file.write('from .one_shot import OneShot\nPROTOCOLS["one_shot"] = OneShot()\n')
    assert "one_shot " in checkout.run(sys.executable, "-m", "benchmark", "--help").stdout
    printed = checkout.separately("one_shot", "emoji", "emoji_food", "--seeds", "1 2").stdout
    assert "One-shot on emoji_food: accuracy (%) on test images, 1 shot, seeds 1 2" in printed
    assert "One-shot recognition, average over 2 embedded data sets" in printed
    assert "Means over the data sets.\n" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("ALIGN")]
    assert rows == [["ALIGN", "71.50", "±", "0.71"]] * 2 + [["ALIGN", "71.50", "2", "of", "2"]]
    assert checkout.separately("report", "--protocol", "one_shot").stdout == printed
    assert "<caption" in checkout.separately("report", "--format", "html").stdout
