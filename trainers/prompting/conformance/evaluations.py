"""Checks of evaluations: they repeat, do not depend on the batch, and go with other classes."""

import torch

from ..capabilities.at_test_time import adapts, learns_from_stream, reset
from ..capabilities.on_support import OnSupport, count_passes, searches
from ..capabilities.per_class import PerClass, make_room, scored_as_others
from ..capabilities.transductive import Transductive
from ..errors import UserError, need
from ..record.calibration import fit_temperature
from ..running.seeding import seeded
from ..teacher import Teacher
from ..trainer.evaluation import check_joint
from ..trainer.repeatability import ROUNDING, check_rebuilt
from .findings import FAR, Note, Skipped, apart, check_same
from .short import ShortRun

TEMPERATURES = 0.2, 20.0  # the usual ones, of validation images
WIDE = -8.0, 8.0  # bounds of the logarithm of a temperature here
LITTLE = 0.05  # of ln K: what logits must say of the labels for a temperature to mean something,
WILD = 5.0  # or their standard deviation; that of cosines with the scale is about 1.5


def check_again(run: ShortRun) -> None:
    """Built again from its checkpoint, it computes the same.

    Finds a factor in an attribute.
    """
    if wrong := run.trainer.in_use.wrong:
        raise wrong
    check_rebuilt(run.trainer)


def check_scores(run: ShortRun) -> None:
    """Logits are float32, and no probabilities.

    Finds a softmax in `logits`.
    """
    method, logits = run.method, run.predict(run.batches[0])
    need(
        logits.dtype == torch.float32,
        f"The logits of {type(method).__name__} are {logits.dtype} but must be torch.float32: "
        "return `.float()` of them",
    )
    if not method.joint:
        raise Skipped("those of a class depend on the other ones (`joint`)")
    of_one = bool((logits.sum(1) - 1).abs().max() < ROUNDING) and bool((logits >= 0).all())
    of_logs = bool(logits.logsumexp(1).abs().max() < ROUNDING)
    what = "probabilities, which sum to one" if of_one else "logarithms of probabilities"
    need(
        not (of_one or of_logs),
        f"The logits of {type(method).__name__} are {what} over its own classes, so those of base "
        "and new classes cannot be put together: return them before softmax, or set "
        "`joint = False` in the class",
    )


def check_repeats(run: ShortRun) -> None:
    """Evaluations repeat, and `reset` empties what images have filled.

    Finds noise in `contexts`, and a stream without `reset`.
    """
    method, seen = run.method, []
    for _ in range(2):
        reset(method)
        seen.append(torch.cat([run.output(images).logits for images in run.batches]))
    again = run.output(run.batches[0]).logits
    reset(method)
    name, first = type(method).__name__, seen[0][: len(again)]

    def off(logits: torch.Tensor, other: torch.Tensor) -> float:
        return float((logits - other).abs().max() / other.abs().max().clamp_min(1e-30))

    if learns_from_stream(method) or isinstance(method, Transductive):
        difference = off(seen[1], seen[0])
        need(
            difference <= ROUNDING,
            f"{name} predicts otherwise in a second evaluation (off by {difference:.1g}, relative "
            "to the largest logit), as it keeps what the images of the first one have changed: set "
            "all of it back in `reset`, and draw random numbers in training only",
        )
        return
    difference = max(off(seen[1], seen[0]), off(again, first))
    need(
        difference <= ROUNDING,
        f"{name} predicts otherwise on a second call (off by {difference:.1g}, relative to the "
        "largest logit): draw random numbers in training only (`self.training`), change no state "
        "in `predict`, or set `stream = True` and empty that state in `reset`",
    )


def check_batches(run: ShortRun) -> None:
    """An image is classified alike in a batch and alone.

    Finds features that are centred over the batch.
    """
    method, images = run.method, run.batches[0]
    if isinstance(method, Transductive):
        raise Skipped("it classifies all images together (`Transductive`)")
    views = images if isinstance(images, list) else [images]
    singles = [[view[i : i + 1] for view in views] for i in range(len(views[0]))]
    reset(method)
    alone = []
    for single in singles:
        if not learns_from_stream(method):
            reset(method)
        alone.append(run.output(single if isinstance(images, list) else single[0]).logits)
    whole = run.predict(images)
    if learns_from_stream(method) and apart(whole, alone) > FAR:
        raise Note(
            "Its predictions depend on how many images come at a time (DATALOADER.TEST.BATCH_SIZE)"
            ": take the images of a batch one after another, each scored before it is learned from"
        )
    check_same(
        whole, alone,
        "predicts otherwise for an image alone than in a batch: do not compute over the images of "
        "a batch in evaluations, keep nothing by `data_ptr`, or set `stream = True`",
    )  # fmt: skip


def of_own_classes(run: ShortRun) -> None:
    """Skip a check of other class names for a method that has only its own."""
    if run.method.class_bound:
        raise Skipped("it is only for the classes of its training (`class_bound`)")


def check_others(run: ShortRun) -> None:
    """It can be used with other class names.

    Finds a buffer of the class names that is saved.
    """
    of_own_classes(run)
    run.predict(run.batches[0], run.for_classes(run.trainer.dm.dataset.other_classnames))


def check_order(run: ShortRun) -> None:
    """Its classes are in the order of their names, also those of teachers in its loss.

    Finds `Teacher(clip_model, sorted(classnames), ...)`.
    """
    names = run.trainer.dm.dataset.classnames
    mirrored = run.fresh(names=names[::-1])
    for (place, one), (_, other) in zip(
        run.fresh().named_modules(), mirrored.named_modules(), strict=True
    ):
        if isinstance(one, Teacher) and len(one.h) == len(names):
            need(
                torch.allclose(one.h, other.h.flip(0), atol=1e-3),
                f"The classes of '{place}' are in another order than `classnames`, so that the "
                "loss compares different classes: give them as they are",
            )
    of_own_classes(run)
    if isinstance(run.method, Transductive):
        raise Skipped("it classifies all images together (`Transductive`)")
    if isinstance(run.method, PerClass) and run.method.own_classes is not None:
        raise Skipped("it scores the classes of its training in another way (`own_classes`)")
    images, other = run.batches[0], run.for_classes(names[::-1])
    check_same(
        run.predict(images), [run.predict(images, other).flip(1)],
        "gives classes other logits if their names come in another order: keep the order of "
        "`classnames` and let nothing depend on the number of a class, or set `class_bound = True`",
    )  # fmt: skip


def check_union(run: ShortRun) -> None:
    """Base and new classes together have the logits that they have apart.

    Finds logits that are divided by their norm over the classes.
    """
    method, data = run.method, run.trainer.dm.dataset
    of_own_classes(run)
    try:
        check_joint(method)
    except UserError as error:
        raise Skipped(str(error)) from None
    images, others = run.batches[0], data.other_classnames
    with scored_as_others(method):
        output = run.output(images)
    with torch.no_grad(), run.precision.autocast():
        theirs = run.for_classes(others).from_features(output.image).logits
    whole = run.predict(images, run.for_classes([*data.classnames, *others]))
    check_same(
        whole, [torch.cat([output.logits, theirs], 1)],
        "gives a class another logit among more classes, so that base and new classes cannot be "
        "put together: set `joint = False` in the class",
    )  # fmt: skip


def check_kept(run: ShortRun) -> None:
    """Kept text features are those of the present state.

    Finds a number in an attribute that an addition reads.
    """
    images = run.batches[0]
    before = run.predict(images)
    run.method._text_cache.forget()
    check_same(
        run.predict(images), [before],
        "keeps text features of an earlier state: let all that changes enter by `contexts` or "
        "`blocks`, as tensors, parameters or buffers",
        1e-3,
    )  # fmt: skip


def check_support(run: ShortRun) -> None:
    """The order of the training images makes no difference to what it takes from them.

    Finds a running mean, and `features.view(K, shots, D)`.
    """
    passes, K = count_passes(run.method), run.method.num_classes
    if not passes:
        raise Skipped("it takes no support")
    with seeded(0):
        rows = run.method.clip_features(run.every_image()).repeat(passes, 2, 1)
        rows = rows + rows.std() * torch.randn_like(rows)
        labels, order = torch.arange(K).repeat(2), torch.randperm(2 * K)

    def predict(index: torch.Tensor, seed: int) -> torch.Tensor:
        method = run.fresh().eval()
        assert isinstance(method, OnSupport)
        make_room(method, 2 * K)
        with seeded(seed), run.precision.autocast():
            method.take_support(rows[:, index], labels[index])
        return run.predict(run.batches[0], method)

    logits = predict(torch.arange(2 * K), 0)
    by_chance = apart(logits, [predict(torch.arange(2 * K), 1)])  # of a method that draws from them
    check_same(
        logits, [predict(order, 0)],
        "takes another state from the same training images in another order: go by the labels of "
        "the rows, and weigh them alike",
        max(FAR, 2 * by_chance),
    )  # fmt: skip


def check_temperature(run: ShortRun) -> None:
    """Its logits have the scale of logarithms of probabilities.

    Finds cosines without `logit_scale`, or with its square.
    """
    trainer, method = run.trainer, run.method
    if adapts(method) or isinstance(method, Transductive):
        raise Skipped("it adapts to the test images")
    if searches(method):
        raise Skipped("it chooses settings by its accuracy on the validation images")
    batches = [trainer.parse_batch_test(batch) for batch in trainer.validation]
    logits = torch.cat([run.output(images).logits for images, _ in batches]).double().cpu()
    labels = torch.cat([label for _, label in batches]).cpu()
    found, _ = fit_temperature(logits.numpy(), labels.numpy(), WIDE)
    least = torch.nn.functional.cross_entropy(logits / found, labels)
    of_equal = torch.tensor(method.num_classes).double().log()
    spread = float(logits.std(1).mean())
    if least > (1 - LITTLE) * of_equal and spread < WILD:
        raise Skipped("its logits say too little of the images after so short a training")
    low, high = TEMPERATURES
    need(
        low <= found <= high,
        f"The temperature that fits its logits is {found:.2g}, not between {low} and {high:g} "
        f"(those of an image have a standard deviation of {spread:.2g}): multiply cosines by "
        "`logit_scale`, once",
    )
