"""Evaluation over the classes of both halves of a data set, and the temperature of its logits."""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..errors import UserError, in_short, no_exit
from ..method import Method
from ..running.precision import Precision
from ..storage.predictions import Predictions

BOUNDS = (-3.0, 3.0)  # of the natural logarithm of a temperature


def validation_loader(loader, dataset) -> torch.utils.data.DataLoader | None:
    """A loader of the images that a temperature is fitted on, which reads them as test images.

    Args:
        loader: of the test images.
        dataset: Dassl's; without an attribute `validation`, or images in it, there is none.
    """
    if not (items := getattr(dataset, "validation", None)):
        return None
    images = copy(loader.dataset)
    images.data_source = items
    return torch.utils.data.DataLoader(
        images,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),  # takes nothing from the run's random numbers
    )


@torch.no_grad()
def begin(trainer, split: str) -> tuple[Predictions, Method | None]:
    """What notes an evaluation; of test images with a temperature, and over both halves.

    Args:
        trainer: a `PromptTrainer`; its model is put in eval mode.
        split: `test` or `val`.

    Returns:
        The predictions, without images yet, and the method for the names of the other half; None
        where there are none, or where the method is made for its classes alone.
    """
    method, cfg, dataset = trainer.method, trainer.cfg, trainer.dm.dataset
    new = cfg.DATASET.SUBSAMPLE_CLASSES == "new"
    found, other = Predictions(method.model.logit_scale, new), None
    if split != "test":
        return found, None
    trainer.set_model_mode("eval")
    if names := getattr(dataset, "other_classnames", None):
        place = trainer.clip_model, dataset.classnames, names, cfg.DATASET.NAME
        try:
            other = for_classes(method, *place)
        except UserError as error:
            found.note = str(error)
        except Exception as error:  # of a plug-in: its own classes go on
            name = type(method).__name__
            found.note = f"{name} cannot be made for other classes: {in_short(error)}"
        if other is None:
            print(f"Base and new classes together are left out: {found.note}")
    of_base = other if new else method
    if trainer.validation is not None and of_base is not None:
        found.temperature = _temperature(of_base, trainer.validation, trainer.precision)
    return found, other


def _temperature(method: Method, loader, precision: Precision) -> float | None:
    """The temperature of a method's logits of validation images; None where they are not finite."""
    logits, labels = [], []
    for batch in loader:
        with precision.autocast():
            logits.append(method.model(batch["img"].to(precision.device)))
        labels.append(batch["label"])
    values, label = torch.cat(logits).cpu().numpy(), torch.cat(labels).cpu().numpy()
    if not np.isfinite(values).all():
        print("No temperature: logits of validation images are not finite")
        return None
    temperature = fit_temperature(values.astype(float), label)
    print(f"Temperature {temperature:.4f}, fitted on {len(label):,} validation images")
    return temperature


def for_classes(
    method: Method, clip_model, classnames: Sequence[str], others: Sequence[str], dataset: str
) -> Method:
    """The method with what it has learned, for other class names, in eval mode.

    Args:
        method: as it is.
        clip_model: that it was built of; its modules are shared once more.
        classnames: K names, of the method.
        others: the other names.
        dataset: name of the data set.

    Raises:
        UserError: the method is made for its classes alone, or a name does not fit.
    """
    with torch.random.fork_rng(devices=[]), no_exit(type(method).__name__):
        other = type(method)(method.settings, clip_model, others, dataset)
    state = {
        "state_dict": method.model.public_state_dict(),
        "method": method.own_state(),
        "class_buffers": method.class_buffers,
        "classnames": list(classnames),
        "trainer": type(method).__name__,
    }
    other.load_checkpoint(state, others)
    other.model.chunk_bytes = method.model.chunk_bytes
    return other.to(method.model.logit_scale.device).eval()


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood, between exp(-3) and exp(3).

    Args:
        logits: (n, K), float64.
        labels: (n,).
    """
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x))
