"""Tests of the protocols' runs, run folders and options, with a train.py that learns nothing."""

import json
from dataclasses import replace

import pytest
import tiny

from benchmark.protocols import (
    DOMAIN_GENERALIZATION,
    FEW_SHOT,
    PROTOCOLS,
)
from benchmark.protocols.configs import known_trainers
from benchmark.protocols.launches import write_launch
from benchmark.protocols.places import runs_in
from benchmark.protocols.transfer import TRANSFER as TRANSFER_PROTOCOLS

METHODS = known_trainers()

EMOJI = ("--source", "emoji", "--trainers", "ZeroshotCLIP CoOp", "--seeds", "1")


def rows(text: str) -> dict[str, list[str]]:
    """Return the words of each line of a table, by method."""
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
    second = checkout.protocol("domain_generalization", *EMOJI, "emoji_pixels")
    assert "4 runs, 2 to do; " in second.stderr
    assert sorted(checkout.folders()[6:]) == [
        "domain_generalization/emoji/emoji_pixels/shots_0/ZeroshotCLIP/emoji/seed1",
        "domain_generalization/emoji/emoji_pixels/shots_16/CoOp/emoji/seed1",
    ]


def test_targets_use_the_config_of_their_source(checkout):
    checkout.protocol("cross_dataset", *EMOJI, "dtd")
    files = {call["config"].rpartition("/trainers/")[2] for call in checkout.calls()}
    assert files == {"ZeroshotCLIP/emoji.yaml", "CoOp/emoji.yaml"}


def test_planned_runs_are_found_on_disk(checkout, planned):
    def found(protocol) -> set:
        return {run.folder for run in runs_in(checkout.output) if run.protocol is protocol}

    def start(run):
        run.folder.mkdir(parents=True, exist_ok=True)
        write_launch(run, None, ())

    for protocol in PROTOCOLS.values():
        if protocol in TRANSFER_PROTOCOLS:
            continue
        for run in planned[protocol]:
            start(run)
        known = {run.folder: run for run in runs_in(checkout.output) if run.protocol is protocol}
        assert known.keys() == {run.folder for run in planned[protocol]}
        for run in planned[protocol]:
            assert known[run.folder] == replace(run, needs=None)
    (checkout.output / "few_shot/emoji/shots_2/CoOp/emoji/seed1").mkdir(parents=True)
    assert len(found(FEW_SHOT)) == len(planned[FEW_SHOT])  # nothing was started there

    first, second = TRANSFER_PROTOCOLS
    mine, others = ([run.folder for run in planned[name]] for name in TRANSFER_PROTOCOLS)
    trainings = set(mine) & set(others)
    assert len(trainings) == 5
    by_folder = {run.folder: run for name in TRANSFER_PROTOCOLS for run in planned[name]}
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
def test_prompts_are_tested_on_other_class_names(tmp_path, capsys, monkeypatch, method):
    pairs = ["TRAINER.MAPLE.PROMPT_DEPTH", "2"] if method == "MaPLe" else []
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
