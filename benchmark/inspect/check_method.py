"""Check that a method keeps to what runs, checkpoints and evaluations need, on the embedded CLIP.

It is trained for some steps with its emoji settings. A line each says what holds, or what to do.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from recipe.configs import read_keys, read_pairs
from trainers.prompting.errors import UserError, in_short, no_exit

from ..cli import Parser, add_plugin
from ..protocols.configs import CONFIGS, RULES, TrainerConfigs
from .probes import (
    Skipped,
    check_clip,
    check_devices,
    check_first_loss,
    check_seeds,
    check_steps,
    check_temperature,
)
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
NOTES = ("No gradient reaches", "No gradient comes from")  # what a run prints about its first step


class Run(NamedTuple):
    """A short training of a method: its `PromptTrainer`, what it has printed, and its losses."""

    trainer: Any
    printed: str
    losses: list[Any]

    @property
    def method(self) -> Any:
        """The method."""
        return self.trainer.method


Check = Callable[[Any], None]  # of a `Run`; its docstring is the title


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


def train_briefly(sources: list[tuple[str, dict]], plugins: list[str]) -> Run:
    """Build a method and train it for some steps; raises UserError for a mistake it finds."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from recipe.settings import build_cfg

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


# ------------------------------------------------------------------ the checks


def check_gradients(run: Run) -> None:
    """Gradients reach what is learned, and nothing else."""
    from trainers.prompting.contract import tensors_below

    notes = [line for line in run.printed.splitlines() if line.startswith(NOTES)]
    if notes:
        raise UserError(notes[0])
    own = run.method.learned()
    stopped = [name for name, p in own.items() if not p.requires_grad]
    if stopped and len(list(run.method.stages())) == 1:
        raise UserError(
            f"'{stopped[0]}' no longer requires a gradient after the training, so that its last "
            "steps have not trained it: freeze parameters in `build`, or name them in `stages`"
        )
    learned = {id(p) for p in own.values()}
    for place, value in tensors_below(run.method):
        if value.is_leaf and value.grad is not None and id(value) not in learned:
            raise UserError(f"'{place}' has a gradient but is not learned: detach what it enters")


def check_again(run: Run) -> None:
    """Built again from its checkpoint, it computes the same."""
    from trainers.prompting.trainer.repeatability import check_rebuilt

    check_rebuilt(run.trainer)


def check_repeats(run: Run) -> None:
    """Evaluations repeat, and logits are float32 and no probabilities."""
    from trainers.prompting.trainer.repeatability import check_second

    images = _images(run)
    check_second(run.method, images, _predict(run, images))


def check_batches(run: Run) -> None:
    """An image is classified alike in a batch and alone."""
    from trainers.prompting.capabilities.transductive import Transductive

    method, images = run.method, _images(run)
    if method.stream:
        raise Skipped("predictions depend on the images before (`stream`)")
    if isinstance(method, Transductive):
        raise Skipped("it classifies all images together (`Transductive`)")
    views = images if isinstance(images, list) else [images]
    alone = []
    for i in range(len(views[0])):
        image = [view[i : i + 1] for view in views]
        alone.append(_predict(run, image if isinstance(images, list) else image[0]))
    _alike(
        _predict(run, images), alone, 1e-2,
        "predicts otherwise for an image alone than in a batch: do not compute over the images of "
        "a batch in evaluations, or set `stream = True`",
    )  # fmt: skip


def check_names(run: Run) -> None:
    """It can be used with other class names."""
    method = run.method
    if method.class_bound:
        raise Skipped("it is only for the classes of its training (`class_bound`)")
    _predict(run, _images(run), _for_classes(run, run.trainer.dm.dataset.other_classnames))


def check_union(run: Run) -> None:
    """Base and new classes together have the logits that they have apart."""
    import torch

    from trainers.prompting.trainer.evaluation import check_joint

    method, others = run.method, run.trainer.dm.dataset.other_classnames
    if method.class_bound:
        raise Skipped("it is only for the classes of its training (`class_bound`)")
    try:
        check_joint(method)
    except UserError as error:
        raise Skipped(str(error)) from None
    images, names = _images(run), list(run.trainer.dm.dataset.classnames)
    own_classes = method.own_classes
    if own_classes:
        method.own_classes = False  # classes of the training are scored otherwise
    output = method.predict(images)
    theirs = _for_classes(run, others).from_features(output.image).logits
    method.own_classes = own_classes
    whole = _predict(run, images, _for_classes(run, [*names, *others]))
    _alike(
        whole, [torch.cat([output.logits, theirs], 1)], 1e-2,
        "gives a class another logit among more classes, so that base and new classes cannot be "
        "put together: set `joint = False` in the class",
    )  # fmt: skip


def check_kept(run: Run) -> None:
    """Kept text features are those of the present state."""
    images = _images(run)
    before = _predict(run, images)
    run.method._kept.forget()
    _alike(
        _predict(run, images), [before], 1e-3,
        "keeps text features of an earlier state: let all that changes enter by `contexts` or "
        "`blocks`, as tensors, parameters or buffers",
    )  # fmt: skip


def check_export(run: Run) -> None:
    """An exported program gives the same logits."""
    from trainers.prompting.use.export import check_fixed, program

    method, images = run.method, _images(run)
    try:
        check_fixed(method)
    except UserError as error:
        raise Skipped(str(error).partition(":")[0]) from None
    logits = program(method, images.shape[-1]).module()(images)
    _alike(
        _predict(run, images), [logits], 1e-3,
        "gives other logits when it is exported: use tensors in place of Python numbers and "
        "conditions that depend on the images",
    )  # fmt: skip


CHECKS: tuple[Check, ...] = (
    check_clip, check_seeds, check_gradients, check_first_loss, check_steps, check_again,
    check_repeats, check_temperature, check_batches, check_names, check_union, check_kept,
    check_devices, check_export,
)  # fmt: skip


def _images(run: Run) -> Any:
    """Return the images of a batch of the evaluation, or a list of views of them."""
    return run.trainer.parse_batch_test(next(iter(run.trainer.test_loader)))[0]


def _predict(run: Run, images: Any, method: Any = None) -> Any:
    import torch

    method = method or run.method
    method.reset()
    with torch.no_grad(), run.trainer.precision.autocast():
        logits = method.predict(images).logits
    method.reset()
    return logits


def _for_classes(run: Run, names: list[str]) -> Any:
    from trainers.prompting.trainer.evaluation import for_classes

    trainer = run.trainer
    place = trainer.clip_model, trainer.dm.dataset.classnames, names, trainer.cfg.DATASET.NAME
    return for_classes(run.method, *place)


def _alike(logits: Any, parts: list[Any], most: float, sentence: str) -> None:
    """Refuse logits that differ from those of parts by more than a share of their spread."""
    import torch

    logits, other = logits.detach(), torch.cat(parts).detach()
    spread = logits.std(1).max().clamp_min(1e-30)
    apart = float((logits - other).abs().max() / spread) if logits.shape == other.shape else 1.0
    if not apart <= most:
        raise UserError(f"It {sentence} (off by {apart:.1g} of their spread)")


# ------------------------------------------------------------------ the command


def lines(
    run: Callable[[], Run], more: Callable[[Run], Sequence[Check]] = lambda run: ()
) -> Iterator[tuple[str, str, str]]:
    """Yield for each check its state (ok, wrong, or - if it does not apply), title and sentence.

    `run` builds and trains the method; `more` returns checks that follow those of this file.
    """
    runs: list[Run] = []

    def build(_: Any) -> None:
        """It is built, and trains."""
        runs.append(run())

    checks: list[Check] = [build, *CHECKS]
    for number, check in enumerate(checks):
        title = (check.__doc__ or "").partition(".")[0]
        try:
            with no_exit("It"):
                check(runs and runs[0])
        except Skipped as reason:
            yield "-", title, str(reason)
        except UserError as error:
            yield "wrong", title, str(error)
            if check is check_clip:  # others would give wrong advice
                return
        except Exception as error:  # of the method
            yield "wrong", title, in_short(error)
        else:
            yield "ok", title, ""
        if not runs:
            return
        if not number:
            checks += more(runs[0])


def main(argv: list[str]) -> int:
    """Run `python -m benchmark check-method`; return 1 if something is wrong."""
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

    def processes(run: Run) -> Sequence[Check]:
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
