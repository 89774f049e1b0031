"""Check the settings of every method, and data sets to choose by, before the first run."""

import functools
import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from recipe.configs import SENTENCES, read_pairs
from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.errors import UserError, need

from ..protocols.base import Protocol, Run
from ..protocols.configs import dataset_class
from .engine import Engine, Settings, command

SPLIT = "TEST.SPLIT"


def check_settings(runs: list[Run], settings: Settings) -> None:
    """Check the settings of each method; without PyTorch, print that this is skipped."""
    if not runs:
        return
    try:
        import_module("train")
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: settings are not checked here", file=sys.stderr)
        return
    from dassl.data.transforms import build_transform
    from dassl.optim import build_lr_scheduler, build_optimizer
    from torch import device, nn

    from recipe.settings import effective, not_read, unread, unread_note
    from trainers.prompting.backbones import check_known
    from trainers.prompting.building.config import settings_in
    from trainers.prompting.capabilities.unlabelled import Unlabelled
    from trainers.prompting.checkpoint.several import check_labels
    from trainers.prompting.contract import check_sentences
    from trainers.prompting.encoders.descriptions import read_about
    from trainers.prompting.method import METHODS, check_takes_several
    from trainers.prompting.running.precision import Precision

    fits = functools.cache(check_labels_of)
    one_of_each = {(run.trainer, run.config_file, run.opts): run for run in runs}
    seen: dict[str, Run] = {}
    kinds, notes = [], {}
    for run in one_of_each.values():
        cfg = cfg_of(run, settings)
        fits(run.dataset, run.protocol, cfg.DATASET.ROOT, cfg.DATASET.FEATURES)
        check_labels(cfg, run.protocol.several)
        with redirect_stdout(io.StringIO()):
            build_transform(cfg, is_train=True)
            build_lr_scheduler(build_optimizer(nn.Linear(1, 1).parameters(), cfg.OPTIM), cfg.OPTIM)
            if run.opts and (other := seen.setdefault(effective(cfg), run)) is not run:
                raise UserError(
                    f"{run.trainer} does the same with {_only(run, other)} as with "
                    f"{_only(other, run)}: give keys that mean something to it, or leave it "
                    "out"
                )
            kind = METHODS.get(cfg.TRAINER.NAME)
            kinds.append(kind)
            if kind is not None:
                notes[run.trainer] = unread_note(cfg) if cfg.TRAINER.UNREAD else ""
                node = settings_in(cfg, kind)
                check_takes_several(kind, run.protocol.several)
                if node.sentences:
                    check_sentences(kind, node, node.sentences)
                    if node.sentences.source.endswith(".json"):
                        read_about(node.sentences.source, SENTENCES)
                if run.protocol.new_classes and is_class_bound(kind, node):
                    raise UserError(
                        f"{run.trainer} has parameters for each class and cannot be tested on new "
                        f"classes, as {run.protocol.name} does: run it in "
                        f"{'several_labels' if run.protocol.several else 'few_shot'}"
                    )
                if issubclass(kind, Unlabelled) and run.protocol.targets:
                    raise UserError(
                        f"{run.trainer} learns from images of the data set that it is tested on, "
                        f"so {run.protocol.name} cannot train it on the source: run it in few_shot "
                        "on each target, with --config cross_dataset as published"
                    )
                if not cfg.DATASET.FEATURES:
                    check_known(cfg.MODEL.BACKBONE.NAME)
                Precision(node.PREC, device("cpu"))

    by_none = set(read_pairs(settings.opts))
    for kind in kinds:
        by_none &= {*unread(kind, by_none)} if kind else set()
    if by_none:
        raise not_read(min(by_none), kinds[0])
    for note in filter(None, notes.values()):
        print(note, file=sys.stderr)


def check_labels_of(dataset: str, protocol: Protocol, root: str, features: str) -> None:
    """Raise a UserError if the images of a data set have one label, and the protocol's several."""
    if dataset.startswith("image_folder") and not (root or features):
        return  # what is missing is said when it is looked for
    kind = dataset_class(dataset).kind(SimpleNamespace(ROOT=root, FEATURES=features))
    names = {True: "several labels", False: "one label"}
    asked, have = names[protocol.several], names[kind.several]
    fitting = "several_labels or several_base2new" if kind.several else "few_shot or base2new"
    need(
        asked == have,
        f"{protocol.name} is for images with {asked}, but those of {dataset} have {have}: run "
        f"{fitting}",
    )


@functools.cache
def cfg_of(run: Run, settings: Settings) -> Any:
    """Return the frozen cfg that train.py makes of a run's command, once. Needs PyTorch."""
    from train import parse_args, setup_cfg

    with redirect_stdout(io.StringIO()):  # each run prints the same
        return setup_cfg(parse_args(command(run, settings)[2:]))


def for_streams(runs: list[Run], opts: tuple[str, ...]) -> list[Run]:
    """Return the runs but those of methods that TEST.STREAM, if it is set, does not change.

    Those left out are printed. `opts` are KEY VALUE pairs of all runs.
    """
    key, usual = "TEST.STREAM", KEYS["TEST.STREAM"].default
    streams = {run: read_pairs((*opts, *run.opts)).get(key, usual) for run in runs}
    if set(streams.values()) <= {usual}:
        return runs
    from trainers.prompting import list_methods
    from trainers.prompting.method import find_method
    from trainers.prompting.trainer.streams import takes_streams

    fixed = {name for name in list_methods() if not takes_streams(find_method(name))}
    left_out = [run for run in runs if run.trainer in fixed and streams[run] != usual]
    for name in dict.fromkeys(run.trainer for run in left_out):
        print(f"Skipped: {name} classifies each image by itself, in any {key}", file=sys.stderr)
    return [run for run in runs if run not in left_out]


def on_validation(pairs: Mapping[str, str]) -> bool:
    """Return True if KEY VALUE pairs of runs test them on validation images."""
    return pairs.get(SPLIT) == "val"


def check_validation(engine: Engine) -> None:
    """Raise a UserError if a data set lacks validation images apart from its test images."""
    from dassl.data.datasets import build_dataset  # with PyTorch: not for a dry run

    for run in {run.dataset: run for run in engine.todo}.values():
        with redirect_stdout(io.StringIO()):  # each run prints the same
            data = build_dataset(cfg_of(run, engine.settings))
        check(run, {item.impath for item in data.val or ()}, {item.impath for item in data.test})


def check(run: Run, validation: set[str], test: set[str]) -> None:
    """Raise a UserError if validation images are missing, or are test images."""
    need(
        validation and not validation & test,
        f"{run.dataset} has no validation images, or they are its test images, on which settings "
        "must not be chosen: choose settings on other data sets",
    )


def is_class_bound(kind: Any, settings: Any) -> bool:
    """Return True if a method with these settings learns something for each class."""
    method = kind.__new__(kind)  # not built, as there is no CLIP
    vars(method)["settings"] = settings
    return bool(getattr(method, "class_bound", False))


def _only(run: Run, other: Run) -> str:
    """Return the KEY VALUE pairs that a run has and another one has not."""
    of_run, of_other = (set(read_pairs(each.opts).items()) for each in (run, other))
    return " ".join(f"{key} {value}" for key, value in sorted(of_run - of_other))
