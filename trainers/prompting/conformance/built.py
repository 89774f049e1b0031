"""Checks of the body of a method's class, and of what `build` makes."""

import ast
import os
import random
import sys
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch

from ..backbones import family_of, load_clip
from ..capabilities import CAPABILITIES
from ..capabilities.staged import begin_stage, stages_of
from ..capabilities.taught import Taught
from ..contract import names_read
from ..errors import UserError
from ..method import Method
from ..running.seeding import seeded
from .findings import Note
from .short import ShortRun

OF_RUNS = ("PREC", "SEARCH", "SEARCH_HP")  # keys that runs read for all methods
METHODS = f"{__package__.rpartition('.')[0]}.methods."  # begins the names of their modules
NEAR = 0.85  # how much a name must look like that of a hook to be a misspelling of it
OF_OTHERS = {  # what students of other libraries take for hooks, and what is meant here
    "param_groups": "`rates`",
    "configure_optimizers": "`rates`, `stages` or OPTIM",
    "before_train": "`begin_stage`",
    "before_epoch": "`after_epoch`, or `plan_epoch` of Planned",
    "before_step": "`loss`",
    "after_iter": "`after_step`",
    "after_train": "`after_epoch`, where `epoch == last`",
    "on_epoch_end": "`after_epoch`",
    "on_train_epoch_end": "`after_epoch`",
    "forward_backward": "`loss`, or `backward`",
    "training_step": "`loss`",
    "model_inference": "`predict`",
    "validation_step": "`predict`",
    "test_step": "`predict`",
    "criterion": "`loss`",
}


def check_hooks(run: ShortRun) -> None:
    """No name in its class is nearly that of a hook, or a hook of another library.

    Finds `image_feature`, which nothing calls.
    """
    own = _own_classes(run.method)
    known = (*Method.__mro__[:-1], *CAPABILITIES)
    names = {n for kind in known for n in (*vars(kind), *get_annotations(kind))}
    hooks = [name for name in names - set(dir(torch.nn.Module)) if not name.startswith("_")]
    read = {name for kind in own for value in vars(kind).values() for name in names_read(value)}
    for kind in own:
        for name in sorted({*vars(kind)} - names - read):
            if meant := OF_OTHERS.get(name):
                raise Note(f"Nothing calls `{name}` of {kind.__name__}: write {meant}")
            for meant in () if name.startswith("_") else get_close_matches(name, hooks, 1, NEAR):
                raise UserError(
                    f"{kind.__name__} defines `{name}`, which nothing reads: write `{meant}` if "
                    "you mean that, or choose a name that is less like it"
                )


def _own_classes(method: Method) -> list[type[Method]]:
    return [kind for kind in type(method).__mro__ if issubclass(kind, Method)][:-1]


def check_fields(run: ShortRun) -> None:
    """Its code reads all keys of its `Settings`.

    Finds a weight that is a key, where the loss has a number.
    """
    kinds = _own_classes(run.method)
    read: set[Any] = {*OF_RUNS, *run.method.test_keys}
    read |= set(run.method.taught_by) if isinstance(run.method, Taught) else set()
    begun: tuple[str, ...] = ()  # as f"N_{side}" begins
    files = {kind.__module__ for kind in (*kinds, Method)}
    every = [x for name in files for x in vars(sys.modules[name]).values()]
    used = {str(getattr(x, "__module__", "")) for x in every}  # as StatA uses TransCLIP's solver
    for name in files | {name for name in used if name.startswith(METHODS)}:
        with open(getattr(sys.modules[name], "__file__", None) or os.devnull, "rb") as file:
            nodes = [*ast.walk(ast.parse(file.read()))]
        read |= {getattr(node, "attr", getattr(node, "value", None)) for node in nodes}
        texts = (node.values[0] for node in nodes if isinstance(node, ast.JoinedStr))
        begun += tuple(str(text.value) for text in texts if isinstance(text, ast.Constant))
    read |= {x.removeprefix("settings.") for x in read if isinstance(x, str)}  # attrgetter's
    for kind in kinds:
        for key, of in get_annotations(vars(kind).get("Settings", object)).items():
            if get_origin(of) is Literal and len(get_args(of)) == 1:  # it has one value
                continue
            if key in kind.defaults and key not in read and not key.startswith(begun):
                raise Note(f"No code of {kind.__name__} reads its key {key}: read it, or remove it")


def check_frozen(run: ShortRun) -> None:
    """`build` has frozen no part of it as a whole.

    Finds `requires_grad_(False)` on too much.
    """
    own = [name for name, _ in run.method.own_parameters()]
    learns = {name.partition(".")[0] for name in {*own} - run.method._fixed}
    for name in own:
        if (part := name.partition(".")[0]) not in learns:
            raise Note(f"`build` has frozen '{part}', which is saved but not trained")


def check_clip(run: ShortRun) -> None:
    """CLIP's weights, logit scale and normalisation are as they were loaded.

    Finds `ln_final.weight.mul_(2)` in `build`.
    """
    method, own = run.method, run.trainer.clip_model.state_dict()
    fresh = load_clip(run.trainer.cfg.MODEL.BACKBONE.NAME)
    for name, value in fresh.state_dict().items():
        if name not in own or not value.to(own[name]).equal(own[name]):
            raise UserError(
                f"It has changed '{name}' of CLIP, which other methods and teachers share: return "
                "additions from `blocks`, or change a deepcopy"
            )
    scale = fresh.logit_scale.detach().exp()
    given = getattr(method.settings, "SCALE", 0)
    if "logit_scale" in dict(method.named_parameters()) or not (
        given or method.logit_scale.isclose(scale)
    ):
        raise UserError(
            "It has replaced `logit_scale`, of which checkpoints hold nothing: inherit `Settings` "
            "from `Method.Scaled` for a key SCALE, or learn a parameter of another name"
        )
    if (method.mean, method.std) != family_of(fresh)[1:3]:
        raise UserError(
            "It has replaced `mean` or `std`, but images are normalised by those of the CLIP: set "
            "INPUT.PIXEL_MEAN and INPUT.PIXEL_STD"
        )


def check_seeds(run: ShortRun) -> None:
    """Random numbers are those of the run's seed, also after `build` and `begin_stage`.

    Finds `torch.manual_seed(0)` in either.
    """
    trained = run.for_classes(run.trainer.dm.dataset.classnames)
    numbers = range(len(stages_of(trained)))
    for stage in (None, *numbers):
        states = []
        for seed in (1, 2):
            with seeded(seed), run.precision.autocast():
                run.fresh(None) if stage is None else begin_stage(trained, stage)
                states.append(
                    {
                        "PyTorch": torch.get_rng_state().numpy().tobytes(),
                        "NumPy": np.random.get_state(legacy=False)["state"]["key"].tobytes(),
                        "Python": random.getstate(),
                    }
                )
        if same := [name for name, state in states[0].items() if state == states[1][name]]:
            raise UserError(
                f"After `{'build' if stage is None else 'begin_stage'}` the random numbers of "
                f"{same[0]} are the same for all seeds of runs: draw from a generator of your own, "
                "torch.Generator().manual_seed(n)"
            )


def check_built_twice(run: ShortRun) -> None:
    """Built twice from one seed, it begins with the same values.

    Finds numbers from the clock, or from `np.random.default_rng()`.
    """
    one, other = ({**m.public_parameters(), **m.own_state()} for m in (run.fresh(), run.fresh()))
    for name, value in one.items():
        if torch.is_tensor(value) and not torch.equal(value, other[name]):
            raise UserError(
                f"'{name}' has other values when it is built again from the same seed: draw "
                "random numbers from PyTorch, NumPy or Python, and nothing from the clock or the "
                "order of a set"
            )
