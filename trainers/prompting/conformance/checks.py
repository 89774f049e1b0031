"""The checks of a short training of a method, on the embedded CLIP."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import UserError, in_short, no_exit
from .steps import (
    Skipped,
    check_clip,
    check_devices,
    check_first_loss,
    check_seeds,
    check_steps,
    check_temperature,
)

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


def check_gradients(run: Run) -> None:
    """Gradients reach what is learned, and nothing else."""
    from ..contract import tensors_below

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
    from ..trainer.repeatability import check_rebuilt

    check_rebuilt(run.trainer)


def check_repeats(run: Run) -> None:
    """Evaluations repeat, and logits are float32 and no probabilities."""
    from ..trainer.repeatability import check_second

    images = _images(run)
    check_second(run.method, images, _predict(run, images))


def check_batches(run: Run) -> None:
    """An image is classified alike in a batch and alone."""
    from ..capabilities.transductive import Transductive

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

    from ..trainer.evaluation import check_joint

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
    from ..use.export import check_fixed, program

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
    from ..trainer.evaluation import for_classes

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
