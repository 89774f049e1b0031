"""Download public data sets, check the files, and lay them out as datasets/ reads them."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from recipe.configs import read_tree
from trainers.prompting.errors import UserError, by_system, check_name
from trainers.prompting.storage.files import hold_lock

from ..cli import Parser
from ..protocols.configs import CONFIGS, GROUPS, with_groups
from . import imagenet, repositories
from .archives import (
    ask,
    check_sum,
    fetch,
    fetch_drive,
    find,
    merge,
    parts,
    stated_size,
    unpack_archive,
)  # fmt: skip

TABLE = CONFIGS / "downloads.yaml"
IMAGES = "https://huggingface.co/datasets/TahaKoleilat/BiomedCoOp"
DRIVE = "Google Drive"
COPY = "copy.zip"  # local name for a copy of a whole data set: an original file may have its name


@dataclass(frozen=True)
class Source:
    """A file of a data set; the head of configs/downloads.yaml explains the fields."""

    name: str
    urls: tuple[str, ...] = ()
    drive: str = ""
    sha256: str = ""
    md5: str = ""
    git_blob: str = ""
    inside: str = ""
    tree: dict[str, str] = field(default_factory=dict)
    holds: dict[str, str] = field(default_factory=dict)
    merges: str = ""

    @property
    def gives(self) -> list[str]:
        """The files and folders that this file provides to the data set's folder."""
        return list(self.holds) or [self.name]

    def check(self, path: Path) -> None:
        """Raise UserError if the file at `path` has another hash, if one is known."""
        for kind in ("sha256", "md5", "git_blob"):
            if expected := getattr(self, kind):
                return check_sum(path, kind, expected)


def main(argv: list[str]) -> int:
    """Run `python -m benchmark download`; return 1 if a data set is not complete."""
    table = read_tree(TABLE)
    parser = Parser(
        prog="python -m benchmark download",
        description=f"{__doc__} Existing files are kept, and interrupted downloads are resumed. "
        "If a file is unavailable, a copy of the whole data set is downloaded instead.",
        epilog="The addresses (configs/downloads.yaml) are those that the data sets' own pages, "
        "torchvision and CoOp give, or copies. Sites move: if a file is unavailable here but not "
        "elsewhere, put it where the message says. `check-data` then compares the data with the "
        "published counts.",
    )
    add = parser.add_argument
    add("datasets", nargs="+", metavar="DATASET", help=", ".join([*table, *GROUPS]))
    add("--root", type=Path, required=True, metavar="DATA", help="the folder of the data sets")
    add("--mirror", metavar="URL", help="get every file from URL/NAME instead of its usual address")
    args = parser.parse_args(argv)
    names = [check_name("data set", name, table) for name in with_groups(args.datasets)]
    root = args.root.expanduser().absolute()
    print(sizes(names, table, root, args.mirror), end="", flush=True)
    failed = [name for name in names if not provide(name, table[name], root, args.mirror)]
    if failed:
        print(f"not complete: {', '.join(failed)} (of {len(names)})", file=sys.stderr)
    return int(bool(failed))


def provide(name: str, entry: dict, root: Path, mirror: str | None) -> bool:
    """Download the missing files of a data set, as its entry in the table says.

    Returns:
        True if it is complete; if not, stderr has a sentence for each missing file.
    """
    folder = root / entry["folder"]
    sources = [Source(**file) for file in entry["files"]]
    todo = [source for source in sources if lacks(folder, source.gives)]
    if not todo and not official(entry, folder) and not images_missing(entry, folder):
        print(f"{name}: is already complete in '{folder}'")
        return True
    if todo and "note" in entry and not mirror:
        print(f"{name}: {entry['note']}")
    problems = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder.with_name(f".{folder.name}.lock")) as alone:
            if not alone:
                raise UserError(f"another download is running in '{folder}': wait for it")
            problems = attempt(todo, folder, mirror, "copy" in entry and not mirror)
            if problems and "copy" in entry and not mirror:
                print(f"{name}: {'; '.join(problems)}; next, a copy of the whole data set")
                rest = [path for source in sources for path in source.gives]
                rest = [path for path in rest if lacks(folder, [path])]
                copy = Source(COPY, (entry["copy"],), holds=dict(zip(rest, rest, strict=True)))
                problems = attempt([copy], folder, None)
            if archives := official(entry, folder):
                if mirror:
                    lacking = [archive for archive in archives if lacks(folder, archive.gives)]
                    problems += attempt(lacking, folder, mirror)
                problems += imagenet.arrange(folder)
    except (UserError, OSError) as error:
        problems.append(str(by_system(error) or error))
    if absent := [
        archive.name for archive in official(entry, folder) if lacks(folder, archive.gives)
    ]:
        problems.append(entry["by_hand"].format(archives=", ".join(absent), folder=folder))
    problems += images_missing(entry, folder)
    for problem in problems:
        print(f"{name}: {problem}", file=sys.stderr)
    if not problems:
        for part in parts(folder / COPY):  # not needed: the files came from elsewhere
            part.unlink()
        print(f"{name}: is complete in '{folder}'")
    return not problems


def official(entry: dict, folder: Path) -> list[Source]:
    """Return the archives of ImageNet that missing images need; none for other data sets."""
    archives = imagenet.lacking_archives(folder) if "by_hand" in entry else {}
    return [Source(name, md5=md5) for name, md5 in archives.items()]


def images_missing(entry: dict, folder: Path) -> list[str]:
    """Return a sentence on where to get the images that are the user's to get, if they lack."""
    images = folder / folder.name
    if "images" not in entry or images.is_dir():
        return []
    return [
        f"the images are yours to get: {folder.name}.zip of {IMAGES} has them in the split file's "
        f"folders, and {entry['images']} has their licence; put the folders of the classes into "
        f"'{images}'"
    ]


def attempt(
    sources: list[Source], folder: Path, mirror: str | None, copied: bool = False
) -> list[str]:
    """Install files, the small ones first.

    After a failure, if a copy of the whole data set exists (`copied`), archives that are not there
    yet are skipped: the copy has them, too. `mirror` is an address that has all files, or None.

    Returns:
        A sentence for each file that is unavailable.
    """
    problems: list[str] = []
    for source in sorted(sources, key=lambda source: bool(source.holds)):
        if problems and copied and source.holds and not (folder / source.name).exists():
            continue
        try:
            install(source, folder, mirror)
        except (UserError, OSError) as error:
            problems.append(f"{source.name}: {by_system(error) or error}")
    return problems


def sizes(names: list[str], table: dict, root: Path, mirror: str | None) -> str:
    """List the missing files of each data set, with the sizes that their servers state."""
    lines = []
    for name in names:
        files = []
        folder = root / table[name]["folder"]
        sources = [Source(**file) for file in table[name]["files"]]
        sources += official(table[name], folder) if mirror else []
        for source in sources:
            if not lacks(folder, source.gives) or (folder / source.name).exists():
                continue
            first = addresses(source, mirror)[:1]
            size = stated_size(ask(first[0])) if first else None
            known = tqdm.format_sizeof(size, "B") if size else "size unknown"
            files.append(f"{source.name} ({known})")
        if files:
            lines.append(f"{name}: {', '.join(files)}\n")
    return "".join(lines)


def addresses(source: Source, mirror: str | None) -> list[str]:
    """Return the addresses of a file, without Google Drive."""
    return [f"{mirror.rstrip('/')}/{quote(source.name)}"] if mirror else list(source.urls)


def lacks(folder: Path, paths: list[str]) -> bool:
    """Return True if one of the paths is missing in the folder."""
    return not all((folder / path).exists() for path in paths)


def install(source: Source, folder: Path, mirror: str | None) -> None:
    """Download a file, unpack it if it is an archive, and put the content into the folder.

    An archive that already exists in the folder is used and kept: it may be the user's.
    """
    path = folder / source.name
    exists = path.exists()
    if not exists:
        download(source, path, mirror)
    if not source.holds:
        return
    if exists:
        try:
            source.check(path)
        except UserError as error:
            raise UserError(f"'{path}' is not the expected file, move it away: {error}") from None
    with unpack_archive(path, folder / ".unpacking", source.inside) as content:
        if source.tree:
            content = repositories.arrange(content, source.tree)
        if source.merges:
            merge(find(content, source.merges), folder, source.gives)
        missing = []
        for name, origin in source.holds.items():
            if not (folder / name).exists():
                try:
                    find(content, origin).rename(folder / name)
                except UserError as error:
                    missing.append(str(error))
    if missing:
        raise UserError("; ".join(missing))
    if exists:
        print(f"{source.name}: is unpacked; '{path}' is not needed any more")
    else:
        path.unlink()


def download(source: Source, path: Path, mirror: str | None) -> None:
    """Download a file from the first of its addresses that works, and check it."""
    ways: list[str] = addresses(source, mirror)
    ways += [DRIVE] * bool(source.drive and not mirror)
    reasons = []
    for where in ways:
        print(f"{source.name}: from {where}", flush=True)
        sha256 = ""
        try:
            if where == DRIVE:
                received = fetch_drive(source.drive, path)
            else:
                headers = ask(where)
                received = fetch(where, path, headers)
                sha256 = headers.get("X-Linked-ETag", "").strip('"')  # of Hugging Face
        except UserError as error:
            reasons.append(str(error))
            continue
        try:
            source.check(received)
            if re.fullmatch("[0-9a-f]{64}", sha256):
                check_sum(received, "sha256", sha256)
        except UserError as error:
            wrong = received.rename(path.with_name(path.name + ".wrong"))
            reasons.append(f"the file from {where} is kept as '{wrong}' because {error}")
            continue
        received.rename(path)
        for part in parts(path):
            part.unlink()
        return
    raise UserError(f"{'; '.join(reasons)}; rerun to resume, or put the file at '{path}' yourself")
