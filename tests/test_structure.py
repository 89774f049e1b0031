"""Rules for the whole source: directions of imports, and required packages."""

import ast
import functools
import graphlib
import importlib.metadata
import importlib.util
import re
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from paths import ROOT

from trainers.prompting import __version__

PROGRAM = ("train.py", "recipe", "trainers", "benchmark", "datasets")
UNLIKE = {"open_clip"}  # of open_clip_torch, which is unknown here unless it is installed
# Takes a hundredth of the time of `ast` for all tests, and sees the programs in their strings.
IMPORT = re.compile(
    r"^ *(?:from (\w+)[\w.]* import|import (\w+)[\w.]*(?: as \w+)?(?: *#.*)?$)", re.MULTILINE
)


def python_files(*places: str) -> list[Path]:
    """Return the Python files at or below these places of the repository."""
    found = []
    for place in map(ROOT.joinpath, places):
        found += [place] if place.is_file() else place.rglob("*.py")
    return sorted(path for path in found if "build" not in path.relative_to(ROOT).parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> list[tuple[str, str | None]]:
    """Return (module, name or None) for every import of a module.

    Imports inside functions and those for the type checker count, since they are dependencies, too.
    """
    name, found = module_name(path), []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            found += ((source, alias.name) for alias in node.names)
    return found


def statements(tree: ast.AST):
    """Yield all statements below a node: `ast.walk` would go into every expression, too."""
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        below = getattr(tree, field, ())
        for node in below if isinstance(below, list) else ():
            yield node
            yield from statements(node)


def modules(*places: str) -> dict[str, list]:
    """Return the imports of every module below these places."""
    return {module_name(path): imports(path) for path in python_files(*places)}


def import_graph(found: dict[str, list]) -> dict[str, set[str]]:
    """Return module -> the modules of this repository that it imports.

    A name imported from a package counts as imported from the module that defines it, too.
    """
    graph = {module: set() for module in found}
    for module, imported in found.items():
        for source, name in imported:
            if f"{source}.{name}" in found:
                graph[module].add(f"{source}.{name}")
            elif source in found:
                graph[module].add(source)
                graph[module] |= {s for s, n in found[source] if n == name and s in found}
    return graph


def test_no_import_circle():
    try:
        graphlib.TopologicalSorter(import_graph(modules(*PROGRAM))).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


# The packages and modules of trainers/prompting/, each with those that it may import, acyclic.
PACKAGES = {
    "marks": "",
    "errors": "",
    "dassl_parts": "",
    "one_package": "",
    "embedded": "",
    "full_precision": "",
    "sure_views": "errors",
    "node": "errors",
    "storage": "embedded errors node",
    "images": "errors node storage",
    "transport": "full_precision",
    "backbones": "embedded errors storage",
    "encoders": "backbones errors full_precision images node storage transport",
    "running": "backbones encoders errors",
    "prompts": "backbones encoders errors",
    "teacher": "encoders errors full_precision node",
    "checkpoint": "backbones dassl_parts embedded errors running storage teacher",
    "contract": "encoders errors",
    "losses": "",
    "method": "backbones checkpoint contract encoders errors full_precision losses node prompts "
    "teacher",
    "regularizers": "method teacher",
    "capabilities": "checkpoint encoders errors full_precision marks method node teacher",
    "record": "backbones capabilities checkpoint embedded errors images marks running storage",
    "registry": "capabilities contract errors method",
    "robustness": "method",
    "methods": "backbones capabilities checkpoint encoders errors full_precision losses marks "
    "method node prompts registry regularizers robustness sure_views teacher transport",
    "plugins": "errors method record",
    "step": "capabilities method running",
    "building": "backbones capabilities checkpoint encoders errors images "
    "method node running storage",
    "trainer": "backbones building capabilities checkpoint contract dassl_parts encoders errors "
    "images method node plugins record robustness running step storage teacher",
    "advice": "backbones building capabilities checkpoint dassl_parts embedded encoders errors "
    "images method plugins record running storage teacher",
    "use": "advice backbones building capabilities checkpoint contract dassl_parts "
    "embedded encoders errors images method node plugins prompts record running storage teacher",
    "conformance": "backbones building capabilities contract embedded errors method plugins record "
    "running storage teacher trainer",
}
# The same for what stands around the plug-in.
AROUND_IT = {
    "plug-in": "",
    "benchmark": "",
    "datasets": "plug-in",
    "recipe": "datasets plug-in",
    "train": "plug-in recipe",
    "cli": "plug-in",
    "protocols": "cli datasets plug-in recipe",
    "records": "plug-in protocols recipe",
    "report": "cli plug-in protocols records",
    "data": "cli datasets plug-in protocols recipe report",
    "measure": "cli plug-in recipe records report train",
    "launch": "cli datasets plug-in protocols recipe records train",
    "inspect": "cli measure plug-in protocols recipe report train",
    "__main__": "cli launch plug-in protocols report",
}
OF_DASSL = {"building", "trainer", "conformance"}  # they alone know its cfg
AROUND = {"dassl", "yacs", "benchmark", "recipe", "train", "datasets"}


def room_around(module: str) -> str:
    """Return the room of a module; all of the plug-in is one."""
    first, _, rest = module.partition(".")
    if first == "trainers":
        return "plug-in"
    return rest.partition(".")[0] if first == "benchmark" and rest else first


@pytest.mark.parametrize(
    ("rooms", "below", "room_of"),
    [
        (PACKAGES, ("trainers/prompting",), lambda module: module.split(".")[2:3]),
        (AROUND_IT, PROGRAM, lambda module: [room_around(module)]),
    ],
)
def test_rooms_import_in_one_direction(rooms, below, room_of):
    allowed = {room: set(others.split()) for room, others in rooms.items()}
    graphlib.TopologicalSorter(allowed).prepare()
    used: dict[str, set[str]] = {room: set() for room in rooms}
    for module, imported in import_graph(modules(*below)).items():
        for room in room_of(module):
            used[room] |= {other for name in imported for other in room_of(name)} - {room}
            assert used[room] <= allowed[room], module
    assert used == allowed


def test_methods_know_no_dassl_and_nothing_of_the_repository_around_them():
    users = {}
    for module, imported in modules("trainers/prompting").items():
        for source, _ in imported:
            if (package := source.partition(".")[0]) in AROUND:
                users.setdefault(package, set()).add(module.split(".")[2])
    assert users.keys() == {"dassl", "yacs"}
    assert users["dassl"] | users["yacs"] == OF_DASSL


def required() -> set[str]:
    """Return the normalised names of the distributions in the requirements files."""
    lists = "requirements.txt", "requirements-extra.txt"
    lines = "\n".join((ROOT / file).read_text() for file in lists).splitlines()
    names = [Requirement(line).name for line in lines if line and line[0] not in "#."]
    return {name.lower().replace("_", "-") for name in names}


@pytest.mark.parametrize("found", [None, ModuleSpec("dassl", None, is_package=True)])
def test_dassl_lite_replaces_a_dassl_that_is_not_installed(found, monkeypatch):
    """A folder that happens to be called `dassl` does not count."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(ROOT / "trainers" / "__init__.py"))
    assert sys.path[-1] == str(ROOT / "dassl-lite")


def test_every_imported_package_is_required():
    own = {path.name.removesuffix(".py") for path in [*ROOT.iterdir(), *ROOT.glob("tests/**/*.py")]}
    own |= {"dassl", "promptedclip"}
    own |= {"counting", "public_code", "public_loops", "recording"}  # next to public_step.py
    own |= {"mine"}  # of a test's program
    distributions, listed = importlib.metadata.packages_distributions(), required()
    missing = {}
    for path in python_files(*PROGRAM, "dassl-lite", "tests"):
        for package in map("".join, IMPORT.findall(path.read_text("utf-8"))):
            if package in own or package in sys.stdlib_module_names:
                continue
            names = distributions.get(package, [package])
            if not {name.lower().replace("_", "-") for name in names} & listed:
                missing.setdefault(package, set()).add(module_name(path))
    assert missing.keys() <= UNLIKE, missing


def test_one_version(capsys):
    import train
    from benchmark.__main__ import main

    newest = re.search(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest and newest[1] == __version__
    cited = f"version: {__version__}\ndate-released: {newest[2]}\n"
    assert cited in (ROOT / "CITATION.cff").read_text("utf-8")
    for command in (train.parse_args, main):
        with pytest.raises(SystemExit):
            command(["--version"])
        assert capsys.readouterr().out == f"ALIGN {__version__}\n"
