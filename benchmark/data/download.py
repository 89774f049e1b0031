"""Public data sets: downloaded, checked, and laid out as datasets/ reads them."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from recipe.configs import read_tree
from trainers.prompting.errors import UserError, check_name
from trainers.prompting.storage.files import held

from ..cli import Parser
from ..protocols.configs import CONFIGS
from .archives import (
    check_stated,
    check_sum,
    fetch,
    fetch_drive,
    find,
    place,
    stated_size,
    unpacked,
)

TABLE = CONFIGS / "downloads.yaml"
COPY = "copy.zip"  # as a copy of a whole data set is called here: an original may have its name


@dataclass(frozen=True)
class Source:
    """A file of a data set; the head of configs/downloads.yaml says what the fields mean."""

    name: str
    urls: tuple[str, ...] = ()
    drive: str = ""
    sha256: str = ""
    md5: str = ""
    inside: str = ""
    holds: dict[str, str] = field(default_factory=dict)

    @property
    def gives(self) -> list[str]:
        """What the data set's folder has when this is done."""
        return list(self.holds) or [self.name]

    def check(self, path: Path) -> None:
        """Raise UserError if the file at `path` is not this one, as far as a hash is known."""
        for kind in ("sha256", "md5"):
            if expected := getattr(self, kind):
                return check_sum(path, kind, expected)


def main(argv: list[str]) -> int:
    """`python -m benchmark download`."""
    table = read_tree(TABLE)
    parser = Parser(
        prog="python -m benchmark download",
        description=f"{__doc__} Existing files are kept, and interrupted downloads are resumed. "
        "A data set with a file that cannot be had is taken from a copy of all of it.",
        epilog="The addresses (configs/downloads.yaml) are those that the data sets' own pages, "
        "torchvision and CoOp name, or copies. Sites move: a file that cannot be had this way, but "
        "another, can be put where the message says. `check-data` then compares the data with the "
        "published counts.",
    )
    add = parser.add_argument
    add("datasets", nargs="+", metavar="DATASET", help=", ".join(table))
    add("--root", type=Path, required=True, metavar="DATA", help="the folder of the data sets")
    add("--mirror", metavar="URL", help="get every file from URL/NAME instead of its own address")
    args = parser.parse_args(argv)
    if args.mirror and not args.mirror.startswith(("http://", "https://")):
        raise UserError(f"--mirror is an address that starts with http(s)://, not '{args.mirror}'")
    names = [check_name("data set", name, table) for name in dict.fromkeys(args.datasets)]
    root = args.root.expanduser().absolute()
    try:
        print(sizes(names, table, root, args.mirror), end="", flush=True)
        failed = [name for name in names if not provide(name, table[name], root, args.mirror)]
    except KeyboardInterrupt:
        print("Interrupted. Running the same command again continues.", file=sys.stderr)
        return 130
    if failed:
        print(f"not complete: {', '.join(failed)} (of {len(names)})", file=sys.stderr)
    return int(bool(failed))


def provide(name: str, entry: dict, root: Path, mirror: str | None) -> bool:
    """Get what a data set lacks, by its entry of the table.

    Returns:
        Whether it is complete; if not, stderr has a sentence for each thing that is missing.
    """
    folder = root / entry["folder"]
    sources = [Source(**file) for file in entry["files"]]
    by_hand = entry.get("by_hand", {"needs": []})
    todo = [source for source in sources if lacks(folder, source.gives)]
    if not todo and not lacks(folder, by_hand["needs"]):
        print(f"{name}: is already in '{folder}'")
        return True
    if todo and "note" in entry and not mirror:
        print(f"{name}: {entry['note']}")
    problems = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder.with_name(f".{folder.name}.lock")) as alone:
            if not alone:
                raise UserError(f"another download is at work in '{folder}'")
            problems = attempt(todo, folder, mirror, "copy" in entry and not mirror)
            if problems and "copy" in entry and not mirror:
                print(f"{name}: {'; '.join(problems)}; next, a copy of the whole data set")
                rest = [path for source in sources for path in source.gives]
                rest = [path for path in rest if lacks(folder, [path])]
                copy = Source(COPY, (entry["copy"],), holds=dict(zip(rest, rest, strict=True)))
                problems = attempt([copy], folder, None)
    except (UserError, OSError) as error:
        problems.append(str(error))
    if lacks(folder, by_hand["needs"]):
        problems.append(by_hand["how"].format(folder=folder))
    for problem in problems:
        print(f"{name}: {problem}", file=sys.stderr)
    if not problems:
        for part in folder.glob(f"{COPY}.part*"):  # its files have come from elsewhere
            part.unlink()
        print(f"{name}: is complete in '{folder}'")
    return not problems


def attempt(
    sources: list[Source], folder: Path, mirror: str | None, copied: bool = False
) -> list[str]:
    """Install files, the small ones first; a sentence for each that cannot be had.

    Args:
        sources: the files.
        folder: of the data set.
        mirror: as of `install`.
        copied: a copy has everything: after a failure, archives that are not there yet are left
            to it, since they would be downloaded twice.
    """
    problems: list[str] = []
    for source in sorted(sources, key=lambda source: bool(source.holds)):
        if problems and copied and source.holds and not (folder / source.name).exists():
            continue
        try:
            install(source, folder, mirror)
        except (UserError, OSError) as error:
            problems.append(f"{source.name}: {error}")
    return problems


def sizes(names: list[str], table: dict, root: Path, mirror: str | None) -> str:
    """A line for each data set that lacks files: these, with the sizes that their servers state."""
    lines = []
    for name in names:
        sources = [Source(**file) for file in table[name]["files"]]
        files = []
        for source in sources:
            folder = root / table[name]["folder"]
            if lacks(folder, source.gives) and not (folder / source.name).exists():
                first = addresses(source, mirror)[:1]
                size = stated_size(first[0]) if first else None
                known = tqdm.format_sizeof(size, "B") if size else "size unknown"
                files.append(f"{source.name} ({known})")
        if files:
            lines.append(f"{name}: {', '.join(files)}\n")
    return "".join(lines)


def addresses(source: Source, mirror: str | None) -> list[str]:
    """The addresses of a file, except for Google Drive."""
    return [f"{mirror.rstrip('/')}/{quote(source.name)}"] if mirror else list(source.urls)


def lacks(folder: Path, paths: list[str]) -> bool:
    """Whether one of the paths is not in the folder."""
    return not all((folder / path).exists() for path in paths)


def install(source: Source, folder: Path, mirror: str | None) -> None:
    """Get a file, unpack it if it is an archive, and put what it gives into the folder.

    An archive that is there already is used instead, and kept: it may be the user's.
    """
    path = folder / source.name
    there = path.exists()
    if not there:
        download(source, path, mirror)
    if not source.holds:
        return
    if there:
        try:
            source.check(path)
        except UserError as error:
            raise UserError(f"'{path}' is another file, move it away: {error}") from None
    with unpacked(path, folder / ".unpacking", source.inside) as content:
        missing = []
        for name, origin in source.holds.items():
            if not (folder / name).exists():
                try:
                    place(find(content, origin), folder / name)
                except UserError as error:
                    missing.append(str(error))
    if missing:
        raise UserError("; ".join(missing))
    if there:
        print(f"{source.name}: is unpacked; '{path}' is not needed any more")
    else:
        path.unlink()


def download(source: Source, path: Path, mirror: str | None) -> None:
    """Download a file from the first of its addresses that gives it, and check it.

    Raises:
        UserError: no address gives it. A file with another hash is kept under another name.
    """
    ways = {url: partial(fetch, url) for url in addresses(source, mirror)}
    if source.drive and not mirror:
        ways["Google Drive"] = partial(fetch_drive, source.drive)
    reasons = []
    for where, get in ways.items():
        print(f"{source.name}: from {where}", flush=True)
        try:
            received = get(path)
        except UserError as error:
            reasons.append(str(error))
            continue
        try:
            source.check(received)
            check_stated(received)
        except UserError as error:
            wrong = received.rename(path.with_name(path.name + ".wrong"))
            reasons.append(f"the file from {where} is kept as '{wrong}', for {error}")
            continue
        received.rename(path)
        for rest in (".part", ".part.etag", ".part.sha256"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
        return
    raise UserError(
        f"{'; '.join(reasons)}; call this again to go on, or put the file at '{path}' yourself"
    )
