"""Digests of the code of methods: what they are of, and what counts as an edit."""

import importlib
import subprocess
import sys

import pytest

from trainers.prompting import plugins
from trainers.prompting.method import find_method
from trainers.prompting.plugins import load_plugins, source_of
from trainers.prompting.storage import source
from trainers.prompting.storage.source import OWN, digest, edited_files, set_aside

CODE = '''"""Of a module."""


class Mine:
    """Of a class."""

    def logits(self, x):
        """Of a function."""
        return x * 2
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Of a function.", "Something else.", True),
        ('        """Of a function."""\n', "", True),
        ("return x * 2", "return (x * 2)  # doubled", True),
        ("return x * 2", "\n        return x * 2", True),
        ("return x * 2", "return x * 3", False),
        ("return x * 2", "return x * 2.0", False),
        ("def logits", "@property\n    def logits", False),
        ("(self, x)", "(self, x, y=None)", False),
        ("x * 2", "x * 2\n        'not a docstring'", False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path, old, new, same):
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(CODE)
    after.write_text(CODE.replace(old, new))
    assert before.read_text() != after.read_text()
    assert (digest(before) == digest(after)) is same
    assert len(digest(before)) == 16 and digest(tmp_path / "none.py") == ""


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A folder with two plug-ins, one of which imports a helper, and an installed package."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(plugins, "_plugins", [])
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


OF_COOP = {
    f"{OWN}{name}.py" for name in ("method", "methods/coop", "methods/prompted", "storage/public")
}


def test_a_method_is_the_files_of_its_classes_and_what_its_plug_in_imports(plugged):
    assert source_of(find_method("CoOp")).keys() == OF_COOP
    assert source_of(find_method("Without")).keys() == {*OF_COOP, "without.py"}
    mine = source_of(find_method("WithHelper"))
    assert mine.keys() == {*OF_COOP, "with_helper.py", "its_helper.py"}
    importlib.import_module("late_helper")

    more = source_of(find_method("WithHelper"))
    assert more.keys() - mine.keys() == {"late_helper.py"}


def test_an_edit_of_any_of_its_files_is_found_wherever_the_plug_in_is_now(plugged):
    mine = source_of(find_method("WithHelper"))
    (plugged / "moved").mkdir()
    for name in ("with_helper.py", "its_helper.py"):
        (plugged / name).rename(plugged / "moved" / name)
    there = str(plugged / "moved" / "with_helper.py")
    assert edited_files(mine, [there]) == []
    (plugged / "moved" / "its_helper.py").write_text("x = 2\n")
    assert edited_files(mine, [there]) == ["its_helper.py"]
    assert edited_files(mine, [str(plugged / "with_helper.py")]) == [
        "its_helper.py",
        "with_helper.py",
    ]
    assert edited_files(None, [there]) == [], "a record without digests"


def test_an_edited_method_of_this_package_counts_unless_it_is_that_of_the_commit(
    tmp_path, monkeypatch
):
    package = tmp_path / "trainers" / "prompting"
    package.mkdir(parents=True)
    monkeypatch.setattr(source, "PACKAGE", package)
    file, name = package / "method.py", f"{OWN}method.py"
    file.write_text(CODE)

    def git(*words):
        words = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words)
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "A")
    commit = git("rev-parse", "HEAD")
    other = {name: "0" * 16}  # as of another way to make digests
    assert edited_files(other, [], commit) == []
    assert edited_files(other, [], commit + "+") == [name], "a tree with changes"
    assert edited_files(other, [], "") == [name]
    file.write_text(CODE.replace("2", "3"))
    assert edited_files(other, [], commit) == [name]


def test_an_old_folder_gets_a_free_name(tmp_path):
    names = []
    for _ in range(3):
        (tmp_path / "seed1").mkdir()
        names.append(set_aside(tmp_path / "seed1").name)
    assert names == ["seed1.old", "seed1.old2", "seed1.old3"]
