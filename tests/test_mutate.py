"""The program that makes mutants: what it changes, and a room in which one of two survives."""

import shutil
import subprocess
import sys

import mutate
import reach

SOURCE = '''
from math import dist

@cached(size=3)
def area(a: Literal[1], b=0.5) -> None:
    """Docs, 1."""
    if a < 0 and not b:
        raise ValueError(f"{a + 1}")
    a, c = -a, pow(a, b)
    c.most = "é", True
    c = c + a
    assert c == 1
    zip(a, strict=True)
    return dist(c * c, [a] + [b])
'''
CHANGES = [
    "def area(a: Literal[1], b=1.0) -> None:",
    "if a <= 0 and not b:", "if a >= 0 and not b:", "if a < 0 or not b:", "if a < 0 and b:",
    "if a < 1 and not b:", "pass",
    "a, c = a, pow(a, b)", "a, c = -a, pow(b, a)",
    'c.most = "é", False', "pass",
    "c = c - a", "pass", "pass",
    "return dist(c / c, [a] + [b])", "return dist([a] + [b], c * c)",
]  # fmt: skip


def test_changes_of_each_kind():
    before, found = SOURCE.splitlines(), mutate.mutants("area.py", SOURCE)
    for mutant in found:
        changed = [i for i, line in enumerate(mutant.text.splitlines()) if line != before[i]]
        assert len(changed) == 1 and changed[0] + 1 in mutant.lines
    after = [mutant.text.splitlines()[mutant.lines[-1] - 1].strip() for mutant in found]
    assert sorted(after) == sorted(CHANGES)
    kinds = [mutant.kind for mutant in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "comparison": 4, "sign": 3, "constant": 3, "dropped": 4, "swapped": 2
    }  # fmt: skip


def test_a_room_with_a_survivor(tmp_path):
    """Code of a shared fixture is reached by all its tests; the working tree stays as it is."""
    files = {
        "room/area.py": "SIDES = 4\n\n\ndef area(a, b):\n    return a * b\n",
        "tests/test_area.py": "import pytest\nfrom room.area import area\n\n\n"
        "@pytest.fixture(scope='module')\ndef six():\n    return area(3, 2)\n\n\n"
        "def test_type(six):\n    pass\n\n\ndef test_area(six):\n    assert six == 6\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program, _ = (shutil.copy(each.__file__, tmp_path / "tests") for each in (mutate, reach))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, program, "room", "--number", "9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "room/area.py:5 sign: FAILED tests/test_area.py::test_area" in done.stdout
    assert "room/area.py:1 constant: SURVIVES" in done.stdout
    assert "-SIDES = 4\n+SIDES = 5\n" in done.stdout
    assert "room: 1 of 2 mutants caught" in done.stdout
    assert all((tmp_path / name).read_text() == text for name, text in files.items())
