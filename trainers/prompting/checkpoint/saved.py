"""A checkpoint: what it holds, and what may be done with it.

Its keys are the attributes of `Saved`; as texts they stand here and in dassl-lite alone. The file
is long because all checks of a checkpoint are in it.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch

from ..embedded import other_weights
from ..errors import UserError, in_short, need, printable
from ..storage.features import differing_traits
from ..storage.hub import fetch_run
from ..storage.values import is_dense
from .files import broken_checkpoint, find_checkpoint, only_model, read_checkpoint
from .identity import (
    BY_PROCESS,
    OF_WEIGHTS,
    RUN,
    UNKNOWN,
    Identity,
    begun_otherwise,
    differences,
    in_words,
    no_settings,
    note_edited,
    run_in,
)
from .keys import ABOUT

NUMBERS = {"logit_scale": float, "normalised": bool, "width": int}  # of traits
AND = " + "  # between the precisions, and the processors, of a run that was resumed
MOST = 3  # parts of a division in a message
# What records say of an earlier training, with its keys.
ORIGIN = {
    "dataset": "DATASET.NAME",
    "classes": "DATASET.SUBSAMPLE_CLASSES",
    "shots": "DATASET.NUM_SHOTS",
    "seed": "SEED",
    "label_noise": "DATASET.LABEL_NOISE",
    "label_noise_kind": "DATASET.LABEL_NOISE_KIND",
    "imbalance": "DATASET.IMBALANCE",
}


class BadCheckpoint(Exception):
    """What is wrong with a checkpoint; the error adds its path."""


def _mapping(value: Any) -> Any:
    if not all(isinstance(name, str) for name in value.keys()):  # noqa: SIM118  # of a mapping
        raise TypeError("a name is not a text")
    return value


def _plain(value: Any) -> dict[str, Any]:
    return {
        name: x if isinstance(x, int | float) else str(x) for name, x in _mapping(value).items()
    }


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return [*map(str, value)]


def _settings(value: Any) -> dict[str, str]:
    return {name: str(text) for name, text in _mapping(value).items()}


def _dense(value: Any) -> Any:
    if not is_dense(value):
        raise TypeError("not a dense tensor")
    return value


def _identity(value: Any) -> Identity:
    return Identity.of(value, "it", "")


def _images(value: Any) -> dict[str, Any]:
    division = value["division"]
    keys = _dense(value["trained_on"]).long()
    return {"division": division and _settings(division), "trained_on": keys}


def _traits(value: Any) -> dict[str, Any]:
    numbers = {name: kind(value[name]) for name, kind in NUMBERS.items()}
    text = {
        template: {name: _dense(row).view(numbers["width"]) for name, row in rows.items()}
        for template, rows in _mapping(value["text"]).items()
    }
    return numbers | {"text": text}


def _is_calibration(value: Any) -> bool:
    of_any = {"temperature": 0, "scores": 1, "seconds": 1}
    of_advise = of_any | {"effective": 0, "likeness": 1, "ranks": 1, "centre": 1, "classes": 2}
    every = of_advise | {"strangers": 1}
    if not isinstance(value, dict) or value.keys() != every.keys():
        return isinstance(value, str)
    if not all(_dense(x).isfinite().all() for x in value.values() if torch.is_tensor(x)):
        return False
    given = {name: getattr(x, "ndim", 0) for name, x in value.items() if x is not None}
    numbers = [value[name] for name in given if every[name] == 0]
    if given not in (of_any, of_advise, every):
        return False
    if (ranks := value["ranks"]) is not None:  # which are places in the others
        n, other = len(ranks), {*ranks.tolist()} - {*range(1, len(ranks) + 1)}
        if other or not n == len(value["likeness"]) == len(value["scores"]):
            return False
    return all(isinstance(x, float) and 0 < x < math.inf for x in numbers)


def _calibration(value: Any) -> Any:
    if not _is_calibration(value):
        raise ValueError("other fields")
    return value


def _thresholds(value: Any) -> Any:
    best, sure = _dense(value["best"]), None if value["sure"] is None else _dense(value["sure"])
    if best.ndim != 1 or best.shape != (best if sure is None else sure).shape:
        raise ValueError("other shapes")
    if not all(x.isfinite().all() for x in (best, sure) if x is not None):
        raise ValueError("not finite")
    return {"best": best, "sure": sure, "found": float(value["found"])}


# How entries are read, if they are there; it raises errors of many types.
READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("state_dict", "method", "sentences"), _mapping),
    **dict.fromkeys(("class_buffers", "code"), _settings),
    **dict.fromkeys(("classnames", "plugins", "edited"), _texts),
    **dict.fromkeys(("trainer", "backbone", "backbone_sha256"), str),
    **dict.fromkeys(("drawn", "start"), _plain),
    "epoch": int,
    "several": bool,
    "identity": _identity,
    "images": _images,
    "features": _traits,
    "computed": lambda value: {name: str(value[name]) for name in ("precision", "processor")},
    "calibration": _calibration,
    "thresholds": _thresholds,
}
# What a run needs to resume, if it has it; the last ones are written by some methods and Dassls.
RESUMED = (
    "optimizer", "scheduler", "method", "scaler", "computed", "classnames", "images", "planned",
    "code", "rng", "train_seconds",
)  # fmt: skip
OF_DASSL = ("optimizer", "scheduler", "val_result")  # which it reads, so they are written as None


@dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint of this project or of public code; or what the next one of a run will hold.

    Whatever one of public code lacks is None.
    """

    state_dict: Any = field(default_factory=dict)  # what is learned: tensors by public names
    method: Any = None  # buffers of the method, by name
    optimizer: Any = None  # its state
    scheduler: Any = None  # its state
    scaler: Any = None  # state of the loss scale
    epoch: Any = None  # the number of epochs that are done
    planned: Any = None  # the number of steps of each, of a method that plans them
    val_result: Any = None  # accuracy on validation images, where Dassl computes it
    rng: Any = None  # states of the random number generators, of dassl-lite
    train_seconds: Any = None  # duration of the training, of dassl-lite
    losses: Any = None  # means of the terms over the epoch, by name, of dassl-lite
    trainer: Any = None  # name of the method
    classnames: Any = None  # of the training
    several: Any = None  # True if its images have several labels
    class_buffers: Any = None  # digests, before the training, of buffers that may depend on classes
    images: Any = None  # `division`: texts by part and class; `trained_on`: keys (n,), int64
    sentences: Any = None  # of the file of DATASET.SENTENCES, by class name
    features: Any = None  # traits of the encoder, of a training on a file of features
    computed: Any = None  # `precision` and `processor`, of all sessions of the run, joined by AND
    drawn: Any = None  # what label noise and imbalance have changed, in numbers of images
    start: Any = None  # the origin of MODEL.INIT_WEIGHTS
    backbone: Any = None  # name or file of the CLIP
    backbone_sha256: Any = None  # of its weights
    plugins: Any = None  # modules or files that register methods
    code: Any = None  # hashes of the package and of files of plug-ins, by name
    edited: Any = None  # names of what of it was edited while it trained
    calibration: Any = None  # fields of a `Calibration`, or a text: why there is none
    thresholds: Any = None  # content of `Thresholds`, if images have several labels
    identity: Any = None  # an `Identity`, as JSON in the file; once read, that of `run.json`
    place: str = ""  # where it was read; not in the file

    # ------------------------------------------------------------------ reading and writing

    @classmethod
    def of(cls, content: Mapping[Any, Any], place: str = "") -> Self:
        """Return the checkpoint with this content; without `state_dict`, all of it is learned.

        Raises:
            BadCheckpoint: an entry is not as this project writes it.
        """
        names = {entry.name for entry in fields(cls)} & content.keys()
        own = {"state_dict": content, **{x: content[x] for x in names}, "place": place}
        for name, read in READ.items():
            if own.get(name) is not None or name == "state_dict":
                try:
                    own[name] = read(own[name])
                except Exception as error:  # odd content raises errors of many types
                    raise BadCheckpoint(f"has no valid '{name}' ({in_short(error)})") from None
        return cls(**own)

    @classmethod
    def read(cls, path: str, place: str = "") -> Self:
        """Read a file, which belongs to a place, and refuse one with entries of other kinds."""
        try:
            saved = cls.of(read_checkpoint(path), place or path)
        except BadCheckpoint as error:
            remedy = "take another one, or train again"
            raise UserError(f"The checkpoint '{path}' {error}: {remedy}") from None
        return saved._with_identity(
            os.path.dirname(path), "give a whole run folder, or train again"
        )

    @classmethod
    def to_resume(cls, content: Mapping[Any, Any], folder: str) -> Self:
        """Return the checkpoint with this content, which a run resumes from its folder."""
        try:
            saved = cls.of(content)
        except BadCheckpoint as error:
            raise broken_checkpoint(folder, content["epoch"], str(error)) from None
        return saved._with_identity(folder, "delete the run folder to train again")

    def _with_identity(self, folder: str, remedy: str) -> Self:
        """Return it with the identity of its run; `folder` is that of its model.

        Public code has none; `remedy` ends the message where one of this project lacks it.
        """
        if self.trainer is None:
            return self
        of_run = os.path.dirname(os.path.abspath(folder))
        identity = run_in(of_run, remedy)
        if identity is None:
            raise UserError(
                f"The checkpoint in '{folder}' has no {RUN} in '{of_run}' that says what its run "
                f"is, as those of 0.6: {remedy}"
            )
        then = self.identity or Identity()
        own = then._replace(method=self.trainer, clip={"sha256": self.backbone_sha256})
        moved = "fingerprint", "DATASET.ROOT"  # which a session that resumes it may have changed
        texts = differences(own, identity, OF_WEIGHTS, without=moved)
        need(
            not texts,
            f"The checkpoint in '{folder}' is not of the run that {RUN} in '{of_run}' names "
            f"({in_words(texts)}): {remedy}",
        )
        details = {"classes": self.classnames, "division": self.division or None}
        return replace(self, identity=identity._replace(data={**identity.data, **details}))

    @classmethod
    def of_run(cls, folder: str | os.PathLike[str], epoch: int | None = None) -> Self:
        """Read a run's checkpoint, which says what made it; arguments are those of `load_run`."""
        place = fetch_run(folder)
        of_model = only_model(place, "*/", f"'{place}'", "give the output folder of one run")
        saved = cls.read(find_checkpoint(of_model, epoch))
        names = "identity", "classnames", "trainer", "backbone", "epoch"
        need(
            all(getattr(saved, name) is not None for name in names) and len(saved.classnames) > 1,
            f"The checkpoint '{saved.place}' does not say what made it (class names, settings), "
            "like those of public code: evaluate it with train.py and its config files, "
            "--eval-only and --model-dir, or train again",
        )
        return saved

    @classmethod
    def find(cls, place: str, key: str, remedy: str) -> Self:
        """Read the checkpoint of a training that has ended, on which another one builds.

        `place` is the output folder of a run, the folder of a public checkpoint, or its file; `key`
        is the setting that gives it, and `remedy` what to do without one, for messages.
        """
        path = place = os.path.normpath(place)
        if not os.path.isfile(place):
            path = find_checkpoint(only_model(place, "**/", f"{key}: '{place}'", remedy), None)
        saved = cls.read(path, place)
        epoch, last = saved.epoch, saved.value("OPTIM.MAX_EPOCH")
        by_epochs = epoch and isinstance(last, int) and os.path.isdir(place)
        need(
            not by_epochs or saved.value("OPTIM.STEPS") or epoch >= last,
            f"The training in '{place}' has done {epoch} of its {last} epochs: let it end, or "
            "give the file of a checkpoint",
        )
        return saved

    def content(self) -> dict[str, Any]:
        """Return what is written."""
        values = {name: x for name, x in vars(self).items() if x is not None or name in OF_DASSL}
        values |= {"identity": self.identity.as_json()} if self.identity else {}
        return {name: x for name, x in values.items() if name != "place"}

    def outcome(self) -> dict[str, Any]:
        """Return what two equal trainings have in common, by name."""
        names = "state_dict", "method", "optimizer", "rng"
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------------ what it says

    def value(self, place: str) -> Any:
        """Return the value of a setting by its dotted key; None if the checkpoint lacks it."""
        return self.identity.value(place) if self.identity else None

    @property
    def division(self) -> Mapping[str, str]:
        """The parts of the images, as texts by name; empty if it is not known."""
        return (self.images or {}).get("division") or {}

    def digest(self) -> str:
        """Return a hash that identifies what was learned."""
        sha256 = hashlib.sha256()
        for name in sorted(self.state_dict):
            if torch.is_tensor(value := self.state_dict[name]):
                sha256.update(value.float().cpu().contiguous().numpy().tobytes())
        return sha256.hexdigest()[:16]

    def origin(self) -> dict[str, Any]:
        """Return what records say of the training: place, digest, method, backbone and ORIGIN."""
        said = {"place": self.place, "digest": self.digest(), "method": self.trainer}
        said |= {name: self.value(place) for name, place in ORIGIN.items()}
        known = {name: UNKNOWN if value is None else value for name, value in said.items()}
        return known | {"backbone": os.path.basename(self.backbone or UNKNOWN)}

    def extend(self, provenance: "Saved") -> "Saved":
        """Return the provenance of a run that uses it, with what of the code was edited.

        Say if it computes in other ways.
        """
        if edited := {*(self.edited or ()), *self._edited_since(provenance)}:
            provenance = replace(provenance, edited=sorted(edited))
        then, now = self.computed, provenance.computed
        if then is None:  # it is of other code
            return provenance
        if then != now:
            begun, here = (f"{x['precision']} ({printable(x['processor'])})" for x in (then, now))
            print(f"Computed in {here}; begun in {begun}")
        both = {key: AND.join(dict.fromkeys([*then[key].split(AND), now[key]])) for key in now}
        return replace(provenance, computed=both)

    # ------------------------------------------------------------------ may a run use it?

    def _edited_since(self, now: "Saved") -> list[str]:
        """Return the names of what has another hash in the code of a run now."""
        return [
            name for name, then in (self.code or {}).items() if (now.code or {}).get(name) != then
        ]

    def check_resumed(self, now: "Saved", folder: str) -> None:
        """Refuse to resume another run than that of the checkpoint, or one without its full state.

        A checkpoint without settings was written by other code: it is accepted, and may lack parts
        of the state. `now` is what a checkpoint of the present run would hold.
        """
        wanted = {name for name in RESUMED if getattr(now, name) is not None}
        lacking = sorted(name for name in wanted if getattr(self, name) is None)
        if self.identity is None:
            no_settings(folder)
        elif lacking:
            raise broken_checkpoint(folder, self.epoch, f"lacks {', '.join(lacking)}")
        if self.identity and (texts := differences(now.identity, self.identity, OF_WEIGHTS)):
            raise begun_otherwise(folder, texts)
        self.check_weights(now.backbone, now.backbone_sha256)
        note_edited(self._edited_since(now))

    def restore(self, method: Any, precision: Any, folder: str) -> list[int]:
        """Load the buffers of the method and the loss scale; return the steps that were planned."""
        try:
            method.load_own_state(self.method or {})
            precision.load_scale(self.scaler or {})
            planned = [int(count) for count in self.planned or ()]
            epochs = self.epoch if hasattr(method, "plan_epoch") else 0
            if len(planned) != epochs or min(planned, default=1) < 1:
                raise ValueError(f"no {epochs} numbers of steps")
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            what = " ".join(f"has no state of the method, or of its loss scale ({error})".split())
            raise broken_checkpoint(folder, self.epoch, what[:200]) from None
        return planned

    def check_loaded(self, now: "Saved", method: Any) -> None:
        """Refuse to evaluate it with another method setting or backbone than in training."""
        self.check_weights(now.backbone, now.backbone_sha256)
        if self.features is not None and now.features is not None:
            why = differing_traits(self.features, now.features)
            need(
                not why,
                f"The prompts were trained on features of another encoder ({why}): evaluate on "
                "features of that encoder, or train again",
            )
        if self.identity is None:
            print("The checkpoint has no settings: those of this call are used")
            return
        free = {method.place(key) for key in (*method.training_only, *method.test_keys, "PREC")}
        same = self.value("DATASET.NAME") == now.value("DATASET.NAME")
        then = self.identity._replace(method="")  # what fits may be of another one
        texts = differences(now.identity, then, ("settings", "clip"), free)
        if method.class_bound or same:
            about = {key: now.value(key) for key in ABOUT if key in now.identity.data}
            texts += differences(Identity(data=about), then, ("data",))
        need(
            not texts,
            f"The prompts were trained otherwise ({in_words(texts)}): set this as in the training",
        )

    def check_weights(self, name: str, sha256: str | None) -> None:
        """Refuse weights of the backbone other than those of the training.

        `sha256` is that of the weights with this name; None where they are not on this machine.
        """
        why = other_weights(name, self.backbone_sha256, sha256)
        need(
            not why,
            f"The prompts were trained with {why}: give --backbone the file of those weights, or "
            "train again",
        )

    def check_halves(self, now: "Saved", dataset: Any) -> None:
        """Refuse base and new classes, or a division of images, other than in the training."""
        keys = ("DATASET.NAME", "DATASET.SUBSAMPLE_CLASSES", "DATASET.ROOT")
        was, (name, half, root) = ([x.value(key) for key in keys] for x in (self, now))
        if was[:2] != [name, "base"] or half in ("all", "both"):
            return
        base, tested = {*(self.classnames or ())}, {*now.classnames}
        named = {*getattr(dataset, "other_classnames", ())}  # or its code names no other half
        of_base = tested if half == "base" else named or (base - tested if base != tested else base)
        alike = was[2] == root and (self.features is None) == (now.features is None)
        before, divided = self.division, now.division
        what = ""
        if base != of_base:
            what = f"base classes were {', '.join(sorted(base)[:MOST])}, ..., and are others now"
        elif alike and before and divided and before != divided:
            part = next(k for k in {**before, **divided} if before.get(k) != divided.get(k))
            what = f"{part}: {before.get(part, 'none')}, now {divided.get(part, 'none')}"
        need(
            not what,
            f"{name} is not divided as in the training of '{self.place}' ({what}): {BY_PROCESS}, "
            "then train again",
        )

    def check_unseen(self, dataset: Any, split: str) -> None:
        """Refuse to evaluate images of its training."""
        keys = getattr(dataset, "keys", {})
        if not keys or self.images is None:
            return
        trained = {*self.images["trained_on"].tolist()}
        items = (dataset.val if split == "val" else dataset.test) or []
        seen = [item.impath for item in items if keys.get(item.impath) in trained]
        if seen:
            raise UserError(
                f"{len(seen):,} of the {len(items):,} {split} images are training images of "
                f"'{self.place}', such as '{seen[0]}': its folder may have been divided anew, so "
                "restore the images of the training, or evaluate on others"
            )
