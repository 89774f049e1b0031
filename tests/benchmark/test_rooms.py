"""The rooms of benchmark/: which may import from which."""

import ast
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2] / "benchmark"

# Each may import from itself and these, which makes no circle.
ALLOWED = {
    "cli": set(),
    "protocols": {"cli"},
    "report": {"cli", "protocols"},
    "launch": {"cli", "protocols", "report", "measure"},
    "tune": {"cli", "protocols", "report", "launch"},
    "data": {"cli", "protocols", "report"},
    "pack": {"cli", "protocols", "report"},
    "inspect": {"cli", "protocols", "report", "measure"},
    "measure": {"cli", "protocols", "report", "data"},
}


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports something from, by its relative imports."""
    package = path.relative_to(ROOM).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found.update((*above, *name.split("."))[0] for name in names)
    return found


def test_rooms_import_in_one_direction():
    for path in ROOM.rglob("*.py"):
        room = path.relative_to(ROOM).parts[0].removesuffix(".py")
        if room in ALLOWED:
            assert imported_rooms(path) - {room, "errors"} <= ALLOWED[room], path
