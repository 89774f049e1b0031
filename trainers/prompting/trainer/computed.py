"""The precision that a run is computed in, and on what, also where a training began in others."""

from collections.abc import Mapping

from ..errors import printable
from ..running.devices import processor
from ..running.precision import Precision
from ..storage.checkpoints import broken_checkpoint
from ..storage.state import is_settings

TYPES = {"float32", "bfloat16", "float16"}
AND = " + "  # between those of a run that was resumed


def computed(precision: Precision) -> dict[str, str]:
    """Return the `precision` of a run and its `processor`."""
    name = str(precision.computed_in).removeprefix("torch.")
    return {"precision": name, "processor": processor(precision.device)}


def goes_on(checkpoint: Mapping, now: dict[str, str], folder: str) -> dict[str, str]:
    """Say where a run is resumed or tested in another precision or on another kind of processor.

    Args:
        checkpoint: of the training; one of other code says neither.
        now: of the run, as `computed` returns it.
        folder: of the checkpoint.

    Returns:
        Both of the whole run, as `computed` does, joined by AND.

    Raises:
        UserError: the checkpoint has no valid ones.
    """
    if "computed" not in checkpoint:
        return now
    then = checkpoint["computed"]
    if (
        not is_settings(then)
        or then.keys() != now.keys()
        or not {*then["precision"].split(AND)} <= TYPES
    ):
        raise broken_checkpoint(folder, checkpoint["epoch"], "has no valid precision")
    if then != now:
        begun, here = (f"{one['precision']} ({printable(one['processor'])})" for one in (then, now))
        print(f"Computed in {here}; begun in {begun}")
    return {key: AND.join(dict.fromkeys([*then[key].split(AND), now[key]])) for key in now}
