"""Mutants by chance: small mistakes in a room's code, and the tests that catch them.

    python tests/mutate.py ROOM ... [--number 40] [--seed 0] [--tests DIR ...]

ROOM is a folder or a file, such as trainers/prompting/transport. A mutant is one change: a
comparison, a sign, a constant, a dropped statement, or two swapped arguments. It runs the tests
that reach its line, the cheapest first, until one fails; those that all pass survive, and are
printed as diffs.

The working tree is copied, and only copies are changed. First, all tests but slow ones run once in
a copy, under coverage, with a context for each test and each fixture that several tests share: that
says which tests reach a line, and how long each takes. Lines that run when a module is imported are
reached by all tests of the module. `--reach FILE` keeps this for later calls; with `--tests`, they
measure those anew, as after a change of some tests. What only a process that a test starts reaches,
as train.py, is not seen.

Why no library: mutmut changes functions only, through wrappers, and cosmic-ray runs one command for
every mutant, in place. Neither draws a number of mutants, or drops statements.
"""

import argparse
import ast
import contextlib
import difflib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from reach import CHOSEN, MEASURED, PREFIX, ROOMS, Reach, read

ROOT = Path(__file__).resolve().parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "reach", "-p", "no:cacheprovider")
NO_TESTS = 5  # exit status of pytest, where those that are known are gone
FIRST = 20  # tests that are run before the rest, whose files take long to import

# ------------------------------------------------------------------ mutants

EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITES = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
SIGNS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SYMMETRIC = ("max", "min", "maximum", "minimum", "equal", "isclose", "allclose")


@dataclass(frozen=True)
class Mutant:
    """A change: its file, its kind, the lines of its statement up to it, and the new text."""

    file: str
    lines: range
    kind: str
    text: str

    def diff(self, before: str) -> str:
        """Return the changed lines."""
        lines = (text.splitlines() for text in (before, self.text))
        found = difflib.unified_diff(*lines, self.file, self.file, n=1, lineterm="")
        return "\n".join(found)


def mutants(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a source, in its order."""
    lines, found = source.encode().splitlines(keepends=True), []

    def place(line, column):
        return sum(map(len, lines[: line - 1])) + column

    whole = b"".join(lines)
    for node, kind, new in changes(ast.parse(source)):
        start = place(node.lineno, node.col_offset)
        end = place(node.end_lineno, node.end_col_offset)
        text = (whole[:start] + new.encode() + whole[end:]).decode()
        statement = next(above for above in with_parents(node) if isinstance(above, ast.stmt))
        lines_of = range(statement.lineno, node.lineno + 1)
        found.append(Mutant(file, lines_of, kind, text))
    return sorted(found, key=lambda mutant: mutant.lines[-1])


def changes(tree: ast.AST):
    """Yield nodes, what kind of change each is, and the text in its place."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    child.parent, child.field = parent, name
    for node in ast.walk(tree):
        if not any(map(is_spared, with_parents(node))):
            for kind, change in (
                ("comparison", comparisons), ("sign", signs), ("constant", constants),
                ("dropped", drops), ("swapped", swaps),
            ):  # fmt: skip
                for new in change(node):
                    yield node, kind, new


def with_parents(node):
    while node is not None:
        yield node
        node = getattr(node, "parent", None)


def is_spared(node) -> bool:
    """Say if a node has no behaviour, or is in an f-string, where Python 3.11 gives no place.

    An annotation, a decorator, an assertion and `strict` of zip have none.
    """
    field = getattr(node, "field", "")
    return (
        isinstance(node, ast.JoinedStr | ast.Assert)
        or field in ("annotation", "returns", "decorator_list")
        or (isinstance(node, ast.keyword) and node.arg == "strict")
    )


def replaced(node, **fields) -> str:
    return ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), **fields}))


def comparisons(node):
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for new in (EDGES.get(type(op)), OPPOSITES.get(type(op))):
                if new:
                    yield replaced(node, ops=[*node.ops[:i], new(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield replaced(node, op=OPPOSITES[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield ast.unparse(node.operand)


def signs(node):
    minus = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SIGNS:
        sides = [node.value] if isinstance(node, ast.AugAssign) else [node.left, node.right]
        if not any(is_text(side) for side in sides):
            yield replaced(node, op=SIGNS[type(node.op)]())
    elif minus and not isinstance(node.operand, ast.Constant):  # which has mutants of its own
        yield ast.unparse(node.operand)


def is_text(node) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.Dict) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def constants(node):
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int):
        yield repr(value + 1)
    elif isinstance(value, float):
        yield repr(2 * value or 1.0)


def drops(node):
    """Yield `pass` for statements whose absence leaves no name undefined."""
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    leaves = isinstance(node, ast.Raise | ast.Return | ast.Continue | ast.Break)
    inner = isinstance(getattr(node, "parent", None), ast.If | ast.For | ast.While | ast.With)
    if is_call or isinstance(node, ast.AugAssign | ast.Delete) or (leaves and inner):
        yield "pass"
    elif isinstance(node, ast.Assign):
        read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
        if all(getattr(t, "id", None) in read or not isinstance(t, ast.Name) for t in targets):
            yield "pass"


def swaps(node):
    if isinstance(node, ast.Call) and len(node.args) > 1:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first, second, *rest = node.args
        starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        if not starred and name not in SYMMETRIC and ast.dump(first) != ast.dump(second):
            yield replaced(node, args=[second, first, *rest])


# ------------------------------------------------------------------ runs


class Copy:
    """A copy of the working tree, without what git ignores, in which a mutant can be tried."""

    def __init__(self, root: Path):
        self.root, self.written = root, 0
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)

    def write(self, file: str, text: str) -> None:
        """Write a file, with a time at which no compiled form of it was made."""
        self.written += 1
        (self.root / file).write_text(text)
        os.utime(self.root / file, (self.written * 10, self.written * 10))

    def pytest(
        self, arguments: list[str], more: dict, limit: float | None, show: bool = False
    ) -> tuple[int | None, str]:
        """Run pytest; return its exit status, or None if it took longer than so many seconds."""
        path = os.pathsep.join([f"{self.root}/tests", os.environ.get("PYTHONPATH", "")])
        command = [*PYTEST, *arguments]
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
        stdout = None if show else subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=self.root, stdout=stdout, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**kept, "PYTHONPATH": path, **more},
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=limit)
            return process.returncode, out or ""
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what tests have started
            process.wait()

    def first_failure(self, tests: list[str], reach: Reach) -> str | None:
        """Run tests until one fails, and return what failed; None if none did."""
        for some in filter(None, (tests[:FIRST], tests[FIRST:])):
            limit = 120 + 5 * sum(reach.seconds[name] for name in some)
            chosen = self.root.with_suffix(".json")
            chosen.write_text(json.dumps(some))
            named = dict.fromkeys(name.partition("::")[0] for name in some)
            files = [file for file in named if (self.root / file).exists()]
            code, out = self.pytest(["-n", "0", "-x", *files], {CHOSEN: str(chosen)}, limit)
            if code is None:
                return f"more than {limit:.0f} s"
            if code not in (0, NO_TESTS):
                failed = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0] if failed else f"pytest ends with {code}"
        return None


def measure(copy: Copy, rooms: list[str], tests: list[str], jobs: int) -> Reach:
    """Run the tests in a copy, and return what they reach."""
    with tempfile.TemporaryDirectory() as folder:
        more = {ROOMS: json.dumps(rooms), MEASURED: folder}
        copy.pytest(["-n", str(jobs if jobs > 1 else 0), *tests], more, limit=None, show=True)
        return read(Path(folder), copy.root)


def try_mutant(mutant: Mutant, copy: Copy, reach: Reach, seconds: float) -> str | None:
    """Return what catches a mutant; None if it survives tests that together take so long."""
    tests, total = [], 0.0
    for name in reach.of(mutant.file, mutant.lines):
        total += reach.seconds[name]
        if tests and total > seconds:
            break
        tests.append(name)
    before = (copy.root / mutant.file).read_text()
    copy.write(mutant.file, mutant.text)
    try:
        return copy.first_failure(tests, reach)
    finally:
        copy.write(mutant.file, before)


def outcomes(chosen: list[Mutant], copies: list[Copy], reach: Reach, seconds: float):
    """Try mutants, as many at a time as there are copies; yield each with what catches it."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant):
        copy = free.get()
        try:
            return mutant, try_mutant(mutant, copy, reach, seconds)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(one, chosen)


def main(arguments=None) -> int:
    """Try mutants of each room, and print which tests catch them; the diffs of those that survive.

    Returns 1 if any survives.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rooms", nargs="+", metavar="ROOM", help="a folder or file of code")
    parser.add_argument("--number", type=int, default=40, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--tests", nargs="+", help="files or folders of tests (default: all)")
    parser.add_argument("--reach", type=Path, help="a file with what tests reach, kept for later")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy(Path(folder, str(i))) for i in range(args.jobs)]
        reach = Reach({}, {})
        if args.reach and args.reach.exists():
            reach = Reach(**json.loads(args.reach.read_text()))
        if args.tests or not reach.seconds:
            reach.update(measure(copies[0], args.rooms, args.tests or ["tests"], args.jobs))
        if not reach.seconds:
            sys.exit("No test passes: without a mutant, they should")
        if args.reach:
            args.reach.write_text(json.dumps(vars(reach)))
        left = 0
        for room in args.rooms:
            left += report(room, args, copies, reach)
    return int(left > 0)


def report(room: str, args: argparse.Namespace, copies: list[Copy], reach: Reach) -> int:
    """Try mutants of a room, print what catches them, and return the number of survivors."""
    root = copies[0].root  # stays the same while the working tree is edited
    path = root / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    sources = {str(file.relative_to(root)): file.read_text() for file in files}
    every = [mutant for name, source in sources.items() for mutant in mutants(name, source)]
    chosen = random.Random(args.seed).sample(every, min(args.number, len(every)))
    print(f"{room}: {len(chosen)} of {len(every):,} mutants", flush=True)
    alive = []
    for i, (mutant, caught) in enumerate(outcomes(chosen, copies, reach, args.seconds), 1):
        place = f"{mutant.file}:{mutant.lines[-1]} {mutant.kind}"
        print(f"[{i}/{len(chosen)}] {place}: {caught or 'SURVIVES'}", flush=True)
        alive += [] if caught else [mutant]
    for mutant in alive:
        print(f"\n{mutant.kind}\n{mutant.diff(sources[mutant.file])}")
    print(f"\n{room}: {len(chosen) - len(alive)} of {len(chosen)} mutants caught", flush=True)
    return len(alive)


if __name__ == "__main__":
    sys.exit(main())
