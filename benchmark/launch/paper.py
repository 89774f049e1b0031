"""From a bare GPU machine to the tables of the papers: data, proof, runs and report.

Each step is a command of this project, printed when it starts. Called again, it resumes.
"""

import argparse
import contextlib
import io
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recipe.configs import read_tree
from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import hold_lock

from ..cli import Parser, add_plugin, each, from_one, one_of, seed, words, write_output
from ..data.download import TABLE
from ..protocols import PROTOCOLS
from ..protocols.base import Run
from ..records import from_folder
from .arguments import build_parser, parse, split_words
from .checks import check_settings
from .command import plan_runs
from .engine import Settings
from .locks import is_held
from .needs import lacking
from .slurm import site
from .slurm.queue import ask

COMMAND = "$ python -m benchmark"
LOCK, PROOF = ".paper.lock", "zero_shot.txt"
MORE = ("few_shot", "transfer")
ENDED = "ended with code "

Call = Callable[[str, list[str]], int]  # a command and its arguments, to its exit code


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments of `paper`."""
    parser = Parser(
        prog="python -m benchmark paper",
        description=__doc__,
        usage="%(prog)s [DATASET ...] [options] [KEY VALUE ...]",
        parents=[site.build_parser()],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="DATASET ... KEY VALUE ...",
        help="data sets of base-to-new (default: ten; ImageNet comes last), then settings for "
        "train.py")  # fmt: skip
    add("--also", type=each(one_of(MORE)), default=(), metavar="PROTOCOLS",
        help=f"then {' and '.join(MORE)}, in one argument: few-shot on the same data sets, and "
        "transfer from ImageNet to ten others and to its variants")  # fmt: skip
    add("--anyway", action="store_true", help="continue without a GPU, and with data or zero-shot "
        "accuracies that are not as published")  # fmt: skip
    add("--estimate", action="store_true", help="only print how long the runs take on this "
        "machine, once the data are there")  # fmt: skip
    add("--dry-run", action="store_true", help="only print what is missing, and the steps")
    add("--trainers", type=words, help="methods, in one argument (default: the protocols')")
    add("--seeds", type=each(seed), default="1 2 3", help="seeds (default: '%(default)s')")
    add("--root", type=Path, default=Path("data"), metavar="DATA",
        help="folder of the data sets (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("output/paper"),
        help="output folder (default: %(default)s)")  # fmt: skip
    add("--config", help="the methods' config, as of the protocols")
    add_plugin(parser)
    add("--backbone", help="a CLIP by name or file (default: the config's)")
    add("--jobs", type=from_one, help="number of runs at once (default: one for each GPU)")
    args = parser.parse_intermixed_args(site.join_slurm_words(argv, parser))
    args.datasets, args.opts = split_words(args.words or ["ten"])
    args.datasets = args.datasets or split_words(["ten"])[0]
    args.root, args.output = args.root.expanduser().absolute(), args.output.absolute()
    return args


@dataclass
class Steps:
    """Does commands one by one; `call` runs one."""

    call: Call
    output: Path
    runs: list[Run] = field(default_factory=list)

    def do(self, *given: str) -> int:
        """Print a command, run it and return its exit code."""
        print(f"{COMMAND} {shlex.join(given)}", flush=True)
        return self.call(given[0], [*given[1:]])

    def run_command(self, *given: str) -> tuple[int, str]:
        """Return the exit code of a command, and what it printed."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = self.call(given[0], [*given[1:]])
        return code, out.getvalue()

    def proof(self, *given: str, anyway: bool) -> int:
        """Do the check of the data once: a later call takes what it has said.

        A check that failed is repeated, unless its result is accepted.
        """
        file, line = self.output / PROOF, f"{COMMAND} {shlex.join(given)}"
        before = (file.read_text("utf-8") if file.is_file() else "").splitlines() or [""]
        if before[0] == line and before[-1] in [f"{ENDED}0", f"{ENDED}1"][: 1 + anyway]:
            print("\n".join([f"{line}  # done: '{file}'", *before[1:-1]]))
            return int(before[-1].removeprefix(ENDED))
        import torch

        print(line, flush=True)
        code, text = self.run_command(*given)
        torch.cuda.empty_cache()  # the runs need it; nothing happens without a GPU
        print(text, end="")
        write_output(file, f"{line}\n{text}{ENDED}{code}\n")
        return code


def main(argv: list[str], call: Call) -> int:
    """Run `python -m benchmark paper`; `call` runs another command.

    Raises:
        UserError: something is missing or not as published, or another process works in the
            output.
    """
    args = arguments(argv)
    asked = [*protocols(args)]
    runs: dict[Path, Run] = {}
    settings = Settings()
    only = [
        f"--{name}" for name in ("estimate", "dry-run") if getattr(args, name.replace("-", "_"))
    ]
    for words_ in asked:
        protocol = PROTOCOLS[words_[0]]
        parsed = parse(build_parser(protocol), [*only, *words_[1:]])
        of_protocol, settings = plan_runs(protocol, parsed)
        check_settings(of_protocol, settings)
        runs |= {run.folder: run for run in of_protocol}
    steps = Steps(call, args.output, [*runs.values()])
    print(outline(args, len(runs)))
    if args.slurm is None:
        check_alone(steps)
    else:
        site.read_site(args.slurm)
    if args.estimate:
        return max([steps.do(*line, "--estimate") for line in asked])
    for lack in lacking(steps.runs, settings):
        print(f"missing for {lack}")
    if args.dry_run:
        for line in (*data_steps(args, steps), *asked, *last_steps(args)):
            print(f"{COMMAND} {shlex.join(line)}")
        return 0
    if args.slurm is None:
        check_gpu(len(steps.runs), args.anyway)
    else:
        ask("scontrol", "show", "config")
    args.output.mkdir(parents=True, exist_ok=True)
    with hold_lock(args.output / LOCK) as alone:
        if not alone:
            raise UserError(busy(args.output, "`paper`"), exit_code=1)
        return do_all(args, steps, asked)


def protocols(args: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the command of each protocol, with its arguments."""
    shared = ["--root", str(args.root), "--output", str(args.output)]
    shared += ["--seeds", " ".join(map(str, args.seeds))]
    shared += ["--trainers", " ".join(args.trainers)] if args.trainers else []
    for name in ("config", "backbone", "jobs"):
        if value := getattr(args, name):
            shared += [f"--{name}", str(value)]
    for plugin in args.plugin:
        shared += ["--plugin", plugin]
    if args.slurm is not None:
        shared += [f"--slurm={args.slurm}", "--per-job", str(args.per_job), *["--wait"] * args.wait]
    large = [name for name in args.datasets if name == "imagenet"]
    for datasets in filter(None, ([n for n in args.datasets if n not in large], large)):
        yield ["base2new", *datasets, *shared, *args.opts]
    if "few_shot" in args.also:
        yield ["few_shot", *args.datasets, *shared, *args.opts]
    if "transfer" in args.also:
        for name in ("cross_dataset", "domain_generalization"):
            yield [name, *shared, *args.opts]


def data_steps(args: argparse.Namespace, steps: Steps) -> list[list[str]]:
    """Return the commands that get and check the public data sets of the runs."""
    named = dict.fromkeys(name for run in steps.runs for name in (run.source, run.dataset))
    sets = [name for name in read_tree(TABLE) if name in named]
    where = ["--root", str(args.root)]
    check = ["check-data", *sets, *where]
    if args.slurm is None or gpu_is_there():
        check += zero_shot(args)
    return [["download", *sets, *where], check] if sets else []


def zero_shot(args: argparse.Namespace) -> list[str]:
    """Return the words that make a check of the data one of zero-shot CLIP, too."""
    return ["--zero-shot", *(["--backbone", args.backbone] if args.backbone else [])]


def last_steps(args: argparse.Namespace) -> list[list[str]]:
    """Return the commands that make the reports."""
    report = ["report", str(args.output)]
    return [report, [*report, "--format", "html"]]


def check_alone(steps: Steps) -> None:
    """Raise UserError if a run in the output is being done."""
    on_disk = [run for protocol in PROTOCOLS.values() for run in protocol.on_disk(steps.output)]
    for run in on_disk:
        if is_held(run):
            raise UserError(busy(steps.output, str(run)), exit_code=1)


def busy(output: Path, what: str) -> str:
    """Return a sentence on another process in the output."""
    return f"{what} of another process works in '{output}': wait for it, or give another --output"


def outline(args: argparse.Namespace, number: int) -> str:
    """Return what the command does, and where disk, hours and a login node are explained."""
    place = next(folder for folder in (args.root, *args.root.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    return (
        f"{number:,} runs, into '{args.output}'. Data that are missing are downloaded first, into "
        f"'{args.root}', and CLIP's weights.\n"
        f"Disk: {free:,.0f} GB are free there; sizes are printed before the first download.\n"
        "Hours: --estimate times this machine, once the data are there.\n"
        "On a login node: --slurm OPTIONS (or SLURM=OPTIONS) downloads here and submits the runs."
    )


def gpu_is_there() -> bool:
    """Return True if PyTorch can use a GPU of this machine."""
    import torch

    return torch.cuda.is_available()


def check_gpu(number: int, anyway: bool) -> None:
    """Raise UserError without a GPU, unless that is accepted."""
    if not (gpu_is_there() or anyway):
        raise UserError(
            f"PyTorch finds no GPU, and {number:,} runs may take weeks on a CPU: use a machine "
            "with one, submit them with --slurm, or continue with --anyway"
        )


def do_all(args: argparse.Namespace, steps: Steps, asked: list[list[str]]) -> int:
    """Do all steps, and return the exit code: 1 if a run has failed.

    Raises:
        UserError: data are missing or not as published.
    """
    of_data = data_steps(args, steps)
    if of_data and steps.do(*of_data[0]):
        raise UserError(
            "not all data sets are complete (see above): rerun to resume, or name those to do",
            exit_code=1,
        )
    if of_data and "--zero-shot" not in of_data[1]:
        print(
            "without a GPU here, zero-shot CLIP is not compared with the published numbers; on a "
            f"node, call `{COMMAND[2:]} {shlex.join([*of_data[1], *zero_shot(args)])}`",
            file=sys.stderr,
        )
    if of_data and steps.proof(*of_data[1], anyway=args.anyway) and not args.anyway:
        raise UserError(
            "data or zero-shot accuracies are not as published (see above): mend that, or continue "
            "with --anyway",
            exit_code=1,
        )
    if args.slurm is None:
        for line in asked:
            steps.do(*line, "--estimate")
    code = max([steps.do(*line) for line in asked])
    left = sum(from_folder(run).problem is not None for run in steps.runs)
    if left and args.slurm is not None and not args.wait:
        print(
            f"{left:,} of {len(steps.runs):,} runs are not done: rerun when their jobs have ended, "
            "which submits the others, or makes the reports",
            file=sys.stderr,
        )
        return code
    for line, name in zip(last_steps(args), ("report.txt", "report.html"), strict=False):
        print(f"{COMMAND} {shlex.join(line)} > {shlex.quote(str(args.output / name))}", flush=True)
        write_output(args.output / name, steps.run_command(*line)[1])
    if code:
        print("some runs have failed: rerun to repeat them", file=sys.stderr)
    return code
