"""Classify images with a trained run: print the likeliest classes and their probabilities."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import UserError, need, printable
from ...images.class_folders import is_image, is_other_image
from ...images.image_files import read_ahead
from ...images.tables import SPLIT
from ...images.transparency import transparency_note
from .arguments import Parser, add_device, files_below, from_one
from .load import load_run, run_parser

# A file, and its classes with probabilities, its `Answer`, or tags and scores.
Answered = tuple[str, Any]
THREADS = min(16, os.cpu_count() or 4)  # that decode images


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    parser = run_parser(prog, "Print the likeliest classes of images, and their probabilities.")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE",
        help="files, folders, or - for a list of these on standard input")  # fmt: skip
    add("--classnames", type=Path, metavar="FILE",
        help="other classes than those of the run, one name a line")  # fmt: skip
    of_one = parser.add_mutually_exclusive_group()
    of_one.add_argument("--top", type=from_one, help="classes of each image (default: 5)")
    of_one.add_argument("--error", type=float, metavar="SHARE",
        help="name several classes or none, so that about this share of images, such as 0.05, "
        "lack their class, if they come as the labels did")  # fmt: skip
    add("--sure", action="store_true",
        help="those tags of which `advise` promises how many are right")  # fmt: skip
    add("--format", choices=["text", "csv", "json"], default="text", help="(default: %(default)s)")
    add_device(parser)
    return parser


def main(argv: list[str], prog: str) -> int:
    """Run the command; its exit code is 1 if some images or folders could not be read."""
    args = build_parser(prog).parse_args(argv)
    names = read_names(args.classnames) if args.classnames else None
    sets = args.error is not None
    from ...record.calibration import check_error
    from ...record.thresholds import EVEN

    error = check_error(args.error) if sets else 0.0
    shut: list[str] = []
    paths = list(find_files(args.images, shut.append))
    for folder in shut:
        print(f"skipped: {folder}", file=sys.stderr)
    if not paths:
        raise UserError(
            f"there are no images in {', '.join(args.images)}: give image files, or folders that "
            "hold some"
        )
    from ...capabilities.at_test_time import reset
    from ...running.devices import usable_device

    device = usable_device(args.device)
    run = load_run(args, names, several=True)
    run.model.to(device)
    print(f"{run.method} of '{run.path}', epoch {run.epoch}, on {device}", file=sys.stderr)
    if error and not run.several:
        print(run.find_calibration().promise(error), file=sys.stderr)
    failed: list[Path] = []
    reset(run.model)
    answers = partial(predict_files, run, paths, args.batch_size, failed=failed)
    if run.several:
        one = "is for one label an image, but this run gives several: leave it out"
        need(not (sets or args.top), f"--{'error' if sets else 'top'} {one}")
        run.find_thresholds(args.sure)
        if run.thresholds is None:
            print(f"No thresholds for these names: tags have {EVEN} or more", file=sys.stderr)
        found = answers(lambda paths, output: run.tags(output, args.sure, paths))
        head = ["path", "tags", *run.classnames]
        print_answers(args.format, head, found, partial(show_tags, run.classnames))
    else:
        need(not args.sure, "--sure is for runs on images with several labels: leave it out")
        if sets:
            found = answers(lambda paths, output: run.answers(output, error, paths))
            head = ["image", "answer", "classes", "p", "likeness"]
            print_answers(args.format, head, found, show_set)
        else:
            found = answers(partial(likeliest, run, args.top or 5))
            head = ["image", "rank", "class", "probability"]
            print_answers(args.format, head, found, show_classes)
    if note := transparency_note([*map(str, paths)]):
        print(note, file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(paths)} images could not be read", file=sys.stderr)
    return int(bool(failed or shut))


def read_names(path: Path) -> list[str]:
    """Return the class names in a file, one a line."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--classnames: '{path}' cannot be read as text ({error})") from None
    return [line.strip() for line in lines if line.strip()]


def find_files(words: Iterable[str], shut: Callable[[str], object]) -> Iterator[Path]:
    """Yield the files that paths, or `-` for those on stdin, name; of a folder, its images.

    `shut` is called with a sentence about each folder that cannot be read.
    """
    for word in words:
        listed = sys.stdin.read().splitlines() if word == "-" else [word]
        for name in filter(str.strip, listed):
            if os.path.isdir(name):
                for file in files_below(name, shut):
                    if is_image(file.name) or is_other_image(file.name):
                        yield file
            else:
                need(os.path.isfile(name), f"there is no image or folder '{name}': check the path")
                yield Path(name)


def predict_files(
    run, paths: list[Path], batch_size: int, answer: Callable, failed: list[Path]
) -> Iterator[Answered]:
    """Yield each readable image with what `answer` makes of it.

    `answer` takes paths and the output for them. The other images are added to `failed`, and named
    on stderr with the reason.
    """
    import torch
    from tqdm import tqdm

    from ...capabilities.transductive import Transductive

    together, waiting, seen = isinstance(run.model, Transductive), [], []
    if together:
        print(
            f"{run.method} classifies these {len(paths):,} images together, and few images cost "
            "accuracy",
            file=sys.stderr,
        )

    def prepare(path: Path):
        try:
            return run.preprocess(run.read(path))
        except UserError as error:
            return error

    bar = tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(THREADS) as pool, torch.no_grad():
        for batch, answers in read_ahead(pool, prepare, paths, batch_size):
            good, images = [], []
            for path, image in zip(batch, answers, strict=True):
                if isinstance(image, UserError):
                    failed.append(path)
                    tqdm.write(printable(f"skipped: {image}"), file=sys.stderr)
                else:
                    good.append(path)
                    images.append(image)
            if good:
                given = send(torch.utils.data.default_collate(images), run.model.device)
                if together:
                    waiting += good
                    seen.append(run.model.see(given))
                else:
                    output = run.model.predict(given)
                    yield from zip(map(str, good), answer(good, output), strict=True)
            bar.update(len(batch))
        if waiting:
            output = run.model.transduce(seen)
            yield from zip(map(str, waiting), answer(waiting, output), strict=True)


def likeliest(run, top: int, images: Sequence[Any], output) -> list[list[tuple[str, float]]]:
    """Return the `top` classes of images, best first, and their probabilities."""
    p = run.probabilities(output, images)
    best = p.topk(min(top, p.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[(run.classnames[k], x) for k, x in zip(*both, strict=True)] for both in pairs]


def send(images, device):
    """Return images (B, 3, H, W), or a list of views of this shape, on a device."""
    if isinstance(images, list):
        return [send(view, device) for view in images]
    return (images.pin_memory() if device.type == "cuda" else images).to(device, non_blocking=True)


# ---------------------------------------------------------------------- how it is printed

# What is shown of the answer to an image: its text, rows of cells, and the members of an object.
Shown = tuple[str, list[list[Any]], dict[str, Any]]


def show_classes(pairs: Sequence[tuple[str, float]]) -> Shown:
    """Return what is shown of classes and their probabilities."""
    text = ", ".join(f"{name} {100 * p:.1f}%" for name, p in pairs)
    rows = [[i, name, f"{p:.6g}"] for i, (name, p) in enumerate(pairs, 1)]
    return text, rows, {"classes": [{"class": name, "probability": p} for name, p in pairs]}


def show_set(answer: Any) -> Shown:
    """Return what is shown of an answer with an error."""
    text, _, said = show_classes([*zip(answer.classes, answer.p, strict=True)])
    if len(answer.classes) != 1:
        text = f"{answer.answer}: {text}".rstrip(": ")
    likeness = ""
    if answer.likeness is not None:
        text += f" (likeness {answer.likeness:.2f})"
        likeness = f"{answer.likeness:.6g}"
    p = "; ".join(f"{p:.6g}" for p in answer.p)
    row = [answer.answer, "; ".join(answer.classes), p, likeness]
    return text, [row], {"answer": answer.answer, **said, "likeness": answer.likeness}


def show_tags(names: Sequence[str], found: tuple[list[str], list[float]]) -> Shown:
    """Return what is shown of tags and the scores of all names; no tag is an answer."""
    tags, scores = found
    row = [SPLIT.join(tags), *(f"{x:.6g}" for x in scores)]
    said = {"tags": tags, "scores": dict(zip(names, scores, strict=True))}
    return ", ".join(tags) or "-", [row], said


def print_answers(
    form: str, head: Sequence[str], answers: Iterable[Answered], show: Callable[[Any], Shown]
) -> None:
    """Print answers as they come, so that an interrupted command has printed what it found."""
    writer, start = csv.writer(sys.stdout, lineterminator="\n"), "\n"
    if form == "csv":
        writer.writerow(map(printable, head))
    elif form == "json":
        print("[", end="")
    try:
        for file, answer in answers:
            text, rows, said = show(answer)
            if form == "csv":
                writer.writerows(map(printable, (file, *row)) for row in rows)
                sys.stdout.flush()
            elif form == "json":
                print(start + json.dumps({"image": file, **said}), end="", flush=True)
                start = ",\n"
            else:
                print(printable(f"{file}: {text}"), flush=True)
    finally:
        if form == "json":  # an error still closes the list
            print("\n]", flush=True)
