"""Write the embedded emoji as a data set in the layout of CoOp's Caltech101, to try a checkout.

All checkouts of the CoOp family read it, and its sentences, `a photo of a {}.`, suit emoji.
"""

import json
import os
import shlex
import zipfile
from pathlib import Path

from ...embedded import IMAGES
from ...errors import need
from .arguments import Parser, write_output

FOLDER, OF_IMAGES, SPLIT = "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"
PARTS = ("train", "val", "test")
LICENCES = ("ATTRIBUTION.txt", "LICENSE-MIT.txt")


def main(argv: list[str], prog: str) -> None:
    """Run the command."""
    parser = Parser(prog=prog, description=__doc__.partition("\n")[0])
    parser.add_argument("root", metavar="ROOT", type=Path,
                        help=f"the folder of data sets, in which {FOLDER}/ is made")  # fmt: skip
    args = parser.parse_args(argv)
    images, classes = write_emoji(args.root)
    print(
        f"{images:,} emoji of {classes} classes are in '{args.root / FOLDER}'. Try a checkout:\n"
        f"    --root {shlex.quote(os.fspath(args.root))} \\\n"
        "    --dataset-config-file configs/datasets/caltech101.yaml \\\n"
        "    MODEL.BACKBONE.NAME emoji"
    )


def write_emoji(root: Path) -> tuple[int, int]:
    """Write the data set below a root, the split file last; return the numbers of images, classes.

    Raises:
        OSError: a file cannot be written.
    """
    folder = root / FOLDER
    need(
        not os.path.lexists(folder),
        f"'{folder}' exists, and emoji would mix with its files: give another ROOT, or remove it",
    )
    classes: dict[str, str] = {}  # name -> folder
    with zipfile.ZipFile(IMAGES) as archive:
        split = json.loads(archive.read("split_emoji.json"))
        for item in (item for part in PARTS for item in split[part]):
            path, _, name = item
            classes[name] = name.replace(" ", "_")
            item[0] = f"{classes[name]}/{Path(path).name}"
            write_output(folder / OF_IMAGES / item[0], archive.read(f"images/{path}"))
        for licence in LICENCES:
            write_output(folder / licence, archive.read(licence))
    write_output(folder / SPLIT, json.dumps(split))
    return sum(len(split[part]) for part in PARTS), len(classes)
