"""A method computes the same again: built anew from its state, and called a second time.

Built-in methods do, which tests show. A method of a plug-in is checked in its runs, and where its
checkpoint is used in another process.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..checkpoint.saved import Saved
from ..contract import ROUNDING, check_logits
from ..errors import UserError, in_short, need, no_exit
from ..method import Method, Output
from ..running.memory import State
from ..running.precision import Precision
from .evaluation import for_classes, is_foreign
from .support_set import seeded

SEED = 20_141  # other than that of a run
FAR = 1e-2  # largest difference between two machines, relative to the largest value


def check_rebuilt(trainer: Any, ours: Mapping[str, Any] | None = None) -> None:
    """Check that the method of a `PromptTrainer`, built again from its state, computes the same.

    Random numbers, buffers and modes are as before. `ours` is the `probe` of its method, if it is
    known.

    Raises:
        UserError: it cannot be built again, or its logits or loss differ or are nan.
    """
    method, data = trainer.method, trainer.dm.dataset
    others = getattr(data, "other_classnames", ())
    apart = rebuilt_apart(
        method, trainer.clip_model, data.classnames, others, trainer.cfg.DATASET.NAME,
        trainer.precision, ours or probe(method, trainer.precision),
    )  # fmt: skip
    for what, difference in apart.items():
        need(
            not math.isnan(difference),
            f"The {what} of {type(method).__name__} is nan for random images, two of each of two "
            "classes: let no batch give an empty mean or a division by 0",
        )
        need(
            difference <= ROUNDING,
            f"The {what} of {type(method).__name__}, built again from its checkpoint, is off by "
            f"{difference:.1g}, relative to the largest value: keep all that it needs in "
            "parameters or buffers (`register_buffer`), not in attributes or plain tensors",
        )


def rebuilt_apart(
    method: Method,
    clip_model: Any,
    classnames: Sequence[str],
    others: Sequence[str],
    dataset: str,
    precision: Precision,
    ours: Mapping[str, Any],
) -> dict[str, float]:
    """Return how far what a method computes, and what it computes built again, are apart.

    It is built on the same CLIP; `others` are the other class names, for methods with unlabelled
    images. `ours` is the `probe` of the method.

    Returns:
        The largest differences of logits and, for a method that trains, of losses, relative to the
        largest value; nan where both have nan.

    Raises:
        UserError: the method cannot be built again from its state.
    """
    state = State(method)
    try:
        with seeded(SEED):
            rebuilt = for_classes(method, clip_model, classnames, classnames, dataset)
            if method.unlabelled:
                rebuilt.take_classes([*classnames, *others])
    except Exception as error:
        raise UserError(
            f"{type(method).__name__} cannot be built again from its own checkpoint "
            f"({in_short(error)}): make all parameters and buffers in `build`"
        ) from error
    finally:
        state.restore()
    rebuilt.to(method.device)
    for name, p in method.learned().items():
        rebuilt.learned()[name].requires_grad_(p.requires_grad)
    return {name: _apart(ours[name], x) for name, x in outcome(rebuilt, precision).items()}


def _apart(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value; inf if only one has nan."""
    if bool(x.isnan().any()) != bool(y.isnan().any()):
        return math.inf
    difference = (x - y).masked_fill(x == y, 0).abs().max()  # some may be infinite
    return float(difference / x.nan_to_num(0, 0, 0).abs().max().clamp_min(1e-30))


def outcome(method: Method, precision: Precision, loss: bool = True) -> dict[str, torch.Tensor]:
    """Return the logits of an evaluation of random images, and perhaps the loss of a step, seeded.

    The method stays as it is.
    """
    state, training = State(method), method.training
    size = method.image_encoder.visual.input_resolution
    random = torch.Generator().manual_seed(0)
    count = max(method.test_views, method.views)
    views = [*torch.randn(count, 4, 3, size, size, generator=random).to(method.device)]
    with seeded(0), precision.autocast():
        torch.manual_seed(0)  # of accelerators, too
        method.eval().reset()
        with torch.no_grad():
            test_views = views[: method.test_views] if method.test_views > 1 else views[0]
            values = {"logits": method.predict(test_views).logits.float()}
        method.train(training).reset()
        if type(method).trains and loss:
            labels = torch.tensor([0, 0, 1, 1], device=method.device)
            method.train()
            rows = method.trains_on_support
            inputs = [method.clip_features(x) if rows else x for x in views[: method.views]]
            losses = method.losses(inputs, labels[: 0 if method.unlabelled else 4])
            values["loss"] = losses["loss"].detach().float()
    method.train(training)
    state.restore()
    return {name: x.cpu() for name, x in values.items()}


def probe(method: Method, precision: Precision) -> dict[str, Any]:
    """Return `Saved.probe` of a method."""
    return {**outcome(method, precision), "where": _where(method, precision)}


def _where(method: Method, precision: Precision) -> dict[str, str]:
    """Return what logits may depend on besides the state: device, precision, `test_keys`."""
    keys = {method.place(key): repr(getattr(method.settings, key)) for key in method.test_keys}
    return {"device": method.device.type, "precision": str(precision.computed_in)} | keys


def check_probe(
    saved: Saved, method: Method, clip_model: Any, precision: Precision, resumes: bool = False
) -> None:
    """Check that a method computes what it did when its checkpoint was written.

    A checkpoint of other code or of a built-in method has nothing to compare. One that is loaded
    for other class names or another data set is compared on its own. If the run `resumes`, the loss
    is compared, too, which keys in `training_only` may change.

    Raises:
        UserError: its logits or loss differ, where device, precision and `test_keys` do not.
    """
    then, kind = saved.probe, type(method)
    if not then or saved.trainer != kind.__name__ or then["where"] != _where(method, precision):
        return
    names, dataset = saved.classnames, saved.value("DATASET.NAME")
    if not resumes:  # else it has these class names and this data set
        settings = replace(method.settings, dataset=dataset)
        with seeded(SEED), no_exit(kind.__name__):
            method = kind(settings, clip_model, names, dataset)
        method.load_checkpoint(saved, names)
        method.to(precision.device)
    for what, value in outcome(method, precision, resumes).items():
        before = then.get(what, value)
        difference = _apart(before, value) if before.shape == value.shape else math.inf
        need(
            difference <= FAR,
            f"The {what} of {kind.__name__} for random images is off by {difference:.1g}, relative "
            "to the largest value, from that when its checkpoint was written: something outside "
            "has changed, such as a file, an environment variable, the order of a set, a global "
            "variable or the code. Restore it, or train again with it in `Settings`, parameters or "
            "buffers",
        )


def check_first(method: Method, output: Output, terms: Mapping[str, torch.Tensor]) -> None:
    """Check what the first training step of a method has given.

    Raises:
        UserError: as `check_logits`, `check_first_step` and, for a plug-in, `check_scores`.
    """
    from .checks import check_first_step  # which needs Dassl, as trainings do

    check_logits(method, output)
    check_first_step(method, terms)
    if is_foreign(type(method)):
        check_scores(method, output.logits)


def check_second(method: Method, images: Any, logits: torch.Tensor) -> None:
    """Check that a method in eval mode predicts the same on a second call.

    Raises:
        UserError: they differ, or rows of logits are probabilities, of which those of other
            classes cannot be put next to them.
    """
    check_scores(method, logits)
    if method.stream:
        return
    state = State(method)
    second = method.predict(images).logits
    state.restore()
    difference = float((second - logits).detach().abs().max() / logits.abs().max().clamp_min(1e-30))
    need(
        difference <= ROUNDING,
        f"{type(method).__name__} predicts otherwise on a second call (off by {difference:.1g}, "
        "relative to the largest logit): draw random numbers in training only "
        "(`self.training`), change no state in `predict`, or set `stream = True` and empty that "
        "state in `reset`",
    )


def check_scores(method: Method, logits: torch.Tensor) -> None:
    """Refuse logits that are not float32, and rows that are probabilities, or logarithms of them.

    Raises:
        UserError: they are, and the method does not say `joint = False`.
    """
    need(
        logits.dtype == torch.float32,
        f"The logits of {type(method).__name__} are {logits.dtype} but must be torch.float32: "
        "return `.float()` of them",
    )
    if not method.joint:
        return
    logits = logits.detach().float()
    of_one = bool((logits.sum(1) - 1).abs().max() < ROUNDING) and bool((logits >= 0).all())
    of_logs = bool(logits.logsumexp(1).abs().max() < ROUNDING)
    what = "probabilities, which sum to one" if of_one else "logarithms of probabilities"
    need(
        not (of_one or of_logs),
        f"The logits of {type(method).__name__} are {what} over its own classes, so those of base "
        "and new classes cannot be put together: return them before softmax, or set "
        "`joint = False` in the class",
    )
