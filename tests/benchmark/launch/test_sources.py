"""Runs of other code: the launcher refuses, accepts or repeats them."""

import json

import pytest

from trainers.prompting.storage.source import BEGUN, digest

CODE = "def logits(x):\n    return 2 * x\n"
OTHER = CODE.replace("2", "3")


@pytest.fixture
def mine(checkout):
    """The words of a command whose runs of a plug-in are done, and the plug-in."""
    plugin = checkout.root / "my_method.py"
    plugin.write_text(CODE)
    (checkout.root / "MyMethod").mkdir()
    (checkout.root / "MyMethod" / "emoji.yaml").write_text("OPTIM:\n  MAX_EPOCH: 8\n")
    words = ("--trainers", "MyMethod CoOp", "--seeds", "1", "--plugin", "my_method.py")
    checkout.base2new(*words)
    for part in ("train_base", "test_new"):
        path = checkout.folder("MyMethod", 1, part) / "results.json"
        source = {"my_method.py": digest(plugin)}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source": source}))
    return words, plugin


def results(checkout, part="train_base"):
    return json.loads((checkout.folder("MyMethod", 1, part) / "results.json").read_text())


def test_an_edited_plug_in_gives_no_old_number(checkout, mine):
    words, plugin = mine
    plugin.write_text("# comment\n" + CODE)
    assert "4 runs, 0 to do; " in checkout.base2new(*words).stderr
    plugin.write_text(OTHER)
    refused = checkout.base2new(*words, code=2)
    folder = checkout.folder("MyMethod", 1)
    assert f"'{folder}' holds a run of other code (my_method.py has been edited" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not refused.stdout


def test_other_code_is_accepted_once_and_tables_say_so(checkout, mine):
    words, plugin = mine
    plugin.write_text(OTHER)
    before = results(checkout)
    checkout.base2new(*words, "--accept-edited", "--dry-run")
    assert results(checkout) == before
    accepted = checkout.base2new(*words, "--accept-edited")
    assert "4 runs, 0 to do; " in accepted.stderr
    for said in (accepted, checkout.base2new(*words), checkout.protocol("report")):
        assert "Code edited after some runs had begun: MyMethod (my_method.py)." in said.stdout
    alone = checkout.protocol("report", checkout.folder("MyMethod", 1)).stdout
    assert "Code edited since it began" in alone and len(checkout.calls()) == 4
    plugin.write_text(CODE.replace("2", "4"))
    checkout.base2new(*words, code=2)


def test_the_average_over_data_sets_says_it_too(checkout, mine):
    words, plugin = mine
    plugin.write_text(OTHER)
    told = checkout.base2new("emoji", "emoji_food", *words, "--accept-edited").stdout
    average = told.partition("average over 2 embedded data sets")[2]
    assert "had begun: MyMethod (my_method.py)." in average


def test_redo_repeats_runs_of_other_code_and_keeps_their_folders(checkout, mine):
    words, plugin = mine
    plugin.write_text(OTHER)
    before = results(checkout), results(checkout, "test_new")
    listed = checkout.base2new(*words, "--redo", "--dry-run").stdout
    assert listed.count("# run: MyMethod") == 2 and listed.count("# skip: CoOp") == 2
    assert "--resume" not in listed and results(checkout) == before[0]
    done = checkout.base2new(*words, "--redo")
    assert "4 runs, 2 to do; " in done.stderr and done.stderr.count("the old run is in '") == 2
    for part, old in zip(("train_base", "test_new"), before, strict=True):
        folder = checkout.folder("MyMethod", 1, part)
        kept = folder.with_name("seed1.old") / "results.json"
        assert json.loads(kept.read_text()) == old and "source" not in results(checkout, part)
    assert "MyMethod  " in checkout.protocol("report").stdout
    assert "4 runs, 0 to do; " in checkout.base2new(*words, "--redo").stderr


def test_a_training_that_is_not_finished(checkout, mine):
    words, plugin = mine
    folder = checkout.folder("MyMethod", 1)
    begun = {"source": {"my_method.py": digest(plugin)}}
    (folder / "results.json").unlink()
    (folder / BEGUN).write_text(json.dumps(begun))
    plugin.write_text(OTHER)
    assert "holds a run of other code" in checkout.base2new(*words, code=2).stderr
    listed = checkout.base2new(*words, "--accept-edited", "--dry-run").stdout
    assert f"--resume {folder} --accept-edited" in listed.replace("'", "")
    checkout.base2new(*words, "--accept-edited")
    assert checkout.calls()[-2]["resume"] == str(folder)
    (folder / "results.json").unlink()
    checkout.base2new(*words, "--redo")
    assert (folder.with_name("seed1.old") / BEGUN).is_file()
    assert checkout.calls()[-2]["resume"] == "" and not checkout.calls()[-2]["checkpoint"]
