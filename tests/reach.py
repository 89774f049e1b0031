"""The tests that reach each line, for `mutate`: a plug-in of pytest, and its results.

Coverage gets a context for each test, and one for each fixture that several tests share.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Environment variables: the rooms to measure, the folder for what was measured, and a file with the
# tests to run.
PREFIX = "MUTATE_"
ROOMS, MEASURED, CHOSEN = (PREFIX + name for name in ("ROOMS", "MEASURED", "CHOSEN"))


class Measurement:
    """The code that each test reaches, by contexts of coverage, its time and its fixtures."""

    def __init__(self, rooms: list[str], folder: str):
        from coverage import Coverage

        include = [f"{ROOT}/{room}" + "/*" * Path(ROOT, room).is_dir() for room in rooms]
        self.file = f"{folder}/{os.getpid()}"
        self.cover = Coverage(self.file, include=include, config_file=False)
        self.tests: dict[str, dict] = {}
        self.present = ""
        self.cover.start()

    def pytest_runtest_protocol(self, item):
        every = [f for own in item._fixtureinfo.name2fixturedefs.values() for f in own]
        shared = [*filter(None, map(fixture_context, every))]
        self.tests[item.nodeid] = {"seconds": 0.0, "fixtures": shared, "outcomes": []}
        self.enter(item.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        """Count what a shared fixture runs for all its tests, not for the first alone."""
        before = self.present
        self.enter(fixture_context(fixturedef) or before)
        yield
        self.enter(before)

    def enter(self, context):
        self.present = context
        self.cover.switch_context(context)

    def pytest_runtest_logreport(self, report):
        if report.nodeid in self.tests:
            self.tests[report.nodeid]["seconds"] += report.duration
            self.tests[report.nodeid]["outcomes"].append(report.outcome)

    def pytest_sessionfinish(self):
        self.cover.stop()
        self.cover.save()
        Path(f"{self.file}.json").write_text(json.dumps(self.tests))


def fixture_context(fixture) -> str | None:
    """Return the context of a fixture that several tests share, or None."""
    shared = fixture.scope != "function"
    return f"fixture {fixture.baseid}::{fixture.argname}" if shared else None


def pytest_configure(config):
    if measurement is not None:
        config.pluginmanager.register(measurement)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Keep the chosen tests, in their order."""
    if chosen := os.environ.get(CHOSEN):
        places = {name: i for i, name in enumerate(json.loads(Path(chosen).read_text()))}
        items[:] = [item for item in items if item.nodeid in places]
        items.sort(key=lambda item: places[item.nodeid])


measurement = None
if ROOMS in os.environ:  # from before the first import of what is measured
    measurement = Measurement(json.loads(os.environ[ROOMS]), os.environ[MEASURED])


@dataclass
class Reach:
    """The seconds of each test that passed, and which of them reach each line of each file."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]

    def of(self, file: str, lines: range) -> list[str]:
        """Return the tests that reach any of the lines, then others of the file: cheapest first.

        What is kept from one test to the next, as by functools.cache, is reached by the first only.
        """
        found = self.lines.get(file, {})
        here = {name for line in lines for name in found.get(str(line), [])}
        others = {name for names in found.values() for name in names} - here
        return [
            *sorted(here, key=self.seconds.__getitem__),
            *sorted(others, key=self.seconds.__getitem__),
        ]

    def update(self, new: "Reach") -> None:
        """Take what newer runs of some files of tests say, in place of what is known of them."""
        files = {name.partition("::")[0] for name in new.seconds}
        old = {name for name in self.seconds if name.partition("::")[0] in files}
        for name in old:
            del self.seconds[name]
        self.seconds |= new.seconds
        for file in self.lines.keys() | new.lines.keys():
            ours, theirs = self.lines.setdefault(file, {}), new.lines.get(file, {})
            for line in ours.keys() | theirs.keys():
                ours[line] = sorted(({*ours.get(line, [])} - old).union(theirs.get(line, [])))


def read(folder: Path, root: Path) -> Reach:
    """Return what tests in a copy of the repository, at `root`, have left in a folder."""
    from coverage import CoverageData

    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    every = {name: test for part in found for name, test in part.items()}
    outcomes = {name: {*test["outcomes"]} for name, test in every.items()}
    passed = {name: every[name]["seconds"] for name in every if outcomes[name] == {"passed"}}
    failed = sorted(name for name in every if "failed" in outcomes[name])
    print(f"{len(passed):,} tests pass; these fail and are left out: {failed}", flush=True)
    users = {name: [name] for name in passed}  # of each context
    for name in passed:
        for context in every[name]["fixtures"]:
            users.setdefault(context, []).append(name)
    lines: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in {*folder.iterdir()} - {*folder.glob("*.json")}:
        data = CoverageData(str(path))
        data.read()
        for file in data.measured_files():
            own = lines[str(Path(file).relative_to(root))]
            for line, contexts in data.contexts_by_lineno(file).items():
                own[str(line)].update(name for c in contexts for name in users.get(c, []))
    return Reach(passed, {f: {n: sorted(i) for n, i in own.items()} for f, own in lines.items()})
