"""Test that the packages of benchmark/ import each other in one direction only."""

import ast
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark"

# Each package may import from itself and from these; there are no cycles.
ALLOWED = {
    "cli": set(),
    "protocols": {"cli"},
    "records": {"protocols"},
    "report": {"cli", "protocols", "records"},
    "launch": {"cli", "protocols", "records", "measure", "data"},
    "tune": {"cli", "protocols", "records", "report", "launch"},
    "data": {"cli", "protocols", "report"},
    "inspect": {"cli", "protocols", "report", "measure"},
    "measure": {"cli", "protocols", "records", "report", "data"},
}


def imported_packages(path: Path) -> set[str]:
    """Return the packages that a file imports from, by its relative imports."""
    package = path.relative_to(BENCHMARK).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found.update((*above, *name.split("."))[0] for name in names)
    return found


def test_packages_import_in_one_direction():
    for path in BENCHMARK.rglob("*.py"):
        package = path.relative_to(BENCHMARK).parts[0].removesuffix(".py")
        if package in ALLOWED:
            assert imported_packages(path) - {package, "errors"} <= ALLOWED[package], path
