"""Check that the device computes correctly: run the tests of tests/accelerator."""

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The cases of tests/accelerator by kind, as pytest selects them.
KINDS = ("golden", "step", "fused", "run", "half")
LONGEST = 1200  # seconds of the tests of a kind


def tests(kind: str, small: bool) -> dict:
    """Run the tests of a kind; return the outcome and the numbers of each case."""
    marks = "not slow" if small else "slow or not slow"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks]
        command += ["tests/accelerator", "-k", kind, f"--junitxml={report}"]
        try:
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return {"problem": f"took more than {LONGEST // 60} minutes"}
        if not report.exists():
            return {"problem": (run.stdout + run.stderr).strip()[-300:]}
        cases = list(ET.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        problem = next(
            (one for tag in ("failure", "error", "skipped") for one in case.iter(tag)), None
        )
        numbers = next((one for one in case.iter("property") if one.get("name") == "found"), None)
        found[case.get("name", "")] = {
            "passed": problem is None,
            "problem": None if problem is None else str(problem.get("message"))[:200],
            **({} if numbers is None else json.loads(str(numbers.get("value")))),
        }
    return {"cases": found} if found else {"problem": "no test was run"}


def items(small: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield the items of this piece by name."""
    for kind in ("fused",) if small else KINDS:
        yield f"tests: {kind}", partial(tests, kind, small)
