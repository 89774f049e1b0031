"""Check that a method keeps to what runs, checkpoints and evaluations need, on the embedded CLIP.

It is trained for some steps with its emoji settings. A line each says what holds, or what to do.
"""

import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from recipe.configs import read_keys, read_pairs

from ..cli import Parser, add_plugin
from ..protocols.configs import CONFIGS, RULES, TrainerConfigs
from .processes import Trainings

STEPS, BATCH = 6, 4
SHORT: dict[str, Any] = {
    "DATASET.NUM_SHOTS": 1,
    "DATASET.SUBSAMPLE_CLASSES": "base",
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.TRAIN_X.BATCH_SIZE": BATCH,
    "DATALOADER.TEST.BATCH_SIZE": BATCH,
    "OPTIM.STEPS": STEPS,
    "OPTIM.WARMUP_EPOCH": 0,
    "TEST.NO_TEST": True,
}
BY_EPOCH = {"OPTIM.STEPS": 0, "OPTIM.MAX_EPOCH": 2}  # at least as many steps


def short(name: str) -> dict[str, Any]:
    """Return the settings of a short training; a method that plans its steps counts epochs."""
    from trainers.prompting.capabilities.planned import Planned
    from trainers.prompting.method import METHODS, Method

    return SHORT | (BY_EPOCH if issubclass(METHODS.get(name, Method), Planned) else {})


def short_keys(file: Path, name: str, output: str, pairs: dict[str, str]) -> list[tuple[str, dict]]:
    """Return the settings of a short training, as `build_cfg` takes them."""
    of_run = {"TRAINER.NAME": name, "OUTPUT_DIR": output, "SEED": 1, "DATASET.NAME": "Emoji"}
    keys = short(name) | of_run
    return [(f"'{file}'", read_keys(file)), ("check-method", keys), ("the command line", pairs)]


def train_briefly(sources: list[tuple[str, dict]], plugins: list[str]) -> Any:
    """Build a method and train it for some steps; return the `Run`, or raise a UserError."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from recipe.settings import build_cfg
    from trainers.prompting.conformance.checks import Run

    printed, shown = io.StringIO(), []
    with redirect_stdout(printed):
        cfg = build_cfg(sources, plugins)
        cfg.freeze()
        set_random_seed(cfg.SEED)
        trainer = build_trainer(cfg)
        trainer.test = lambda: None  # of all images; without a training it is not left out
        step = trainer.forward_backward

        def step_and_keep(batch: Any) -> dict:
            shown.append(step(batch))
            return shown[-1]

        trainer.forward_backward = step_and_keep
        trainer.train()
        trainer.set_model_mode("eval")
    return Run(trainer, printed.getvalue(), [terms["loss"] for terms in shown])


# ------------------------------------------------------------------ the command


def main(argv: list[str]) -> int:
    """Run `python -m benchmark check-method`; return 1 if something is wrong."""
    from trainers.prompting.conformance.checks import lines
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
    pairs, wrong = read_pairs(args.opts), 0
    load_plugins(args.plugin)

    def processes(run: Any) -> Sequence[Callable]:
        if args.quick or not run.trainer.num_trained:
            return ()
        flags = ["--trainer", args.name, "--seed", "1", "--config-file", str(file.absolute())]
        flags += ["--dataset-config-file", str(CONFIGS / "datasets" / "emoji.yaml")]
        flags += [word for name in run.trainer.cfg.TRAINER.PLUGINS for word in ("--plugin", name)]
        flags += [str(word) for pair in (short(args.name) | pairs).items() for word in pair]
        place = run.method.place("PREC")
        trainings = Trainings(flags, Path(folder, "processes"), place, STEPS)
        last.callback(trainings.close)
        return trainings.check_resumed, trainings.check_half

    with tempfile.TemporaryDirectory() as folder, ExitStack() as last:
        sources = short_keys(file, args.name, folder, pairs)
        for state, title, why in lines(lambda: train_briefly(sources, args.plugin), processes):
            wrong += state == "wrong"
            print(f"{state:6s} {title}{why and ': '}{why}", flush=True)
    return int(wrong > 0)
