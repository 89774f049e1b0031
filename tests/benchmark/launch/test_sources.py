"""Runs of other code: named in tables, repeated or resumed."""

import json

import pytest

from trainers.prompting.checkpoint.cfg_texts import BEGUN
from trainers.prompting.record.hashes import OWN, file_hash, package_hash

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
        code = {"my_method.py": file_hash(plugin)}
        result = json.loads(path.read_text()) | {"code": code}
        result["config"]["TRAINER"]["PLUGINS"] = [str(plugin)]
        path.write_text(json.dumps(result))
    return words, plugin


def results(checkout, part="train_base"):
    return json.loads((checkout.folder("MyMethod", 1, part) / "results.json").read_text())


NAMED = "Other code than the present, at least in part: MyMethod (my_method.py)."


def test_runs_of_other_code_count_and_every_table_says_so(checkout, mine):
    words, plugin = mine
    before = results(checkout)
    assert NAMED not in checkout.base2new(*words).stdout
    plugin.write_text("# comment\n" + CODE)
    again = checkout.base2new(*words)
    folder = checkout.folder("MyMethod", 1)
    assert "4 runs, 0 to do; " in again.stderr and results(checkout) == before
    assert "2 finished runs are of other code, such as MyMethod on emoji" in again.stderr
    for said in (again, *(checkout.protocol("report", "--format", x) for x in ("html", "latex"))):
        assert NAMED in said.stdout.replace("\\_", "_")
    assert ",my_method.py\n" in checkout.protocol("report", "--format", "csv").stdout
    lines = json.loads(checkout.protocol("report", "--format", "json").stdout)["rows"]
    assert [x.get("other_code") for x in lines] == [None, ["my_method.py"]]
    alone = checkout.protocol("report", folder).stdout
    assert "Other code than the present" in alone and len(checkout.calls()) == 4
    listed = checkout.protocol("status").stdout
    assert listed.count("other code than the present: my_method.py") == 2
    plugin.unlink()
    plugin.parent.joinpath("elsewhere").mkdir()
    assert NAMED in checkout.protocol("report").stdout, "it is not where it was"


def test_an_edit_of_the_package_is_named(checkout, mine, monkeypatch):
    words, plugin = mine
    path = checkout.folder("CoOp", 1) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": {OWN: "0" * 16}}))
    assert "at least in part: CoOp (trainers/prompting)." in checkout.base2new(*words).stdout
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": {OWN: package_hash()}}))
    assert "at least in part" not in checkout.base2new(*words).stdout


def test_a_training_that_went_on_with_edited_code_is_named(checkout, mine):
    words, plugin = mine
    path = checkout.folder("MyMethod", 1) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"edited": ["its_helper.py"]}))
    assert "in part: MyMethod (its_helper.py)." in checkout.base2new(*words).stdout


def test_the_average_over_data_sets_says_it_too(checkout, mine):
    words, plugin = mine
    plugin.write_text(OTHER)
    told = checkout.base2new("emoji", "emoji_food", *words).stdout
    average = told.partition("average over 2 embedded data sets")[2]
    assert NAMED in average


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
        assert json.loads(kept.read_text()) == old and "code" not in results(checkout, part)
    assert "MyMethod  " in checkout.protocol("report").stdout
    assert "4 runs, 0 to do; " in checkout.base2new(*words, "--redo").stderr


def test_a_training_that_is_not_finished(checkout, mine):
    words, plugin = mine
    folder = checkout.folder("MyMethod", 1)
    begun = {"code": {"my_method.py": file_hash(plugin)}}
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
