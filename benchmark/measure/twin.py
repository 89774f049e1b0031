"""Train published code, then our method from the same start on the same batches, and compare.

Both read made-up images and a CLIP with random weights, in float32 on the CPU. Adam is the
optimiser: after SGD a wrong weight decay could not be seen in the weights. With --prec fp16 both
compute in half precision, with the published optimiser and three seeds, and public code in float32,
too; there are no limits.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from recipe.configs import TRAINERS, read_keys
from trainers.prompting import load_clip
from trainers.prompting.capabilities.on_support import OnSupport
from trainers.prompting.capabilities.unlabelled import Unlabelled
from trainers.prompting.checkpoint.identity import leaves
from trainers.prompting.errors import UserError, check_name
from trainers.prompting.method import METHODS

from ..cli import Parser, from_one
from ..report.table import Cell, Table
from . import pets
from .geometry import reacting_clip
from .public import DASSL, check_checkout, environment, last_line
from .replay import CLEAR, LOSS, WEIGHT, Places, Record, cfg_of, compare_records, replay
from .speed import FORMATS, setting

PROGRAM = Path(__file__).with_name("public_training.py")
CONFIG = "base2new"  # the config file whose settings of the method are used
SHOTS, BATCH = 3, 4  # of 15 images, an epoch leaves three out
OPTIM = {
    "NAME": "adam", "LR": 0.03, "WEIGHT_DECAY": 5e-3, "ADAM_EPS": 1e-8, "LR_SCHEDULER": "cosine",
    "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-5,
}  # fmt: skip
HEAD = [
    "method", "steps", "loss", "learning rate", "weights", "moved", "base: public", "ours",
    "new: public", "ours", "other predictions",
]  # fmt: skip
CAPTION = [
    "Loss, learning rate and weights: the largest difference; moved: how far the weights went. "
    f"Limits: {LOSS:g} of a loss, {WEIGHT:g} of the way of the weights; predictions may differ "
    f"where the two best logits are within {CLEAR:g}."
]
SAME_CODE = (
    "Public code ran on dassl-lite, as ours did: schedule, warm-up and drop_last are the same code "
    "on both sides. Give --dassl a checkout of the original."
)


def pairs(trainer: str, size: int, args) -> list[str]:
    """Return the KEY VALUE pairs of a training, without its classes.

    Keys of `--set` that only another method of the command reads are left out.
    """
    places = {name: set(map(METHODS[name].place, METHODS[name].defaults)) for name in args.trainers}
    others = set().union(*places.values()) - places[trainer]
    changes = {key: value for key, value in args.set if key not in others}
    published = read_keys(TRAINERS / trainer / f"{CONFIG}.yaml").items()
    keys = {key: value for key, value in published if key.startswith(("TRAINER.", "INPUT."))}
    optim = {f"OPTIM.{key}": value for key, value in OPTIM.items()}
    keys |= {
        "SEED": 1, "USE_CUDA": False, "TEST.NO_TEST": True, "DATALOADER.NUM_WORKERS": 0,
        "DATASET.NAME": pets.NAME, "DATASET.NUM_SHOTS": SHOTS, "INPUT.SIZE": (size, size),
        "DATALOADER.TRAIN_X.BATCH_SIZE": BATCH, "OPTIM.MAX_EPOCH": args.epochs,
        METHODS[trainer].place("PREC"): "fp32", **optim, **changes,
    }  # fmt: skip
    return [str(word) for pair in keys.items() for word in pair]


def record_public(args, settings: list[str], trainer: str, places: Places, file: Path) -> Record:
    """Train public code in another process, and return its record, which is written to `file`."""
    keys = dict(leaves(cfg_of(trainer, settings, places)))
    request = {
        "checkout": str(args.checkout.resolve()), "weights": str(places.weights),
        "folder": str(places.output / "public"), "record": str(file.resolve()),
        "precision": keys[METHODS[trainer].place("PREC")], "threads": args.threads,
        "keys": keys, "facts": {"trainer": trainer, "settings": settings},
    }  # fmt: skip
    errors = places.output / "errors"
    with errors.open("w") as log:
        ended = subprocess.run(
            [sys.executable, PROGRAM], input=json.dumps(request), text=True, cwd=places.output,
            stdout=log, stderr=log, env=environment(args.dassl or DASSL),
        )  # fmt: skip
    if ended.returncode:
        raise UserError(f"{trainer} of '{args.checkout}' ended with: {last_line(errors)}")
    return Record.read(file)


def compare_method(args, trainer: str, places: Places, size: int) -> tuple[list[Cell], list[str]]:
    """Train a method on both sides; return a line of the table and what is wrong."""
    settings = pairs(trainer, size, args)
    print(f"{trainer}: public code", file=sys.stderr, flush=True)
    file = (args.keep or places.output) / f"{trainer.lower()}.safetensors"
    theirs = record_public(args, settings, trainer, places, file)
    print(f"{trainer}: ours", file=sys.stderr, flush=True)
    ours = replay(theirs, places)
    if why := ours.facts.get("why"):
        return [Cell(trainer)] + [Cell("-")] * (len(HEAD) - 1), [f"{trainer}: {why}"]
    gap = compare_records(theirs, ours)
    texts = [str(gap.steps), *(f"{x:.1e}" for x in gap[1:4]), f"{gap.moved:.2f}"]
    texts += [f"{side.facts[half]:.2f}" for half in ("base", "new") for side in (theirs, ours)]
    problems = [f"{trainer}: {problem}" for problem in gap.problems]
    return [Cell(text) for text in (trainer, *texts, str(gap.predictions))], problems


def openai_state(clip_model) -> dict[str, torch.Tensor]:
    """Return the state of a CLIP with the three numbers that files of OpenAI's release have."""
    numbers = {
        "input_resolution": clip_model.visual.input_resolution,
        "context_length": clip_model.context_length, "vocab_size": clip_model.vocab_size,
    }  # fmt: skip
    return clip_model.state_dict() | {key: torch.tensor(n) for key, n in numbers.items()}


def parse(argv: list[str]):
    """Parse and check the options."""
    parser = Parser(prog="python -m benchmark measure twin", description=__doc__)
    add = parser.add_argument
    add("checkout", type=Path, metavar="CHECKOUT", help="folder of published code, such as MaPLe's")
    add("--trainers", nargs="+", metavar="TRAINER", required=True, help="methods that it has")
    add("--epochs", type=from_one, default=3, help="of each training (default: 3)")
    add(
        "--dassl", type=Path, metavar="CHECKOUT",
        help="folder of the Dassl on which published code runs (default: dassl-lite)",
    )  # fmt: skip
    add(
        "--backbone", default="",
        help="a CLIP of OpenAI's architecture (default: random weights, 512 wide for text and 768 "
        "for images, the constants of published codes)",
    )  # fmt: skip
    add(
        "--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE",
        help="keys of both sides, as TRAINER.PROMPTSRC.GPA_MEAN=2",
    )  # fmt: skip
    add("--threads", type=from_one, default=2, help="CPU threads (default: 2)")
    add("--format", choices=FORMATS, default="text", help="format of the table (default: text)")
    add("--keep", type=Path, metavar="FOLDER", help="keep the records of published code here")
    args = parser.parse_args(argv)
    check_checkout(args.checkout, "CHECKOUT")
    if args.dassl and not (args.dassl / "dassl" / "engine").is_dir():
        raise UserError(f"--dassl '{args.dassl}' has no dassl/engine: give a checkout of Dassl")
    for trainer in args.trainers:
        check_name("trainer", trainer, METHODS)
        kind = METHODS[trainer]
        if not kind.trains or kind.views > 1 or issubclass(kind, Unlabelled | OnSupport):
            raise UserError(
                f"{trainer} does not train on one view of labelled images alone: leave it out"
            )
    return args


def main(argv: list[str]) -> int:
    """Run `python -m benchmark measure twin`; return 1 if a method differs, else 0."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    clip_model = load_clip(args.backbone) if args.backbone else reacting_clip()
    size = clip_model.visual.input_resolution
    table = Table("Whole trainings of published code and ours", HEAD, [], list(CAPTION))
    sentences: list[str] = []
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(openai_state(clip_model), folder / "clip.pt")
        pets.write_pets(folder, size)
        for trainer in args.trainers:
            places = Places(folder, folder / "clip.pt", folder / trainer)
            places.output.mkdir()
            line, problems = compare_method(args, trainer, places, size)
            table.lines.append(line)
            sentences += problems
    table.caption += sentences if args.dassl else [SAME_CODE, *sentences]
    print(FORMATS[args.format](table))
    return int(bool(sentences))
