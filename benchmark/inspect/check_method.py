"""Check that a method keeps to what runs, checkpoints and evaluations need, on the embedded CLIP.

It is trained for some steps with its emoji settings. A line each says what holds, or what to do.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from recipe.configs import read_keys, read_pairs
from trainers.prompting.record.hashes import from_anywhere

from ..cli import Parser, add_plugin
from ..protocols.configs import CONFIGS, RULES, TrainerConfigs
from .processes import Trainings


def short_run(
    file: Path, name: str, folder: str, pairs: Mapping[str, str], plugins: Sequence[str] = ()
) -> Any:
    """Return the short training (`conformance.short.ShortRun`) of a method by a config file."""
    from recipe.settings import build_cfg
    from trainers.prompting.conformance.short import ShortRun, short_keys, shorten

    own = short_keys(name) | {"TRAINER.NAME": name, "SEED": 1, "DATASET.NAME": "Emoji"}
    sources = (f"'{file}'", read_keys(file)), ("check-method", own), ("the command line", pairs)
    return ShortRun(shorten(build_cfg(sources, plugins), folder))


def main(argv: list[str]) -> int:
    """Run `python -m benchmark check-method`; return 1 if something is wrong."""
    from trainers.prompting.conformance.checks import CHECKS, lines
    from trainers.prompting.conformance.short import STEPS, short_keys
    from trainers.prompting.plugins import load_plugins

    parser = Parser(prog="python -m benchmark check-method", description=__doc__)
    parser.add_argument("name", metavar="METHOD", help="the name of its class")
    add_plugin(parser)
    parser.add_argument(
        "--config-file", metavar="FILE.yaml", help="its settings (default: its file for emoji)"
    )
    parser.add_argument(
        "--quick", action="store_true",
        help="leave out what starts processes: a killed training that resumes, and half precision",
    )  # fmt: skip
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings that differ")
    args = parser.parse_intermixed_args(argv)
    file = TrainerConfigs(args.config_file, tuple(args.plugin)).find(RULES, args.name, "emoji", 1)
    pairs, wrong, runs = read_pairs(args.opts), 0, []
    load_plugins(args.plugin)

    def build() -> Any:
        runs.append(short_run(file, args.name, folder, pairs, args.plugin))
        return runs[0]

    def checks() -> Iterator[Callable]:
        if args.quick or not runs[0].trainer.num_trained:
            yield from CHECKS
            return
        words = ["--trainer", args.name, "--seed", "1", "--config-file", str(file.absolute())]
        words += ["--dataset-config-file", str(CONFIGS / "datasets" / "emoji.yaml")]
        words += [word for name in args.plugin for word in ("--plugin", from_anywhere(name))]
        words += [str(word) for pair in (short_keys(args.name) | pairs).items() for word in pair]
        place = runs[0].method.place("PREC")
        with closing(Trainings(words, Path(folder, "processes"), place, STEPS)) as trainings:
            yield from CHECKS
            yield trainings.check_resumed
            yield trainings.check_half

    with tempfile.TemporaryDirectory() as folder:
        for state, title, why in lines(build, checks()):
            wrong += state == "wrong"
            print(f"{state:6s} {title}{why and ': '}{why}", flush=True)
    return int(wrong > 0)
