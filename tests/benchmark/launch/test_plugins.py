"""Runs of a plug-in, from its files to tables and plots; runs of other code than the present."""

import json
import shutil
import sys

import pytest
from checkout import REPOSITORY, Checkout

from trainers.prompting.record.hashes import OWN, file_hash, package_hash

PLUGIN = "raise RuntimeError('launching imports no plug-in')\n"
CONFIG = "OPTIM:\n  MAX_EPOCH: 8\n"


@pytest.fixture
def plugin(checkout):
    """A plug-in file in a separate folder, next to the config of its method."""
    folder = checkout.root / "their work"
    (folder / "MyMethod").mkdir(parents=True)
    (folder / "my_method.py").write_text(PLUGIN)
    (folder / "MyMethod" / "emoji.yaml").write_text(CONFIG)
    return folder / "my_method.py"


def test_a_plug_in_method_is_in_tables_and_plots_by_its_name(checkout, plugin):
    words = ("--trainers", "MyMethod ALIGN", "--seeds", "1", "--plugin", "their work/my_method.py")
    done = checkout.base2new(*words)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("ALIGN", "My"))]
    assert [row[0] for row in rows] == ["ALIGN", "MyMethod"]
    assert rows[1][1:5] == ["51.00", "61.00", "55.55", "4,096"]
    for call in checkout.calls():
        assert call["plugins"] == [str(plugin)]
        place = plugin.parent / "MyMethod" / "emoji.yaml"
        assert (call["config"] == str(place)) == call["run"].startswith("MyMethod")
    assert "4 runs, 0 to do; " in checkout.base2new(*words).stderr
    checkout.protocol("few_shot", *words, "--shots", "1 2")
    plots = ("--plots", "plots", "--protocol", "few_shot")
    told = checkout.protocol("report", "output", "--format", "csv", *plots).stdout
    assert told.count(",MyMethod,MyMethod,emoji,") == 2
    assert {path.stem for path in (checkout.root / "plots").iterdir()} == {"few_shot"}
    assert "MyMethod" in (checkout.root / "plots" / "few_shot.svg").read_text()


@pytest.mark.slow
def test_plug_ins_and_configs_by_the_variables_of_a_script(checkout, tmp_path):
    folder = tmp_path / "modules"
    for name in ("my_method", "other"):
        (folder / "configs" / name).mkdir(parents=True)
        (folder / f"{name}.py").write_text(PLUGIN)
    (folder / "MyMethod").mkdir()
    (folder / "MyMethod" / "emoji.yaml").write_text(CONFIG)
    given = folder / "given.yaml"
    given.write_text(CONFIG)
    for script in ("base2new", "few_shot", "cross_dataset", "domain_generalization"):
        asked = {"TRAINERS": "MyMethod", "PLUGINS": "my_method other", "SEEDS": "1"}
        asked |= {"PYTHONPATH": str(folder), "SOURCE": "emoji", "TARGETS": "emoji_food"}
        if script in ("base2new", "few_shot"):
            del asked["TARGETS"]
        path = checkout.root / "scripts" / f"{script}.sh"
        for more, config in (
            ({}, folder / "MyMethod" / "emoji.yaml"),
            ({"CONFIG": str(given)}, given),
        ):
            done = checkout.run("bash", path, "--dry-run", cwd=tmp_path, **asked, **more)
            assert done.returncode == 0, done.stderr
            lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
            assert lines
            for line in lines:
                assert "--plugin my_method --plugin other" in line
                assert f"--config-file {config}" in line and f"/MyMethod/{config.stem}/" in line


def test_a_missing_config_says_which_file_to_write(checkout):
    place = checkout.root / "configs" / "trainers" / "MyMethod"
    asked = ("--trainers", "MyMethod", "--plugin", "my_method")
    for words, sentence in (
        (asked[:2], f"There is no trainer 'MyMethod': choose one of ALIGN, CoOp, MaPLe, "
                    f"ZeroshotCLIP; a new trainer needs config files in {place}, or --config"),
        (asked, "There is no config file of MyMethod for emoji called 'emoji': there are none; "
                f"write {place / 'emoji.yaml'}, or give --config FILE.yaml"),
        ((*asked, "--plugin", "mine/new.py"), "mine/MyMethod/emoji.yaml, or give --config"),
    ):  # fmt: skip
        refused = checkout.base2new(*words, code=2)
        assert sentence in refused.stderr and refused.stderr.count("\n") == 1
    place.mkdir()
    (place / "emoji.yaml").write_text(CONFIG)
    refused = checkout.base2new(*asked, "dtd", code=2)
    sentence = f"for dtd called 'base2new': choose one of emoji; write {place / 'base2new.yaml'}"
    assert sentence in refused.stderr


def test_launching_loads_no_torch(checkout):
    program = (
        "import sys; from benchmark.launch import command; "
        "slow = {'torch', 'dassl', 'clip', 'pandas', 'matplotlib', 'jinja2'}; "
        "print(sorted(slow & sys.modules.keys()), end=''); from benchmark.report import plots; "
        "print(sorted({'torch', 'dassl', 'clip'} & sys.modules.keys()))"
    )
    told = checkout.run(sys.executable, "-c", program, cwd=REPOSITORY, PYTHONPATH=str(REPOSITORY))
    assert told.stdout == "[][]\n", told.stderr


CODE = "def logits(x):\n    return 2 * x\n"
OTHER = CODE.replace("2", "3")


WORDS = ("--trainers", "MyMethod CoOp", "--seeds", "1", "--plugin", "my_method.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout with a plug-in and its finished runs, which tests copy."""
    checkout = Checkout(tmp_path_factory.mktemp("finished") / "a checkout")
    (checkout.root / "my_method.py").write_text(CODE)
    (checkout.root / "MyMethod").mkdir()
    (checkout.root / "MyMethod" / "emoji.yaml").write_text(CONFIG)
    checkout.base2new(*WORDS)
    return checkout


@pytest.fixture
def mine(checkout, finished):
    """The words of a command whose runs of a plug-in are done, and the plug-in."""
    shutil.copytree(finished.root, checkout.root, dirs_exist_ok=True)
    for console in checkout.output.rglob("console.txt"):
        console.write_text(console.read_text().replace(str(finished.root), str(checkout.root)))
    plugin = checkout.root / "my_method.py"
    for part in ("train_base", "test_new"):
        path = checkout.folder("MyMethod", 1, part) / "results.json"
        code = {"my_method.py": file_hash(plugin)}
        result = json.loads(path.read_text()) | {"code": code}
        result["plugins"] = [str(plugin)]
        path.write_text(json.dumps(result))
    return WORDS, plugin


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


def test_an_edit_of_the_package_and_one_during_a_training_are_named(checkout, mine):
    words, plugin = mine

    def say(trainer, **record):
        path = checkout.folder(trainer, 1) / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | record))
        return checkout.base2new(*words).stdout

    assert "at least in part: CoOp (trainers/prompting)." in say("CoOp", code={OWN: "0" * 16})
    assert "at least in part" not in say("CoOp", code={OWN: package_hash()})
    assert "in part: MyMethod (its_helper.py)." in say("MyMethod", edited=["its_helper.py"])


def test_the_average_over_data_sets_says_it_too(checkout, mine):
    words, plugin = mine
    plugin.write_text(OTHER)
    told = checkout.base2new("emoji", "emoji_food", *words).stdout
    average = told.partition("average over 2 embedded data sets")[2]
    assert NAMED in average


def test_a_training_of_other_code_that_is_not_finished_is_resumed(checkout, mine):
    words, plugin = mine
    folder = checkout.folder("MyMethod", 1)
    (folder / "results.json").unlink()
    plugin.write_text(OTHER)
    assert f"--resume {folder}" in checkout.base2new(*words, "--dry-run").stdout.replace("'", "")
    checkout.base2new(*words)
    assert checkout.calls()[-2]["resume"] == str(folder)
