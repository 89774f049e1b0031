"""Hashes of the code that makes a run, and marks of what a run used beyond labelled images."""

import importlib
import shutil
import sys
from types import SimpleNamespace

import pytest
from fresh import run_fresh
from paths import HALF_WRITTEN
from torch import nn

from recipe.settings import build_cfg
from trainers.prompting import OnSupport
from trainers.prompting.method import METHODS, find_method
from trainers.prompting.plugins import code_of, load_plugins
from trainers.prompting.record import hashes
from trainers.prompting.record.hashes import package_hash
from trainers.prompting.record.results import Evaluation


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package in the place of the package, and a function that hashes it anew."""
    package = tmp_path / "trainers" / "prompting"
    shutil.copytree(
        hashes.PACKAGE, package, ignore=shutil.ignore_patterns("*.safetensors", HALF_WRITTEN)
    )
    monkeypatch.setattr(hashes, "PACKAGE", package)
    monkeypatch.setattr(hashes, "package_hash", package_hash.__wrapped__)  # now and here
    return package, package_hash.__wrapped__


def test_any_edit_of_the_package_is_another_code(copied):
    package, hashed = copied
    seen = [hashed()]
    assert seen == [package_hash()], "the same files at another place"
    for name, edit in {
        "transport/solver.py": "x = 1\n",
        "methods/align.py": "x = 1\n",
        "methods/coop.py": "# a comment\n",
    }.items():
        (package / name).write_text((package / name).read_text() + edit)
        seen.append(hashed())
    align = package / "methods" / "align.py"
    align.write_text(align.read_text().replace("x = 1", "x = 2"))
    seen.append(hashed())
    align.rename(align.with_name("aligned.py"))
    seen.append(hashed())
    (package / "methods" / "new.py").touch()
    seen.append(hashed())
    assert len({*seen}) == len(seen) and all(len(x) == 16 for x in seen)


def test_what_computes_nothing_is_no_edit(copied):
    package, hashed = copied
    before = hashed()
    for name in ("__pycache__/x.pyc", "methods/.hidden.py", ".notes/x.py", "configs/x.yaml",
                 "dassl_lite/x.py", "../../tests/test_x.py"):  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1\n")
    align = package / "methods" / "align.py"
    align.write_bytes(align.read_bytes().replace(b"\n", b"\r\n"))
    assert hashed() == before


def test_a_copy_in_another_checkout_has_its_own(copied, tmp_path):
    package, hashed = copied
    with (package / "transport" / "solver.py").open("a") as solver:
        solver.write("# a comment\n")
    own = hashed()
    code = (
        "import os, trainers.prompting.plugins\n"
        "os.remove('trainers/prompting/regularizers.py')\n"
        "from trainers.prompting.record.hashes import package_hash\n"
        "print(package_hash())\n"
    )
    found = run_fresh(code, cwd=tmp_path).stdout.strip()
    assert found == own != package_hash()
    assert found != hashed(), "what was imported counts"


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A folder with two plug-ins, one of which imports a helper, and an installed package."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    (installed / "of_others.py").write_text("y = 1\n")
    (tmp_path / "its_helper.py").write_text("x = 1\n")
    (tmp_path / "late_helper.py").write_text("x = 1\n")
    method = (
        "{}from trainers.prompting import register\n"
        "from trainers.prompting.methods.coop import CoOp\n\n"
        "@register\nclass {}(CoOp):\n"
        "    def build(self, *args):\n        import late_helper\n        super().build(*args)\n"
    )
    (tmp_path / "with_helper.py").write_text(
        method.format("import its_helper, of_others\n", "WithHelper")
    )
    (tmp_path / "without.py").write_text(method.format("", "Without"))
    load_plugins([str(tmp_path / "with_helper.py"), str(tmp_path / "without.py")])
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_method_is_the_package_and_what_its_plug_in_imports(plugged):
    assert code_of(find_method("ALIGN")) == {hashes.OWN: package_hash()}
    assert code_of(find_method("Without")).keys() == {hashes.OWN, "without.py"}
    mine = code_of(find_method("WithHelper"))
    assert mine.keys() == {hashes.OWN, "with_helper.py", "its_helper.py"}
    importlib.import_module("late_helper")

    more = code_of(find_method("WithHelper"))
    assert more.keys() - mine.keys() == {"late_helper.py"}


def test_an_edit_of_any_of_its_files_is_found_wherever_the_plug_in_is_now(plugged):
    mine = code_of(find_method("WithHelper"))
    there = str(plugged / "moved" / "with_helper.py")
    assert hashes.edited_files(mine, [there]) == [], "a folder that is not here"
    (plugged / "moved").mkdir()
    for name in ("with_helper.py", "its_helper.py"):
        (plugged / name).rename(plugged / "moved" / name)
    assert hashes.edited_files(mine, [there]) == []
    (plugged / "moved" / "its_helper.py").write_text("x = 1  # one\n")
    assert hashes.edited_files(mine, [there]) == ["its_helper.py"]
    gone = hashes.edited_files(mine, [str(plugged / "with_helper.py")])
    assert {*gone} == {"its_helper.py", "with_helper.py"}


def test_an_edit_of_the_package_is_found(copied):
    package, hashed = copied
    code = {hashes.OWN: hashed()}
    assert hashes.edited_files(code) == []
    (package / "transport" / "solver.py").write_text("")
    assert hashes.edited_files(code) == [hashes.OWN]


@pytest.mark.parametrize(
    ("code", "edited"),
    [
        (None, []), ([], []), ({}, []), ({hashes.OWN: 1}, [hashes.OWN]), ({"/dev/zero": ""}, []),
        ({"/dev/zero": "1"}, ["/dev/zero"]), ({"a\0.py": "1"}, ["a\0.py"]),
    ],
)  # fmt: skip
def test_odd_records(tmp_path, code, edited):
    assert hashes.edited_files(code, [str(tmp_path / "a.py")]) == edited


# ------------------------------------------------------------------ marks

MMRL = {"TRAINER.NAME": "MMRL", "DATASET.NAME": "EuroSAT"}
WEIGHT = "TRAINER.MMRL.REG_WEIGHT"


def beyond(cfg, num_trained=0, **method):
    """Return the marks of an evaluation of a method with these attributes, or of other code."""
    plain = {"takes": (), "settings": SimpleNamespace(sentences=None)}
    kind = type("Of", (OnSupport,), {"__init__": nn.Module.__init__, **plain, **method})
    method = kind() if method else None
    of_run = {"cfg": cfg, "method": method, "num_trained": num_trained}
    return Evaluation(dataset=None, num_classes=2, device=None, results={}, **of_run).beyond()


@pytest.mark.parametrize(
    ("sources", "keys"),
    [
        ([{WEIGHT: 2.0}], []),
        ([{f"BY_DATASET.EuroSAT.{WEIGHT}": 2.0}], [WEIGHT]),
        ([{f"BY_DATASET.UCF101.{WEIGHT}": 2.0}], [WEIGHT]),  # also if set for another data set
        ([{f"BY_SHOTS.1.BY_DATASET.other.{WEIGHT}": 2.0}], [WEIGHT]),
        ([{f"BY_SHOTS.1.{WEIGHT}": 2.0}], []),
        ([{"BY_DATASET.EuroSAT.OPTIM.MAX_EPOCH": 7}], []),
        ([{"BY_DATASET.EuroSAT.TRAINER.COOP.N_CTX": 7}], []),
        ([{f"BY_DATASET.EuroSAT.{WEIGHT}": 2.0}, {WEIGHT: 3.0}], []),  # one value for all again
    ],
)
def test_settings_per_data_set(sources, keys):
    cfg = build_cfg([("the config", MMRL), *(("a file", source) for source in sources)])
    assert keys == cfg.TRAINER.PER_DATASET
    assert beyond(cfg) == (["per data set"] if keys else [])


def test_of_the_method():
    cfg = build_cfg([("the config", MMRL)])
    assert METHODS["CoPrompt"].takes == ("sentences",)
    assert beyond(cfg, takes=("teacher", "llm")) == ["llm", "teacher"]
    for about, marks in (((("a cat.",),), ["sentences"]), ((), [])):
        settings = SimpleNamespace(sentences=SimpleNamespace(about=about))
        assert beyond(cfg, settings=settings) == marks


@pytest.mark.parametrize(
    "final, searches, trained, marks",
    [
        ("best_val", False, 10, ["validation"]),
        ("best_val", False, 0, []),  # nothing is trained: no epoch is chosen
        ("last_step", False, 10, []),
        ("last_step", True, 0, ["validation"]),
    ],
)
def test_what_is_chosen_on_validation_images(final, searches, trained, marks):
    cfg = build_cfg([("the config", MMRL | {"TEST.FINAL_MODEL": final})])
    assert beyond(cfg, trained, searches=searches) == marks
