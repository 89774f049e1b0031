"""The commands of protocols: arguments, refusals and listings."""

import json
import shlex
import sys

from outcomes import leave, outcome

from benchmark.protocols import BASE2NEW
from benchmark.report.command import keep_table

ONE = ("--trainers", "CoOp", "--seeds", "1")

TRANSFER = "cross_dataset", "domain_generalization"


def test_several_data_sets_end_in_an_average(checkout):
    done = checkout.base2new("emoji", "emoji_food", *ONE)
    assert "Base-to-new on emoji_food" in done.stdout
    average = done.stdout.rpartition("average over 2 embedded data sets")[2]
    row = next(line for line in average.splitlines() if line.startswith("CoOp"))
    assert row.split()[1:] == ["51.00", "61.00", "55.55", "2", "of", "2"]


def test_dry_run_prints_commands_and_writes_nothing(checkout):
    listed = checkout.base2new(*ONE, "--root", "some data", "--dry-run", "OPTIM.LR", "0.01").stdout
    assert not checkout.output.exists() and not checkout.calls()
    comment, train, _, test, summary = listed.splitlines()
    assert comment == "# run: CoOp on emoji, seed 1, base"
    assert summary == "# runs to do: 1 with training, 1 without; finished: 0"
    train, test = shlex.split(train), shlex.split(test)
    root, folder = checkout.root, checkout.folder("CoOp", 1)
    assert train == [
        sys.executable, str(root / "train.py"), "--root", str(root / "some data"),
        "--seed", "1", "--trainer", "CoOp",
        "--dataset-config-file", str(root / "configs/datasets/emoji.yaml"),
        "--config-file", str(root / "configs/trainers/CoOp/emoji.yaml"),
        "--output-dir", str(folder),
        "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.LR", "0.01",
    ]  # fmt: skip
    assert test[test.index("--model-dir") :] == [
        "--model-dir", str(folder), "--eval-only",
        "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "new", "OPTIM.LR", "0.01",
    ]  # fmt: skip
    checkout.base2new(*ONE)
    listed = checkout.base2new(*ONE, "--dry-run").stdout
    assert listed.splitlines() == [
        "# skip: CoOp on emoji, seed 1, base (finished)",
        "# skip: CoOp on emoji, seed 1, new (finished)",
        "# runs to do: 0 with training, 0 without; finished: 2",
    ]


def test_other_data_sets_go_to_every_run(checkout):
    listed = checkout.base2new(*ONE, "--ood", "emoji_food,dtd", "--dry-run", "OPTIM.LR", "0.1")
    commands = [shlex.split(line) for line in listed.stdout.splitlines() if line[0] != "#"]
    expected = ["OPTIM.LR", "0.1", "TEST.OOD", "['Emoji_Food', 'Dtd']"]
    assert [command[-4:] for command in commands] == [expected] * 2


def test_finished_runs_without_ood_do_not_count_as_runs_with_it(checkout):
    checkout.base2new(*ONE)
    refused = checkout.base2new(*ONE, "--ood", "emoji_food", code=2)
    assert "TEST.OOD [], not ['Emoji_Food']" in refused.stderr and refused.stderr.count("\n") == 1


def test_zero_shot_loads_no_checkpoint(checkout):
    listed = checkout.base2new("--trainers", "ZeroshotCLIP", "--seeds", "1", "--dry-run").stdout
    assert "--eval-only" in listed and "--model-dir" not in listed


def test_the_config_follows_the_data_set(checkout):
    listed = checkout.base2new("dtd", "--trainers", "ALIGN", "--dry-run").stdout
    assert "ALIGN/base2new.yaml" in listed and "dtd/shots_16/ALIGN/base2new/seed1" in listed
    other = checkout.root / "configs/trainers/ALIGN/other.yaml"
    other.touch()
    asked = ("emoji", "--trainers", "ALIGN", "--config", "other", "--dry-run")
    assert str(other) in shlex.split(checkout.base2new(*asked).stdout, comments=True)


def test_dry_run_lists_every_protocol_and_writes_nothing(checkout):
    counts = {"few_shot": 1 + 3 * 3 * 5}
    counts |= dict.fromkeys(TRANSFER, 2 * (1 + 3 * 3))
    for protocol, count in counts.items():
        words = ("--source", "emoji", "emoji_food") if protocol in TRANSFER else ()
        listed = checkout.protocol(protocol, *words, "--dry-run").stdout
        assert listed.count("# run: ") == count
    assert not checkout.output.exists() and not checkout.calls()


def test_class_specific_contexts_are_refused_where_other_classes_are_tested(checkout):
    asked = ("--trainers", "CoOp", "--dry-run", "TRAINER.COOP.CSC", "True")
    refused = checkout.protocol("cross_dataset", "--source", "emoji", *asked, code=2)
    assert "CoOp with a context for each class (CSC) can be tested only on" in refused.stderr
    assert refused.stderr.count("\n") == 1
    checkout.base2new(*asked, code=2)
    checkout.protocol("domain_generalization", "--source", "emoji", "emoji_pixels", *asked)
    checkout.protocol("few_shot", *asked)
    checkout.base2new(*asked, "TRAINER.COOP.CTX_INIT", "a photo of a")


def test_the_launcher_saves_the_table_of_all_runs(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    keep_table(BASE2NEW, tmp_path)
    path = tmp_path / "base2new" / "table.json"
    (kept,) = json.loads(path.read_text())["rows"]
    assert (kept["h_mean"], kept["h_n"]) == (50.0, 1)
    said = f"{path} has all runs of base2new in {tmp_path}"
    assert capsys.readouterr().err.rstrip().endswith(said)
