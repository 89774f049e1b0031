"""Advise on a collection of images: which CLIP and method, how good, what to do next."""

import math
import os
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import UserError, need, printable
from ...images.tables import write_table
from ...storage.files import CALL, hold_lock, name_full_disk, remove_halves, write_whole
from .arguments import Parser, add_device, from_one

TABLE = "train.csv"  # a table of all labelled images, for a training
ANSWERS = "answers.csv"  # what was answered to each of them, out of fold
SHOWN = 5  # pairs of classes in the log
NO_CLIP = (
    'no CLIP is on this machine: `python -c "from {package} import load_clip; '
    "load_clip('ViT-B/16')\"` downloads one, or try `--backbones emoji`, which comes with this"
)
SHOTS = 16  # of ALIGN's training
TRAIN = (
    "Train prompts inside CLIP instead, with half of the labelled images; the others test whether "
    "that is better (in a checkout of the project)"
)


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog=prog, description=__doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER|FILE",
        help="class folders, or a table of path,label[,group] or path,labels[,group]")  # fmt: skip
    add("--output", type=Path, default=Path("output/advice"), help="(default: %(default)s)")
    add("--backbones", type=str.split, metavar="'A B'",
        help="CLIPs to compare (default: those on this machine, the largest first)")  # fmt: skip
    add("--budget", type=from_one, default=30, metavar="MINUTES",
        help="of encoding, unless --backbones names CLIPs (default: %(default)s)")  # fmt: skip
    add("--keep-test", action="store_true", help="leave the images in test/ out")
    add("--classes-at", type=int, choices=[1, 2], default=0, metavar="LEVEL",
        help="1 if the folders in FOLDER are the classes, 2 if those in them are")  # fmt: skip
    add_device(parser)
    return parser


def main(argv: list[str], prog: str) -> int:
    """Run the command; its exit code is 1 if images were left out."""
    args = build_parser(prog).parse_args(argv)
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        need(find_spec(module), f"advise needs {package}: run `pip install {package}`")
    from ...backbones.cached import cached_clips
    from ...dassl_parts import dassl_utils

    need(
        args.source.resolve() not in (args.output.resolve(), *args.output.resolve().parents),
        f"--output '{args.output}' is in '{args.source}', where it would be a class: give another",
    )
    args.clips = args.backbones or [*cached_clips()]
    need(args.clips, NO_CLIP.format(package=__package__.rpartition(".use.")[0]))
    args.output.mkdir(parents=True, exist_ok=True)
    need(
        {*os.listdir(args.output)} <= {".lock"} or (args.output / CALL).exists(),
        f"'{args.output}' is not an output of advise, whose {CALL} it lacks: give another --output",
    )
    streams = sys.stdout, sys.stderr
    with hold_lock(args.output / ".lock") as free, name_full_disk(args.output):
        need(free, f"'{args.output}' is being written by another call: wait, or give --output")
        write_whole(args.output / CALL, "{}")
        remove_halves(args.output)
        dassl_utils().setup_logger(str(args.output))
        try:
            return advise(args, prog)
        finally:
            sys.stdout, sys.stderr = streams


def advise(args: Any, prog: str) -> int:
    """Give the advice, and return the exit code."""
    from ...advice import choice, images, labels, statement
    from ...advice.next_steps import next_steps
    from ...advice.page import candidates, page_of
    from ...advice.save import save_run
    from ...images.class_folders import LOOSE

    begun = time.monotonic()
    source = args.source.absolute()
    collection = images.read_collection(source, args.keep_test, args.classes_at)
    encoded, collection, left_out = encode_all(args, collection)
    print(f"{len(collection.paths):,} images of {len(collection.classnames):,} classes")
    files = collection.names
    if copies := collection.copies():
        collection.left_out += [(files[j], f"it is a copy of {files[i]}") for i, j in copies]
        apart = collection.contradictions()
        such = f", such as '{apart[0][0]}' and '{apart[0][1]}'" if apart else ""
        what = "have other labels than a copy" if collection.several else "are in two classes"
        several = f"{len(apart):,} images {what}{such}"
        print(printable(f"{len(copies):,} are copies, which count once; {several}"))
    for name, why in collection.left_out:
        if why != LOOSE:  # a phone has thousands; a note has counted them
            print(printable(f"  {name}: {why}"))
    if collection.several:
        from .advise_tags import advise_tags

        advise_tags(args, prog, encoded, collection, args.output / ANSWERS, begun)
        return int(left_out)
    spaces = [one.space(collection) for one in encoded]
    apart, every = collection.folds_apart(), collection.classnames
    compared, kept = choice.choose_classes(spaces, collection.labels, apart)
    collection = collection.of_classes(kept)
    best = compared.best
    space = replace(spaces[best.number], text=spaces[best.number].text[kept])
    curve = statement.accuracy_curve(space, compared)
    unanswered = [name for name in every if name not in collection.classnames]
    said = statement.Statement(compared, curve, unanswered)
    least = labels.least_likely(compared)
    pairs = [] if said.silent else labels.confusions(compared)
    calibration, seconds = labels.calibration(compared, space), time.monotonic() - begun
    save_run(args.output, collection, compared, space, calibration, said.silent, seconds)
    write_answers(args.output, collection, compared, least)
    print("\nRight on images that they had not seen, and zero-shot CLIP:")
    for name, right, low, zero_shot in candidates(said):
        bound = f" (at least {low}%)" * (low != "-")
        seen = "" if said.silent else f"{right}%{bound}, "
        print(f"  {name}: {seen}zero-shot {zero_shot}%")
    if pairs:
        print("\nTaken for each other most often:")
    names = collection.classnames
    for own, other, rows in pairs[:SHOWN]:
        such = files[rows[0]]
        print(printable(f"  {names[own]} for {names[other]}: {len(rows)}, such as '{such}'"))
    commands = align_command(args, collection, compared, encoded[best.number])
    predict = [*prog.split()[:-1], "predict", "--model-dir", str(args.output)]
    commands["Classify images"] = f"{shlex.join(predict)} IMAGE ..."
    steps = next_steps(said, collection.classnames)
    shown = page_of(collection, said, pairs, least, commands, steps)
    write_whole(args.output / "advice.html", shown)
    print(f"\nWith pictures: '{args.output / 'advice.html'}'")
    print(f"All labels, the least likely first: '{args.output / ANSWERS}'")
    print("\n" + "\n".join(said.sentences()))
    for title, command in commands.items():
        print(f"{title}: `{command}`")
    return int(left_out)


def encode_all(args: Any, collection: Any) -> tuple[list[Any], Any, bool]:
    """Encode the images with each CLIP that fits the budget; name those that are left out.

    Returns:
        What the CLIPs give, the images that can be read, and whether some cannot.
    """
    from ...advice.encode import encode
    from ...running.devices import usable_device

    device = usable_device(args.device)
    print(f"CLIPs: {', '.join(args.clips)}")
    end = time.monotonic() + (math.inf if args.backbones else 60 * args.budget)
    encoded, refused = [], []
    for name in dict.fromkeys(args.clips):
        most = end - time.monotonic()
        try:
            one = encode(name, collection, args.output / "features", device, args.batch_size, most)
            encoded.append(one)
        except UserError as error:
            refused.append(f"{name}: {error}")
            print(f"Left out: {printable(refused[-1])}")
    need(encoded, f"no CLIP is left: {'; '.join(refused)}")
    bad = {"": "it cannot be opened"}
    for one in encoded:
        bad |= one.unread
    both = [*zip(collection.names, collection.digests, strict=True)]
    rows = [i for i, (_, digest) in enumerate(both) if digest not in bad]
    if gone := len(both) - len(rows):
        print(f"Left out: {gone:,} of {len(both):,} images, which cannot be read")
        collection.left_out.extend((name, bad[digest]) for name, digest in both if digest in bad)
    need(rows, f"no image of '{args.source}' can be read")
    kept = collection.keep(rows)
    if collection.several:
        return encoded, kept, bool(gone)
    for k in {*collection.labels.tolist()} - {*kept.labels.tolist()}:
        print(printable(f"'{kept.classnames[k]}' has no other image, and so no label"))
    return encoded, kept, bool(gone)


def write_answers(output: Path, collection: Any, compared: Any, order: Iterable[int]) -> None:
    """Write labels, answers and probabilities of the labelled images, in this order."""
    names, files, p = collection.classnames, collection.names, compared.probabilities
    rows = []
    for i in order:
        own, answer = compared.labels[i], p[i].argmax()
        cells = (f"{x:.3g}" for x in (p[i, own], *p[i]))
        rows.append([files[compared.rows[i]], names[own], names[answer], *cells])
    write_table(output / ANSWERS, ("path", "label", "answer", "probability", *names), rows)


def align_command(args: Any, collection: Any, compared: Any, encoded: Any) -> dict[str, str]:
    """Return the command that trains prompts, by its title; none where no image can test them.

    It reads a table of the labelled images, written here, whose groups hold copies together: a
    training refuses a test on them.
    """
    import numpy as np

    from ...backbones import absolute

    if compared.counts.max() < 2:
        return {}
    table, group = args.output.absolute() / TABLE, collection.folds_apart()
    size, names = np.bincount(group), collection.classnames
    rows = []
    for row, label in zip(compared.rows, compared.labels, strict=True):
        shared = f"copies {group[row]}" if size[group[row]] > 1 else ""
        path = os.path.relpath(collection.paths[row], table.parent)
        rows.append((path, names[label], shared))
    write_table(table, ("path", "label", "group"), rows)
    words = ["python", "train.py", "--root", str(table), "--backbone", absolute(encoded.name)]
    words += ["--seed", "1", "--trainer", "ALIGN", "--output-dir", "output/align"]
    words += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    words += ["--config-file", "configs/trainers/ALIGN/few_shot_8_16.yaml"]
    words += ["DATASET.NUM_SHOTS", str(SHOTS)]
    return {TRAIN: shlex.join(words)}
