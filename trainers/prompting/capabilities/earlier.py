"""Methods that were trained before, as a part of another one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.keys import ABOUT
from ..checkpoint.saved import Saved
from ..encoders.descriptions import Asked
from ..errors import UserError, need
from ..method import Method, find_method
from ..node import Settings, fill, read_node
from ..teacher import MethodTeacher


def build_earlier(
    trained: Saved,
    kind: type[Method],
    settings: Settings | None,
    clip_model: Any,
    what: str,
    origin: Mapping[str, Any],
    dataset: str,
    classnames: Sequence[str],
) -> MethodTeacher:
    """Return a method as its checkpoint says, on its CLIP, for a data set and K class names.

    `settings` of None are taken from the checkpoint; `origin` is what records say of it, and `what`
    is the beginning of the message if it does not fit.
    """
    try:
        if settings is None:
            rule = trained.value("DATASET.SENTENCES_RULE") or ""
            need(
                not rule.startswith("score"),
                f"its DATASET.SENTENCES_RULE is {rule}: choose a run with one feature a class",
            )
            settings = settings_of(trained, kind, dataset)
        method = kind(settings, clip_model, classnames, dataset)
        method.load_checkpoint(trained, classnames)
    except UserError as error:
        raise UserError(f"{what} ({error})") from None
    return MethodTeacher(method, classnames, trained, origin)


def settings_of(trained: Saved, kind: type[Method], dataset: str) -> Settings:
    """Return the settings of a method as its checkpoint says; raises as `read_node`."""
    place = Path(trained.place)  # of a file in the folder of its model, or the folder of the run
    run = place if place.is_dir() else place.parent.parent
    of_run = {"run": run, "seed": trained.value("SEED"), "dataset": trained.value("DATASET.NAME")}
    values = {key: fill(trained.value(kind.place(key)), of_run) for key in kind.defaults}
    source, rule = (trained.value(place) or "" for place in ABOUT)
    asked = Asked(trained.sentences or source, rule) if source else None
    settings: Settings = read_node(kind, values, dataset, asked, bool(trained.several))
    return settings


def earlier_method(
    place: str, key: str, clip_model: Any, classnames: Sequence[str], dataset: str
) -> MethodTeacher:
    """Return the method of a run of this project, for these K classes, on the same CLIP.

    `place` is the output folder of the run; `key` is the setting that gives it, for messages.
    """
    trained = Saved.find(place, key, "give the output folder of a run that has ended")
    need(
        trained.trainer is not None,
        f"The checkpoint in '{trained.place}' is of public code, which does not say its settings: "
        f"give {key} the output folder of a run",
    )
    kind = find_method(str(trained.trainer))
    need(
        kind.predict is Method.predict,
        f"{kind.__name__}, the method of the run in '{trained.place}', adapts to the images that "
        f"it classifies: give {key} a run of another method, such as CoOp",
    )
    what = f"The run of {kind.__name__} in '{trained.place}', of {key}, cannot be used here"
    origin = trained.origin()
    return build_earlier(trained, kind, None, clip_model, what, origin, dataset, classnames)
