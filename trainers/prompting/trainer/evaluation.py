"""Records an evaluation: predictions, and a calibration temperature.

Predictions are over the run's classes, and over base and new classes together.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from ..building.rebuild import for_classes
from ..capabilities.at_test_time import adapts, learns_from_stream, reset
from ..capabilities.of_views import OfViews
from ..capabilities.on_support import count_passes, searches
from ..capabilities.per_class import scored_as_others
from ..capabilities.transductive import NOT_ITS_OWN, Transductive
from ..checkpoint.files import checkpoint_file
from ..checkpoint.identity import as_tested
from ..checkpoint.provenance import teacher_origin
from ..checkpoint.saved import Saved
from ..dassl_parts import dassl_utils
from ..errors import UserError, in_short
from ..method import Method, Output
from ..record.calibration import Calibration, fit_temperature
from ..record.predictions import Predictions
from ..record.results import Evaluation
from ..teacher import Teacher, nearest
from .loaders import loader_like
from .planned_steps import count_steps
from .streams import Stream, takes_streams

UNTESTED = "only the last epoch has one, after its evaluation with TEST.PREDICTIONS"


def validation_loader(loader, dataset) -> torch.utils.data.DataLoader | None:
    """Return a loader of the validation images, read as the test images; None without any.

    They are the attribute `validation` of the data set; a temperature is fitted on them.
    """
    if not (items := getattr(dataset, "validation", None)):
        return None
    images = copy(loader.dataset)
    images.data_source = items
    return loader_like(loader, images, batch_size=loader.batch_size)


class Recorder:
    """Records an evaluation batch by batch.

    Test images are also classified among base and new classes together, with a second copy of the
    method built for the names of the other half. This is left out if there is no other half, or if
    the method works only for its own classes. `split` is `test` or `val`. The trainer's model is
    put in eval mode.

    Attributes:
        predictions: empty at first, filled by `add`.
    """

    @torch.no_grad()
    def __init__(self, trainer, split: str):
        self._method, self._other = trainer.method, None
        cfg, dataset = trainer.cfg, trainer.dm.dataset
        new = cfg.DATASET.SUBSAMPLE_CLASSES == "new"
        self.predictions = Predictions(self._method.logit_scale, new)
        loader = trainer.val_loader if split == "val" else trainer.test_loader
        self._stream: Stream | None = getattr(loader, "stream", None)
        if self._stream and not self._stream.tasks:
            self.predictions.order = self._stream.order
        if together := isinstance(self._method, Transductive):
            why = f"the logits of {type(self._method).__name__} {NOT_ITS_OWN}"
            print(f"A temperature and the calibration error are left out: {why}")
            self.predictions.calibration_note = why
        if split != "test":
            return
        trainer.set_model_mode("eval")
        if names := getattr(dataset, "other_classnames", None):
            place = trainer.clip_model, dataset.classnames, names, cfg.DATASET.NAME
            self._other = self._for_classes(*place)
        of_base = self._other if new else self._method
        if trainer.validation is not None and of_base is not None and not together:
            self.predictions.temperature = _temperature(of_base, trainer, self.predictions)

    def _for_classes(self, *place) -> Method | None:
        name = type(self._method).__name__
        try:
            check_joint(self._method)
            return for_classes(self._method, *place)
        except UserError as error:
            note = str(error)
        except Exception as error:  # of a plug-in: the run on its own classes continues
            note = f"{name} cannot be made for other classes: {in_short(error)}"
        print(f"Base and new classes together are left out: {note}")
        self.predictions.note = note
        return None

    def add(self, output: Output) -> None:
        """Record the output of the batch whose images were last added to `predictions`."""
        others = in_union = None
        if self._other is not None:
            others = self._other.from_features(output.image).logits
            with scored_as_others(self._method) as differs:  # as are those of the other half
                if differs:
                    in_union = self._method.compare(output.image, output.text)
        self.predictions.add_logits(output.logits, others, in_union)
        if (predictions := zero_shot(self._method, output)) is not None:
            self.predictions.add("zero_shot", predictions)

    def end(self, results: Mapping[str, Any]) -> tuple[Predictions | None, dict[str, Any]]:
        """Return the predictions, and the results with the accuracy of zero-shot CLIP.

        Of tasks (`Stream`) there are no predictions, and accuracies are means over `tasks`.
        """
        stream = self._stream
        if not (stream and stream.tasks):
            if (hits := self.predictions.hits("zero_shot")) is not None:
                print(f"Zero-shot CLIP on the same images: {100 * float(hits.float().mean()):.2f}%")
            return self.predictions, {**results}
        tasks, names = {}, {"accuracy": "prediction", "zero_shot_accuracy": "zero_shot"}
        for name, column in names.items():
            if (hits := self.predictions.hits(column)) is not None:
                parts = hits.split([len(task) for task in stream.batches])
                tasks[name] = [round(100 * float(part.float().mean()), 4) for part in parts]
        means = {name: sum(each) / len(each) for name, each in tasks.items()}
        texts = ", ".join(f"{name} {mean:.2f}%" for name, mean in means.items())
        print(f"Mean over {len(stream.batches):,} tasks: {texts}".replace("_", " "))
        return None, {**results, **means, "tasks": tasks}


def is_foreign(kind: type[Method]) -> bool:
    """Return True for a method of a plug-in."""
    return not kind.__module__.startswith(Method.__module__.removesuffix("method"))


def zero_shot(method: Method, output: Output) -> torch.Tensor | None:
    """Return the predictions (B,) of zero-shot CLIP, if a method has its text and images anyway.

    They are not known of a plug-in, and are the method's own if it is zero-shot CLIP.
    """
    kind, teachers = type(method), [m for m in method.children() if isinstance(m, Teacher)]
    if is_foreign(kind) or kind.image_features is not Method.image_features:
        return None
    of_support = kind.predict is Method.predict and not kind.trains and count_passes(method)
    if of_support or takes_streams(kind) or issubclass(kind, OfViews):
        h = output.text.h[0]
    elif teachers and not method.blocks("image") and method.contexts().vision is None:
        h = teachers[0].h
    else:
        return None
    z = output.image.z if output.image.raw is None else output.image.raw
    return nearest(z[:, 0].float(), h.float())


def check_joint(method: Method) -> None:
    """Refuse a method whose logits of a class are others among more classes."""
    kind = type(method)
    if not method.joint:
        reason = "depend on all classes, or it cannot name others"
    elif kind.predict is not Method.predict:
        reason = "depend on the test images of its own classes (`predict`)"
    elif kind.output is not Method.output and not method.conditional:
        reason = "are computed by an `output` of its own, without `from_features`"
    else:
        return
    raise UserError(f"the logits of {kind.__name__} {reason}")


def _temperature(method: Method, trainer, predictions: Predictions) -> float | None:
    """Fit the temperature on validation images; None if their logits are not finite.

    These logits and the labels become `validation` of the predictions.
    The validation images leave no trace in a method that adapts to a stream.
    """
    logits, labels = [], []
    reset(method)
    for batch in trainer.validation:
        images, label = trainer.parse_batch_test(batch)
        with trainer.precision.autocast():
            logits.append(method.predict(images).logits)
        labels.append(label)
    reset(method)
    predictions.validation = values, label = [torch.cat(x).cpu().numpy() for x in (logits, labels)]
    if not np.isfinite(values).all():
        print("No temperature: logits of validation images are not finite")
        return None
    temperature, _ = fit_temperature(values.astype(float), label)
    print(f"Temperature {temperature:.4f}, fitted on {len(label):,} validation images")
    return temperature


def why_uncalibrated(method: Method, dataset: Any, cfg: CfgNode) -> str:
    """Return a clause why checkpoints have no calibration: UNTESTED if an evaluation adds one."""
    name = type(method).__name__
    best = method.trains and cfg.TEST.FINAL_MODEL == "best_val"
    obstacles = {
        "its images have several labels": method.settings.several,
        f"the logits of {name} {NOT_ITS_OWN}": isinstance(method, Transductive),
        f"{name} chooses settings on them": searches(method),
        "TEST.FINAL_MODEL best_val chooses the epoch on them": best,
        "they are of the base classes": cfg.DATASET.SUBSAMPLE_CLASSES == "new",
        "they are what TEST.SPLIT val evaluates": cfg.TEST.SPLIT == "val",
        "there are none": not getattr(dataset, "validation", None),
    }
    if why := next((text for text, holds in obstacles.items() if holds), ""):
        return f"it takes validation images, but {why}"
    if cfg.TEST.WISE != 1:
        return "TEST.WISE evaluates other weights than these"
    return (
        f"answers of {name} depend on the images before" if learns_from_stream(method) else UNTESTED
    )


def calibrate(trainer: Any) -> Saved:
    """Return the provenance of a training, with the calibration by its evaluation, if any."""
    known: Saved = trainer.provenance
    waits = known.calibration == UNTESTED or isinstance(known.calibration, dict)
    of_images = trainer.predictions is not None  # else of tasks
    waits = waits and of_images and not trainer.loaded
    if not waits or (t := trainer.predictions.temperature) is None:
        return known
    logits, labels = map(torch.from_numpy, trainer.predictions.validation)
    return replace(known, calibration=vars(Calibration.fit(logits, labels, t)))


def save_calibration(trainer: Any, folder: str) -> None:
    """Add the calibration of a training to its last checkpoint, written before the evaluation."""
    if isinstance(found := trainer.provenance.calibration, dict):
        saved = Saved.read(checkpoint_file(folder, trainer.max_epoch))
        dassl_utils().save_checkpoint(replace(saved, calibration=found).content(), folder)


def evaluation_of(trainer: Any) -> Evaluation:
    """Return the last evaluation of a `PromptTrainer`, for the record; raises as `Evaluation.of`.

    If a training was loaded, settings of that are as it had them.
    """
    method, then, run = trainer.method, trainer.loaded, trainer.provenance.identity
    if then:
        run = as_tested(run, then.identity, method, adapts(method))
    loader = trainer.val_loader if trainer.cfg.TEST.SPLIT == "val" else trainer.test_loader
    stream = getattr(loader, "stream", None)
    trained = getattr(trainer, "train_seconds", 0.0)  # not measured by the original Dassl
    return Evaluation.of(
        trainer,
        identity=run,
        method=method,
        provenance=trainer.provenance,
        training=then,
        predictions=trainer.predictions,
        more=trainer.attacked | trainer.detection.measure(),
        stream=stream and {"name": stream.name, "order": stream.digest},
        num_trained=trainer.num_trained,
        steps=count_steps(trainer)[1] if trained else 0,
        teacher=teacher_origin(method),
    )
