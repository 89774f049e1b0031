"""Methods that were trained before, as a part of another one."""

from collections.abc import Sequence
from typing import Any

from ..errors import UserError, need
from ..method import Method, find_method
from ..node import Settings, check_values
from ..storage.saved import Saved
from ..teacher import MethodTeacher


def settings_then(trained: Saved, kind: type[Method], dataset: str) -> Settings:
    """Return the settings that a method had in its training, for a data set of this name.

    Raises:
        UserError: a value is impossible.
    """
    saved = {key: trained.value(kind.place(key)) for key in kind.defaults}
    values = {key: value for key, value in saved.items() if value is not None}
    check_values(kind.Settings, values, kind.place)
    return kind.Settings(**values, dataset=dataset)


def earlier_method(
    place: str, key: str, clip_model: Any, classnames: Sequence[str], dataset: str
) -> MethodTeacher:
    """Return the method of a run of this project, for these classes, on the same CLIP.

    Args:
        place: the output folder of the run.
        key: the setting that gives the place, for messages.
        clip_model: the CLIP, whose modules are shared.
        classnames: K names.
        dataset: name of the data set.

    Raises:
        UserError: there is no such run, its method adapts to the images that it classifies, or it
            does not fit the CLIP or the classes.
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
    try:
        method = kind(settings_then(trained, kind, dataset), clip_model, classnames, dataset)
        method.load_checkpoint(trained, classnames)
    except UserError as error:
        raise UserError(
            f"The run of {kind.__name__} in '{trained.place}', of {key}, cannot be used here "
            f"({error})"
        ) from None
    return MethodTeacher(method, classnames, trained, trained.facts())
