"""A plug-in method, from its files to tables and plots, with every script."""

import sys

import pytest
from checkout import REPOSITORY

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
        (asked, "There is no config file of MyMethod for emoji called 'emoji': write "
                f"{place / 'emoji.yaml'}, or choose a file with --config FILE.yaml"),
        ((*asked, "dtd"), f"write {place / 'base2new.yaml'}, or choose"),
        ((*asked, "--config", "none.yaml"), "--config: 'none.yaml' does not exist"),
    ):  # fmt: skip
        refused = checkout.base2new(*words, code=2)
        assert sentence in refused.stderr and refused.stderr.count("\n") == 1
    place.mkdir()
    (place / "emoji.yaml").write_text(CONFIG)
    refused = checkout.base2new(*asked, "dtd", code=2)
    sentence = f"for dtd called 'base2new' (there are: emoji): write {place / 'base2new.yaml'}"
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
