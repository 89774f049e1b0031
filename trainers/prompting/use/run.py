"""Loading a trained run from its folder, to classify images."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from ..backbones import family_of
from ..building.rebuild import clip_of, images_of, rebuild
from ..building.toward_start import move_toward_start, start_weights
from ..building.transforms import Images, preprocess_of
from ..checkpoint.saved import Saved
from ..checkpoint.several import refuse_several
from ..errors import UserError, need
from ..images.image_files import read_single
from ..method import METHODS, Method, Output, find_method, import_methods
from ..node import clean
from ..record.calibration import Answer, Calibration
from ..record.thresholds import EVEN, Thresholds


@dataclass(frozen=True, repr=False)
class Run:
    """A trained run, ready to classify images.

    Attributes:
        model: the method, in eval mode and float32; `model.predict(images).logits` are (B, K), of
            images (B, 3, H, W). For a method that does not adapt to them, `model(images)` is this.
        classnames: K names, in the order of the logits.
        preprocess: an RGB image of Pillow -> (3, H, W), as in the run's own evaluation. For a
            method that is AtTestTime -> a list of views, drawn from the run's seed and the pixels.
        settings: values by dotted key, as `info` prints them.
        images: how it reads images.
        method, backbone: their names.
        path, epoch: the checkpoint that was read.
        calibration: for `classify`; or a text, why the run has none.
        temperature: which logits are divided by for probabilities; 1 if the run has none.
        thresholds: for `tags`, of images with several labels; None if the run has none.
    """

    model: Method
    classnames: list[str]
    preprocess: Callable[..., Any]
    settings: dict[str, Any]
    images: Images
    method: str
    backbone: str
    path: str
    epoch: int
    calibration: Calibration | str
    temperature: float = 1.0
    thresholds: Thresholds | None = None

    @property
    def several(self) -> bool:
        """True if images have several labels."""
        return bool(self.model.settings.several)

    def read(self, path: str | os.PathLike[str]) -> Any:
        """Return an image file, upright, for `preprocess`; raises UserError as `predict` does."""
        try:
            return read_single(os.fspath(path))
        except UserError as error:
            raise UserError(f"'{path}': {error}") from None

    @torch.no_grad()
    def classify(self, images: Any, error: float = 0.05) -> list[Answer]:
        """Return a class, several, or none for each image, (B, 3, H, W) or views of this shape.

        The answers to about a share `error` of images like those that calibrated the run lack their
        class (docs/use.md).
        """
        return self.answers(self.model.predict(images), error)

    def answers(self, output: Output, error: float, images: Sequence[Any] = ()) -> list[Answer]:
        """Return the answers of `classify`, given an output of the model and names of B images."""
        self.probabilities(output, images)
        z = output.image.z[:, 0]
        return self.find_calibration().answers(output.logits, z, error, self.classnames)

    def tags(
        self, output: Output, sure: bool = False, images: Sequence[Any] = ()
    ) -> list[tuple[list[str], list[float]]]:
        """Return tags and scores (K) of each of B named images with several labels.

        Scores are probabilities, or logits if the method only ranks. A tag is a name whose score is
        at least its threshold; with `sure`, at that which keeps the promise of `advise`.

        Raises:
            UserError: images have one label, the run lacks these thresholds, scores are not finite.
        """
        scores = self.scores(output, images)
        limit = self.find_thresholds(sure)
        named = [
            [name for name, one in zip(self.classnames, row, strict=True) if one]
            for row in (scores.double().numpy() >= limit)
        ]
        return [*zip(named, scores.tolist(), strict=True)]

    def find_thresholds(self, sure: bool = False) -> np.ndarray:
        """Return those of `tags`, (K,)."""
        need(self.several, f"'{self.path}' is of one label an image, and gives no tags")
        known = self.thresholds
        if known is None:
            need(
                self.model.several == "decides" and not sure,
                f"'{self.path}' has no thresholds for these names, which --sure and methods that "
                "only rank images need: take a run of `advise`",
            )
            return np.full(len(self.classnames), EVEN)
        if not sure:
            return known.best
        need(
            known.sure is not None,
            f"'{self.path}' promises nothing of its tags: leave --sure out, or give more images "
            "with labels",
        )
        return cast(np.ndarray, known.sure)

    def scores(self, output: Output, images: Sequence[Any] = ()) -> torch.Tensor:
        """Return (B, K) on the CPU: sigmoids of logits, or logits if the method only ranks."""
        logits = output.logits.float()
        return self._finite(logits.sigmoid() if self.model.several == "decides" else logits, images)

    def probabilities(self, output: Output, images: Sequence[Any] = ()) -> torch.Tensor:
        """Return (B, K) on the CPU, at the run's temperature, of an output of B named images."""
        if self.several:
            refuse_several("classify")
        return self._finite((output.logits.float() / self.temperature).softmax(-1), images)

    def _finite(self, p: torch.Tensor, images: Sequence[Any]) -> torch.Tensor:
        p = p.cpu()  # one wait for the device
        if not p.isfinite().all():
            spoiled = (images or range(len(p)))[p.isfinite().all(dim=1).tolist().index(False)]
            raise UserError(
                f"the probabilities of '{spoiled}' are not finite: the training of this run has "
                "failed, so take an earlier epoch with --load-epoch or train again",
                exit_code=1,
            )
        return p

    def find_calibration(self) -> Calibration:
        """Return the calibration; raises UserError if there is none."""
        if isinstance(self.calibration, str):
            raise UserError(
                f"no error can be chosen with '{self.path}', which is not calibrated: "
                f"{self.calibration} (docs/use.md says which runs are)"
            )
        return self.calibration

    def __repr__(self) -> str:
        return f"<Run of {self.method}, {len(self.classnames)} classes, {self.path!r}>"


def load_run(
    folder: str | os.PathLike[str],
    classnames: Sequence[str] | None = None,
    epoch: int | None = None,
    backbone: str | None = None,
    plugins: Iterable[str] = (),
    trust: bool = False,
    weight: float = 1.0,
) -> Run:
    """Load a trained run on the CPU; no data set is needed.

    The method of a plug-in must be registered, by your program or by one of `plugins`. The plug-ins
    that the checkpoint names are code, and are imported only with `trust`. A run on features reads
    images if the CLIP that gave them is here, and their sentence is the data set's own.

    Args:
        folder: the run folder, or `hf://USER/REPO[@REVISION][/FOLDER]` on the Hugging Face hub.
        classnames: class names, if other than those of the training.
        epoch: that of the checkpoint; None takes `model-best.pth.tar`, or else the last one.
        backbone: name or file of the CLIP, if it has moved since training.
        plugins: modules or `.py` files that register methods.
        trust: also import the plug-ins that the checkpoint names.
        weight: the share of the trained weights, the others CLIP's, as TEST.WISE.

    Raises:
        UserError: the run is missing or does not say what made it, its method is from a plug-in
            that is not given or computes something else now, the backbone is missing or has other
            weights now or is not known to be that of the features, class names are repeated or too
            long, or the prompts are specific to the classes of the training.

    Examples:
        >>> load_run("no/run")
        Traceback (most recent call last):
        UserError: 'no/run' holds no run to load, as there is no such folder: give ...
    """
    _load_plugins(plugins)
    saved = Saved.of_run(folder, epoch)
    kind = _kind(saved, trust)
    name = saved.backbone if backbone is None else backbone
    clip_model = clip_of(saved, name)
    names = list(saved.classnames) if classnames is None else _check_names(classnames, clip_model)
    method, images = rebuild(saved, kind, clip_model, names), images_of(saved, clip_model)
    if weight != 1:
        need(0 <= weight <= 1, f"weight is {weight} but must be from 0, CLIP, to 1, as trained")
        move_toward_start(method, start_weights(method, clip_model), weight)
        why = f"it is for the trained weights, not {weight:g} of them"
        saved = replace(saved, calibration=why, thresholds=None)
    return Run(
        method.eval().requires_grad_(False),
        names,
        preprocess_of(method, images, saved.value("SEED") or 0),
        saved.identity.cfg_keys,
        images,
        kind.__name__,
        name,
        saved.place,
        saved.epoch,
        calibration_of(saved, names),
        saved.calibration["temperature"] if isinstance(saved.calibration, dict) else 1.0,
        thresholds_of(saved, names),
    )


def calibration_of(saved: Saved, names: Sequence[str]) -> Calibration | str:
    """Return the calibration of a checkpoint, or why there is none for these classes."""
    if names != list(saved.classnames):
        return "it is for the classes of the training"
    if not isinstance(content := saved.calibration or "its checkpoint does not say one", dict):
        return content
    return Calibration(**content)


def thresholds_of(saved: Saved, names: Sequence[str]) -> Thresholds | None:
    """Return the thresholds of a checkpoint for these names, or None if it has none."""
    if saved.thresholds is None or names != list(saved.classnames):
        return None
    return Thresholds.of(saved.thresholds)


def _kind(saved: Saved, trust: bool) -> type[Method]:
    """Return the method of a checkpoint; its plug-ins are imported only with `trust`."""
    import_methods(saved.trainer)
    if saved.trainer not in METHODS and (theirs := saved.plugins):
        if not trust:
            raise UserError(
                f"The checkpoint '{saved.place}' is of {saved.trainer}, a method of the plug-in "
                f"{' or '.join(map(repr, theirs))}, which is code: if you trust it, name it "
                "(--plugin, or plugins= of load_run), or trust the run (--trust-run, trust=True)"
            )
        _load_plugins(theirs)
    return find_method(saved.trainer)


def _load_plugins(names: Iterable[str]) -> None:
    """Import plug-ins, if there are any: what knows them imports all methods."""
    if names := list(names):
        from ..plugins import load_plugins

        load_plugins(names)


def _check_names(names: Sequence[str], clip_model: Any) -> list[str]:
    """Return class names that a user gives."""
    names = list(names)
    if len(names) < 2:
        raise UserError(f"The number of class names is {len(names)}: give at least 2")
    seen: dict[tuple[int, ...], str] = {}
    for name in names:
        read = tuple(family_of(clip_model).tokenizer.encode(clean(name)))
        if read in seen:
            raise UserError(
                f"The class name '{name}' is repeated (also as '{seen[read]}'): give every class a "
                "different name"
            )
        seen[read] = name
    return names
