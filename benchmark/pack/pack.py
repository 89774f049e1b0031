"""Pack the records and predictions of all complete runs of an output folder into one zip."""

import io
import json
import math
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

from recipe.predictions import NAME
from trainers.prompting import __version__
from trainers.prompting.errors import UserError, printable
from trainers.prompting.storage.files import read_file

from ..cli import Parser, write_output
from ..protocols import PROTOCOLS
from ..report.answers import arrays_of
from ..report.packs import FACTS, FORMAT, MANIFEST, Pack, described, images_hash, is_safe
from ..report.results import RESULTS, Outcome, from_folder

# A local path without its last name. It begins with `/`, `~`, `..`, a drive or a server, at the
# start of a text or after a separator.
PLACE = re.compile(
    r"(?<![^\s:=,;'\"(\[/\\])(?:~[^/\\\s]*|\.\.|[A-Za-z]:)?[/\\](?!\s)(?:.*[/\\])?", re.DOTALL
)


def build_parser() -> Parser:
    """Return the parser of `pack`."""
    parser = Parser(prog="python -m benchmark pack", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUTPUT", help="folder of the runs")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="zip to write")
    return parser


def main(argv: list[str]) -> int:
    """Run `python -m benchmark pack OUTPUT --output FILE`; return 1 if runs were left out."""
    args = build_parser().parse_args(argv)
    files, left_out = packed(args.folder)
    for folder, why in left_out.items():
        print(printable(f"left out: {folder}: {why}"), file=sys.stderr)
    content = as_zip(files)
    write_output(args.output, content)
    runs = len(Pack(args.output).runs)  # reads and checks the file
    print(f"{args.output}: {runs:,} runs, {len(content) / 1e6:.1f} MB")
    print(f"SHA-256 {described(content)['sha256']}")
    return 1 if left_out else 0


def packed(output: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files of a pack by name, and the reasons for left-out runs by folder name.

    Raises:
        UserError: there are no complete runs.
    """
    found = {run.folder: run for protocol in PROTOCOLS.values() for run in protocol.on_disk(output)}
    files: dict[str, bytes] = {}
    left_out, results = {}, []
    manifest: dict = {"format": FORMAT, "align": __version__, "runs": {}}
    for folder in sorted(found, key=Path.as_posix):
        name = folder.relative_to(output).as_posix()
        outcome = from_folder(found[folder])
        try:
            of_run, images = _of_run(outcome, name)
        except UserError as error:
            left_out[name] = str(error)
            continue
        results.append(outcome.result or {})
        entry = {key: results[-1].get(key) for key in FACTS} | {"test_images": images}
        entry["files"] = {file: described(content) for file, content in of_run.items()}
        manifest["runs"][name] = entry
        files |= {f"{name}/{file}": content for file, content in of_run.items()}
    if not files:
        more = f" ({len(left_out)} incomplete)" if left_out else ""
        raise UserError(f"'{output}' contains no complete runs with predictions{more}")
    manifest["commits"] = dict(sorted(Counter(r.get("git") or "" for r in results).items()))
    versions = {json.dumps(r.get("versions"), sort_keys=True) for r in results}
    manifest["versions"] = [json.loads(text) for text in sorted(versions)]
    return {MANIFEST: _json(manifest)} | files, left_out


def _of_run(outcome: Outcome, name: str) -> tuple[dict[str, bytes], str]:
    """Return the files of a run by name, and the hash of its test images.

    Raises:
        UserError: the run is not complete, or may not be packed.
    """
    if outcome.result is None:
        raise UserError(outcome.problem or "")
    if not is_safe(name):
        raise UserError("its folder name is not valid on every system: rename the folder")
    arrays = arrays_of(outcome)
    if outside := [image for image in arrays["image"].tolist() if without_place(image) != image]:
        raise UserError(f"its predictions contain a local path of an image: '{outside[0]}'")
    record = without_places(outcome.result)
    if "OUTPUT_DIR" in record.get("config", {}):
        record["config"]["OUTPUT_DIR"] = name
    predictions = read_file(outcome.run.folder / NAME)
    return {RESULTS: _json(record), NAME: predictions}, images_hash(arrays)


def without_places(value):
    """Return a record without local paths, see `without_place`."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return without_place(value) if isinstance(value, str) else value


def without_place(text: str) -> str:
    """Return a text in which a local path is reduced to its last name."""
    return PLACE.sub("", text.rstrip("/\\")) if PLACE.search(text) else text


def _json(value) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def as_zip(files: dict[str, bytes]) -> bytes:
    """Return a zip of these files; the same files give the same bytes.

    Raises:
        UserError: there are too many files, or they are too large.
    """
    stream = io.BytesIO()
    try:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)  # the date is always 1980
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system = 3  # Unix, on any system
                info.external_attr = 0o644 << 16
                archive.writestr(info, content, compresslevel=9)
    except zipfile.LargeZipFile:
        raise UserError(
            f"{len(files):,} files of {sum(map(len, files.values())) / 1e9:.1f} GB exceed the "
            "limits of a pack: pack protocols or data sets separately"
        ) from None
    return stream.getvalue()
