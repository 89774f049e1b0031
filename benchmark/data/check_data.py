"""Compare public data sets in a folder with published counts, or with zero-shot accuracies."""

import io
import os
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from trainers.prompting.errors import UserError, check_name

from ..cli import Parser, add_plugin
from ..protocols.configs import GROUPS, dataset_class, dataset_files, use_plugins, with_groups
from . import zero_shot
from .zero_shot import BACKBONE, check_printed

COUNTS = ("classes", "train", "val", "test")


@dataclass
class Finding:
    """The result of a check: counts of a data set, and the first problem found in it."""

    name: str
    expected: tuple  # published counts
    found: bool  # True if its folder has files
    counts: tuple = (None,) * len(COUNTS)
    problem: str = ""
    parts: tuple[list, ...] = ()  # train, val and test

    def row(self) -> list[str]:
        """Return the line of the table."""
        cells = [count_cell(*pair) for pair in zip(self.counts, self.expected, strict=True)]
        return [self.name, "yes" if self.found else "no", *cells]


def main(argv: list[str]) -> int:
    """Run `python -m benchmark check-data`; return 1 if nothing is found or something is wrong."""
    parser = Parser(prog="python -m benchmark check-data", description=__doc__)
    parser.add_argument(
        "--root", default=os.environ.get("DATA"), help="folder of the data sets (default: $DATA)"
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"data sets, or {', '.join(GROUPS)} (default: all with one label an image "
        "but the medical, and plug-ins')",
    )
    parser.add_argument(
        "--zero-shot", action="store_true",
        help="classify the test images with zero-shot CLIP and compare with published accuracies",
    )  # fmt: skip
    parser.add_argument(
        "--sentences", nargs="+", default=[], metavar="TEXT",
        help="with --zero-shot, compare these instead on validation images: JSON files, clip7, "
        "clip80, templates",
    )  # fmt: skip
    parser.add_argument("--backbone", help=f"name or file of the CLIP (default: {BACKBONE})")
    add_plugin(parser)
    args = parser.parse_args(argv)
    from trainers.prompting.plugins import load_plugins  # with PyTorch

    use_plugins(args.plugin)
    load_plugins(args.plugin)
    if not args.zero_shot and (args.backbone or args.sentences):
        raise UserError("--backbone and --sentences need --zero-shot: add it, or leave them out")
    root = Path(args.root or "").expanduser().absolute()
    if not (args.root and root.is_dir()):
        raise UserError(f"'{args.root}' is not a folder: give --root that of the data sets")
    known = checked_datasets()
    usual = [name for name in known if not (name in GROUPS["medical"] or known[name].several)]
    asked = with_groups(args.names) or usual
    names = [check_name("data set", name, known) for name in asked]
    if args.zero_shot and not args.sentences:
        check_printed(names)
    findings = []
    bar = tqdm(names, leave=False, disable=None)
    for name in bar:
        bar.set_description(name)
        findings.append(check_set(name, known[name], root))
    print(render(findings, root))
    code = int(any(f.problem for f in findings) or not any(f.found for f in findings))
    return classify(findings, known, args) or code if args.zero_shot else code


def classify(findings: list[Finding], known: dict, args) -> int:
    """Print the table of zero-shot accuracies; return 1 if one is not as published."""
    complete = [finding for finding in findings if finding.parts]
    if not complete:
        return 1
    checker = zero_shot.Checker(args.backbone or BACKBONE)
    if args.sentences:
        from trainers.prompting.encoders.descriptions import Asked

        asked = [Asked(text) for text in args.sentences]
        tried = {f.name: checker.try_sentences(f.name, known[f.name], f.parts, asked)
                 for f in complete}  # fmt: skip
        print(f"\n{zero_shot.render_sentences(args.sentences, tried, checker.backbone)}")
        return 0
    results = [checker.compare(f.name, known[f.name], f.parts) for f in complete]
    print(f"\n{zero_shot.render(results, checker)}")
    return int(not all(result.agrees for result in results))


def checked_datasets() -> dict:
    """Return the classes of data sets with published counts, and of plug-ins, by config name."""
    classes = {name: dataset_class(name) for name in sorted(dataset_files())}
    return {
        name: cls
        for name, cls in classes.items()
        if cls.expected or not cls.__module__.startswith("datasets.")
    }


def check_set(name: str, cls, root: Path) -> Finding:
    """Read a data set as a run does, without writing a split file."""
    folder = root / cls.dataset_dir
    found = any(path.is_file() or path.is_symlink() for path in folder.rglob("*"))  # or it is empty
    finding = Finding(name, cls.expected or (None,) * len(COUNTS), found)
    if not finding.found:
        return finding
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            if cls.split_file and not (folder / cls.split_file).exists():
                parts = cls.own_split(folder)
                print(f"{cls.split_file} is missing: a run makes its own split, so accuracies "
                      "are not comparable with published ones")  # fmt: skip
            else:
                parts = cls.read(folder)
            cls.check_labels(*parts)
    except (UserError, OSError) as error:
        finding.problem = str(error)
        return finding
    classes = len(cls.names_of([item for part in parts for item in part]))
    finding.counts, finding.parts = (classes, *map(len, parts)), tuple(parts)
    finding.expected = cls.expected or finding.counts  # those of a plug-in are only shown
    finding.problem = " ".join(printed.getvalue().split()) or miscount(finding)
    return finding


def miscount(finding: Finding) -> str:
    """Return a sentence about the first count that differs; empty if none does."""
    for what, count, expected in zip(COUNTS, finding.counts, finding.expected, strict=True):
        if expected is not None and count != expected:
            kind = "classes" if what == "classes" else f"{what} images"
            return f"{count:,} {kind} instead of {expected:,}"
    return ""


def count_cell(count: int | None, expected: int | None) -> str:
    """Return a cell: the count, and in brackets the published one if it differs; else `-`."""
    if expected is None:
        return "-"
    if count == expected:
        return f"{count:,}"
    return f"({expected:,})" if count is None else f"{count:,} ({expected:,})"


def render(findings: list[Finding], root: Path) -> str:
    """Return the table, and below it the problems."""
    head = ["Data set", "Found", "Classes", "Train", "Val", "Test"]
    align = ["left", "left"] + ["right"] * len(COUNTS)
    rows = [finding.row() for finding in findings]
    table = tabulate(rows, head, colalign=align, disable_numparse=True)
    count = sum(finding.found for finding in findings)
    wrong = [f"- {finding.name}: {finding.problem}" for finding in findings if finding.problem]
    last = f"{count} of {len(findings)} found below {root}"
    if count:
        last += "; the first problem of each:" if wrong else ", nothing is wrong"
    return "\n".join([table, "In brackets: as published.", last, *wrong])
