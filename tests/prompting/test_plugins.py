"""Loading of plug-ins, and the errors for those that do not load."""

import sys

import pytest
from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting import UserError, plugins
from trainers.prompting.plugins import load_plugins

METHOD = """
from dataclasses import dataclass

from trainers.prompting import Method, register


@register
class {name}(Method):
    node = "MINE"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        PREC: str = "fp32"
"""
DATASET = """
from dassl.data.datasets import DATASET_REGISTRY
from datasets import ImageDataset


@DATASET_REGISTRY.register()
class {name}(ImageDataset):
    pass
"""


@pytest.fixture
def load(tmp_path, monkeypatch, capsys):
    """A function that loads plug-ins and returns the printed text; all is unloaded at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(DATASET_REGISTRY, "_objects", dict(DATASET_REGISTRY._objects))
    modules = set(sys.modules)

    def load(*names) -> str:
        try:
            load_plugins(names)
        except UserError as error:
            print("refused:", error)
        return "".join(capsys.readouterr())

    yield load
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["mine.py", "mine", "package.methods.mine"])
def test_a_file_a_module_and_an_installed_package(tmp_path, load, name):
    path = tmp_path / (name if name.endswith(".py") else name.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(name="Mine") + DATASET.format(name="Ours"))
    assert load(name, name) == f"Plug-in '{name}': Mine, Ours\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("1 / 0", "does not import (ZeroDivisionError: division by zero, in line 1 of '"),
        ("x = 1\nimport nowhere", "No module named 'nowhere', in line 2 of '"),
        ("import json\n\njson.loads('x')", "line 1 column 1 (char 0), in line 3 of '"),
        ("import helper", "(ZeroDivisionError: division by zero, in line 2 of '"),
        ("import sys; sys.exit()", "does not import (SystemExit"),
        ("import sys; sys.exit('bye')", "does not import (SystemExit: bye, in line 1 of '"),
        ("def broken(:", "does not import (SyntaxError"),
        ("x = 1", "registers no method and no data set: put `@register`"),
        (DATASET.format(name="FGVCAircraft"), "'FGVCAircraft' is already registered in DATASET"),
        (METHOD.format(name="CoOp"), "registers a method 'CoOp', but trainers.prompting.methods"),
        (None, "There is no plug-in file 'mine.py'"),
    ],
)
def test_a_broken_plugin_is_one_sentence(tmp_path, load, content, sentence):
    (tmp_path / "helper.py").write_text("def f():\n    1 / 0\n\n\nf()\n")
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    printed = load("mine.py")
    assert printed.startswith("refused: ") and sentence in printed
    assert printed.count("\n") == 1


def test_a_file_with_the_name_of_a_loaded_module(tmp_path, load):
    (tmp_path / "plugins").mkdir()  # in a folder, as json.py would shadow the real module
    (tmp_path / "plugins" / "json.py").write_text(METHOD.format(name="Mine"))
    assert "has the name of a module that is already loaded" in load("plugins/json.py")
