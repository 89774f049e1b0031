"""A method computes the same when it is built again from its state.

Built-in methods do, which tests show. A method of a plug-in is checked in its runs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from ..building.rebuild import for_classes
from ..capabilities.at_test_time import count_views, reset
from ..capabilities.on_support import trains_on_support
from ..capabilities.unlabelled import Unlabelled
from ..contract import ROUNDING
from ..errors import UserError, in_short, need
from ..method import Method
from ..running.memory import Snapshot
from ..running.precision import Precision
from ..running.seeding import seeded

SEED = 20_141  # other than that of a run
SMALL = 1e-2  # share of the loss below which a term is compared with this share


def check_rebuilt(trainer: Any) -> None:
    """Check that the method of a `PromptTrainer`, built again from its state, computes the same.

    Random numbers, buffers and modes are as before.
    """
    name = type(trainer.method).__name__
    for what, difference in rebuilt_apart(trainer).items():
        need(
            not math.isnan(difference),
            f"The {what} of {name} is nan for random images, two of each of two classes: let no "
            "batch give an empty mean or a division by 0",
        )
        need(
            difference <= ROUNDING,
            f"The {what} of {name}, built again from its checkpoint, is off by {difference:.1g}, "
            "relative to the largest value: keep all that it needs in parameters or buffers "
            "(`register_buffer`), not in attributes or plain tensors",
        )


def rebuilt_apart(trainer: Any) -> dict[str, float]:
    """Return how far what a method computes, and what it computes built again, are apart.

    It is built on the same CLIP.

    Returns:
        The largest differences of logits and, for a method that trains, of the loss and its terms,
        relative to the largest value; nan where both have nan.
    """
    method, data, name = trainer.method, trainer.dm.dataset, type(trainer.method).__name__
    place = trainer.clip_model, data.classnames, data.classnames, trainer.cfg.DATASET.NAME
    state = Snapshot(method)
    try:
        with seeded(SEED):
            rebuilt = for_classes(method, *place)
            if isinstance(rebuilt, Unlabelled):
                rebuilt.take_classes([*data.classnames, *getattr(data, "other_classnames", ())])
    except Exception as error:
        raise UserError(
            f"{name} cannot be built again from its own checkpoint ({in_short(error)}): make all "
            "parameters and buffers in `build`"
        ) from error
    finally:
        state.restore()
    rebuilt.to(method.device)
    for key, p in method.learned().items():
        rebuilt.learned()[key].requires_grad_(p.requires_grad)
    ours, theirs = (outcome(x, trainer.precision) for x in (method, rebuilt))
    least = {key: SMALL * abs(float(ours["loss"])) for key in ours if key.startswith("term ")}
    return {key: _apart(x, theirs[key], least.get(key, 0)) for key, x in ours.items()}


def _apart(x: torch.Tensor, y: torch.Tensor, least: float) -> float:
    """Return the largest difference, relative to the largest value; inf if only one has nan."""
    if bool(x.isnan().any()) != bool(y.isnan().any()):
        return math.inf
    difference = (x - y).masked_fill(x == y, 0).abs().max()  # some may be infinite
    return float(difference / x.nan_to_num(0, 0, 0).abs().max().clamp_min(max(least, 1e-30)))


def outcome(method: Method, precision: Precision) -> dict[str, torch.Tensor]:
    """Return the logits of an evaluation of random images, and the losses of a step, seeded.

    Losses are those of a method that trains: `loss`, and its terms by name. The method stays as it
    is.
    """
    state, training = Snapshot(method), method.training
    size = method.image_encoder.visual.input_resolution
    random = torch.Generator().manual_seed(0)
    count = max(count_views(method), method.views)
    views = [*torch.randn(count, 4, 3, size, size, generator=random).to(method.device)]
    with seeded(0), precision.autocast():
        torch.manual_seed(0)  # of accelerators, too
        reset(method.eval())
        with torch.no_grad():
            test_views = views[: count_views(method)] if count_views(method) > 1 else views[0]
            values = {"logits": method.predict(test_views).logits.float()}
        reset(method.train(training))
        if type(method).trains:
            labels = torch.tensor([0, 0, 1, 1], device=method.device)
            if method.settings.several:
                labels = F.one_hot(labels, method.num_classes).to(torch.int8)
            method.train()
            rows = trains_on_support(type(method))
            inputs = [method.clip_features(x) if rows else x for x in views[: method.views]]
            losses = method.losses(inputs, labels[: 0 if isinstance(method, Unlabelled) else 4])
            for name, term in losses.items():
                values["loss" if name == "loss" else f"term '{name}'"] = term.detach().float()
    method.train(training)
    state.restore()
    return {name: x.cpu() for name, x in values.items()}
