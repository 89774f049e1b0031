"""Methods that were trained before, as a part of another one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.saved import ABOUT, Saved
from ..encoders.descriptions import Asked
from ..errors import UserError, need
from ..method import Method, find_method
from ..node import Settings, check_values
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
            saved = {key: trained.value(kind.place(key)) for key in kind.defaults}
            values = {key: value for key, value in saved.items() if value is not None}
            check_values(kind.Settings, values, kind.place)
            settings = kind.Settings(**values, dataset=dataset, sentences=_sentences_of(trained))
        method = kind(settings, clip_model, classnames, dataset)
        method.load_checkpoint(trained, classnames)
    except UserError as error:
        raise UserError(f"{what} ({error})") from None
    return MethodTeacher(method, classnames, trained, origin)


def _sentences_of(trained: Saved) -> Asked | None:
    """Return the sentences that an earlier run asked for."""
    source, rule = (trained.value(place) or "" for place in ABOUT)
    need(
        not rule.startswith("score"),
        f"its DATASET.SENTENCES_RULE is {rule}: choose a run with one feature of each class",
    )
    return Asked(trained.sentences or source, rule) if source else None


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
