"""The commands of protocols: arguments, refusals, listings, and several values of a setting."""

import json
import shlex
import sys

from checkout import ONE
from outcomes import leave, outcome

from benchmark.protocols import BASE2NEW
from benchmark.report.command import keep_table

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
    refused = checkout.base2new(*ONE, "--ood", "emoji_food", code=2)  # they were without it
    assert "TEST.OOD is [] here and ['Emoji_Food'] there" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_other_data_sets_go_to_every_run(checkout):
    listed = checkout.base2new(*ONE, "--ood", "emoji_food,dtd", "--dry-run", "OPTIM.LR", "0.1")
    commands = [shlex.split(line) for line in listed.stdout.splitlines() if line[0] != "#"]
    expected = ["OPTIM.LR", "0.1", "TEST.OOD", "['Emoji_Food', 'Dtd']"]
    assert [command[-4:] for command in commands] == [expected] * 2


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


def test_the_launcher_saves_the_table_of_all_runs(tmp_path, capsys):
    leave(tmp_path, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    keep_table(BASE2NEW, tmp_path)
    path = tmp_path / "base2new" / "table.json"
    (kept,) = json.loads(path.read_text())["rows"]
    assert (kept["h_mean"], kept["h_n"]) == (50.0, 1)
    said = f"{path} has all runs of base2new in {tmp_path}"
    assert capsys.readouterr().err.rstrip().endswith(said)


# ---- several values of a setting, in separate folders, and their comparison

VARY = ("--vary", "TRAINER.ALIGN.BETA=0,1")


def test_the_values_of_a_key_are_compared(checkout):
    words = ("emoji", "--seeds", "1 2", "--trainers", "CoOp ALIGN", *VARY)
    done = checkout.base2new(*words, fake={"emoji": "answers"})
    lines = [line.split("  ")[0] for line in done.stdout.splitlines()]
    names = ["ALIGN, BETA 0", "ALIGN, BETA 1"]
    assert [name for name in lines if name in (*names, "CoOp")] == ["CoOp", *names, names[1]]
    assert "ALIGN, BETA 0 minus each other on test images" in done.stdout
    place = "base2new/train_base/emoji/shots_16/ALIGN/emoji+TRAINER.ALIGN.BETA=0/seed2"
    (call,) = [call for call in checkout.calls() if call["folder"].endswith(place)]
    assert call["opts"]["TRAINER.ALIGN.BETA"] == "0" and len(checkout.calls()) == 4 + 8
    tests = [c for c in checkout.calls() if "test_new" in c["folder"] and "BETA=1" in c["folder"]]
    assert tests and all("BETA=1" in call["model_dir"] for call in tests)
    checkout.base2new(*words)
    assert len(checkout.calls()) == 12  # all are done

    report = [checkout.root / "output", "--compare", "ALIGN, BETA 1"]
    told = checkout.protocol("report", *map(str, report)).stdout
    assert "ALIGN, BETA 1 minus each other" in told and "ALIGN, BETA 0  " in told


def test_nothing_is_compared_where_every_run_has_failed(checkout):
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN", *VARY)
    told = checkout.base2new(*words, fake={"ALIGN/1/base": "error"}, code=1).stdout
    assert "ALIGN, BETA 1  failed" in told and "minus each other" not in told


def test_a_run_with_one_of_the_values_is_the_same_run(checkout):
    """The usual folder has BETA 1 here; its runs are not a third line, nor counted twice."""
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN")
    checkout.base2new(*words)
    told = checkout.base2new(*words, "TRAINER.ALIGN.BETA", "0", code=2).stderr
    assert "(TRAINER.ALIGN.BETA is 1.0 here and 0 there)" in told
    checkout.base2new(*words, *VARY)
    told = checkout.protocol("report", str(checkout.output), "--format", "csv").stdout
    assert told.count("\n") == 1 + 2 and told.count("BETA 1,") == told.count("BETA 0,") == 1


def test_several_keys_give_all_choices_and_concern_methods_that_have_them(checkout):
    (checkout.root / "configs/trainers/CoOp/emoji.yaml").write_text("TRAINER: {COOP: {W: 1}}\n")
    more = ("--vary", "OPTIM.LR=0.1,0.2", "--vary", "TRAINER.COOP.W=1,2,3", "--dry-run")
    told = checkout.base2new("emoji", "--seeds", "1", *more).stdout
    assert told.count("# run: ZeroshotCLIP") == 2
    assert told.count("# run: ALIGN on emoji, LR 0.1, seed 1, base") == 1
    assert told.count("# run: ALIGN") == 2 * 2 and told.count("# run: CoOp") == 2 * 2 * 3
    assert "emoji+OPTIM.LR=0.1+TRAINER.COOP.W=3/seed1" in told
    more = ("--trainers", "ZeroshotCLIP", "--vary", "TEST.ATTACK_EPS=1,2", "--dry-run")
    told = checkout.base2new("emoji", "--seeds", "1", *more).stdout
    assert told.count("# run: ZeroshotCLIP") == 2 * 2  # tests concern what learns nothing, too


def test_lists_and_keys_in_lower_case(checkout):
    words = ("emoji", "--seeds", "1", "--trainers", "ALIGN", "--dry-run")
    told = checkout.base2new(*words, "--vary", "OPTIM.STEPSIZE=[1],[2]").stdout
    assert told.count("# run: ALIGN on emoji, STEPSIZE [1], ") == 2
    told = checkout.base2new(*words, "--vary", "topk=1,2").stdout
    assert told.count("# run: ALIGN on emoji, topk 1, seed 1") == 2
