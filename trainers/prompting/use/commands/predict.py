"""Classify images with a trained run: print the likeliest classes and their probabilities."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import UserError, need, printable
from ...images.class_folders import is_image, is_other_image
from ...images.image_files import read_ahead, read_single
from ...images.transparency import transparency_note
from .arguments import Parser, add_device, files_below, from_one
from .load import load_run, run_parser
from .tags import print_list, print_tags, tags_of

# A file, and its classes with probabilities or, with --error, its `Answer`.
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
    add("--top", type=from_one, help="classes of each image (default: 5)")
    add("--error", type=float, metavar="SHARE",
        help="name several classes or none, so that about this share of images, such as 0.05, "
        "lack their class, if they come as the labels did")  # fmt: skip
    add("--sure", action="store_true",
        help="those tags of which `advise` promises how many are right")  # fmt: skip
    add("--format", choices=list(WRITERS), default="text", help="(default: %(default)s)")
    add_device(parser)
    return parser


def main(argv: list[str], prog: str) -> int:
    """Run the command; its exit code is 1 if some images or folders could not be read."""
    args = build_parser(prog).parse_args(argv)
    names = read_names(args.classnames) if args.classnames else None
    sets = args.error is not None
    need(not (sets and args.top), "--top lists classes by probability: leave it or --error out")
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
    found = partial(predict_files, run, paths, args.batch_size, failed=failed)
    if run.several:
        one = "is for one label an image, but this run gives several: leave it out"
        need(not (sets or args.top), f"--{'error' if sets else 'top'} {one}")
        run.find_thresholds(args.sure)
        if run.thresholds is None:
            print(f"No thresholds for these names: tags have {EVEN} or more", file=sys.stderr)
        print_tags(args.format, found(partial(tags_of, run, args.sure)), run.classnames)
    else:
        need(not args.sure, "--sure is for runs on images with several labels: leave it out")
        answer = partial(sets_of, run, error) if sets else partial(likeliest, run, args.top or 5)
        WRITERS[args.format](found(answer), sets)
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
    for word in list_words(words):
        if os.path.isdir(word):
            for file in files_below(word, shut):
                if is_image(file.name) or is_other_image(file.name):
                    yield file
        else:
            need(os.path.isfile(word), f"there is no image or folder '{word}': check the path")
            yield Path(word)


def list_words(words: Iterable[str]) -> Iterator[str]:
    """Yield the arguments, with the lines of standard input in place of `-`."""
    for word in words:
        if word != "-":
            yield word
            continue
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        yield from (line for line in lines if line.strip())


def predict_files(
    run, paths: list[Path], batch_size: int, answer: Callable, failed: list[Path]
) -> Iterator[Answered]:
    """Yield each readable image with what `answer` makes of the output for the images of a batch.

    The others are added to `failed`, and named on stderr with the reason.
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
            return run.preprocess(read_single(str(path)))
        except UserError as error:
            return error

    bar = tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(THREADS) as pool, torch.no_grad():
        for batch, answers in read_ahead(pool, prepare, paths, batch_size):
            good, images = [], []
            for path, image in zip(batch, answers, strict=True):
                if isinstance(image, UserError):
                    failed.append(path)
                    tqdm.write(printable(f"skipped: '{path}': {image}"), file=sys.stderr)
                else:
                    good.append(path)
                    images.append(image)
            if good:
                given = send(torch.utils.data.default_collate(images), run.model.device)
                if together:
                    waiting += good
                    seen.append(run.model.see(given))
                else:
                    yield from answer(good, run.model.predict(given))
            bar.update(len(batch))
        if waiting:
            yield from answer(waiting, run.model.transduce(seen))


def sets_of(run, error: float, paths: list[Path], output) -> Iterator[Answered]:
    """Yield images with their `Answer`, from the output for them."""
    yield from zip(map(str, paths), run.answers(output, error, paths), strict=True)


def likeliest(run, top: int, paths: list[Path], output) -> Iterator[Answered]:
    """Yield images with their `top` classes, best first, from the output for them."""
    p = run.probabilities(output, paths)
    best = p.topk(min(top, p.shape[1]))
    for path, labels, values in zip(paths, best.indices, best.values, strict=True):
        classes = [run.classnames[k] for k in labels.tolist()]
        yield str(path), list(zip(classes, values.tolist(), strict=True))


def send(images, device):
    """Return images (B, 3, H, W), or a list of views of this shape, on a device."""
    if isinstance(images, list):
        return [send(view, device) for view in images]
    return (images.pin_memory() if device.type == "cuda" else images).to(device, non_blocking=True)


# ---------------------------------------------------------------------- how it is printed

# Each prints answers as they come, so that an interrupted command has printed what it found.


def as_text(answers: Iterable[Answered], sets: bool) -> None:
    """Print one line an image."""
    for file, answer in answers:
        pairs = zip(answer.classes, answer.p, strict=True) if sets else answer
        text = ", ".join(f"{name} {100 * p:.1f}%" for name, p in pairs)
        if sets and len(answer.classes) != 1:
            text = f"{answer.answer}: {text}".rstrip(": ")
        if sets and answer.likeness is not None:
            text += f" (likeness {answer.likeness:.2f})"
        print(printable(f"{file}: {text}"), flush=True)


def as_csv(answers: Iterable[Answered], sets: bool) -> None:
    """Print one line an image and class, or an image."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    head = ["answer", "classes", "p", "likeness"] if sets else ["rank", "class", "probability"]
    writer.writerow(["image", *head])
    for file, answer in answers:
        if sets:
            classes, p = "; ".join(answer.classes), "; ".join(f"{p:.6g}" for p in answer.p)
            likeness = "" if answer.likeness is None else f"{answer.likeness:.6g}"
            rows = [[printable(answer.answer), printable(classes), p, likeness]]
        else:
            rows = [[str(i), printable(name), f"{p:.6g}"] for i, (name, p) in enumerate(answer, 1)]
        writer.writerows([printable(file), *cells] for cells in rows)
        sys.stdout.flush()


def as_json(answers: Iterable[Answered], sets: bool) -> None:
    """Print a list of objects with the image and its classes."""

    def found(file: str, answer: Any) -> dict[str, Any]:
        pairs = zip(answer.classes, answer.p, strict=True) if sets else answer
        said = {"image": file, **({"answer": answer.answer} if sets else {})}
        said["classes"] = [{"class": name, "probability": p} for name, p in pairs]
        return said | ({"likeness": answer.likeness} if sets else {})

    print_list(found(*one) for one in answers)


WRITERS = {"text": as_text, "csv": as_csv, "json": as_json}
