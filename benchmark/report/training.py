"""What a record says of the training: what its images were, and from which weights it started."""

import re
from collections.abc import Mapping
from typing import Any

from trainers.prompting.checkpoint.keys import ABOUT, KEYS

from ..protocols.base import learns_nothing
from ..records import Outcome, run_of, value_of

INIT = "INIT_WEIGHTS"
SHOWN = (*ABOUT, "TEST.STREAM")
ATTACK, TRAINED = "attack", "TRAIN.ATTACK"  # in a test; what a training learned from
Settings = tuple[tuple[str, Any], ...]  # keys and values
# What a record counts of each.
COUNTS = {
    "LABEL_NOISE": "wrong_labels",
    "LABEL_NOISE_KIND": "wrong_labels",
    "IMBALANCE": "left_out",
}


def unfelt(result: Mapping) -> set[str]:
    """Return the keys of changes that changed no image that the method of a record learned from."""
    counts = result.get("drawn") or {}
    return {f"DATASET.{key}" for key, count in COUNTS.items() if counts.get(count) == 0}


# What tables have as columns, facts or settings that are always named.
NAMED = ("SEED", "DATASET.NUM_SHOTS", "TEST.SPLIT", "TEST.OOD", f"MODEL.{INIT}", TRAINED)


def compared_keys(result: Mapping) -> dict[str, Any]:
    """Return the keys of a record by which runs are compared.

    Label noise and imbalance that are `unfelt` count as none.
    """
    run = run_of(dict(result))
    keys = {**run.settings, **run.training, **run.test}
    keys |= {place: KEYS[place].default for place in unfelt(result) if place in keys}
    out = [place for place in keys if result.get("attack") and place.startswith("TEST.ATTACK")]
    return {place: value for place, value in keys.items() if place not in (*NAMED, *out)}


def initial_weights(outcome: Outcome) -> Settings:
    """Return the setting INIT_WEIGHTS, if the training, or what is not trained, started from some.

    The seed in a path is left out where it is that of the run.
    """
    path = value_of(outcome.result, f"MODEL.{INIT}")
    return ((INIT, re.sub(rf"seed{outcome.run.seed}(?!\d)", "seed", str(path))),) if path else ()


def image_changes(outcome: Outcome) -> Settings | None:
    """Return how training images were changed, by key of COUNTS; None without a record."""
    result = outcome.result or {}
    if result.get("run") is None:
        return None
    if learns_nothing(outcome.run.trainer):
        return ()
    keys = compared_keys(result)
    places = {key: f"DATASET.{key}" for key in COUNTS}
    values = {key: keys.get(place, KEYS[place].default) for key, place in places.items()}
    return tuple((k, plain(v)) for k, v in values.items() if v != KEYS[places[k]].default)


def always_named(outcome: Outcome) -> Settings | None:
    """Return the settings of images, sentences, streams, weights and attacks, named in any table.

    None if they are unknown.
    """
    changes = image_changes(outcome)
    if changes is None:
        return None
    keys = run_of(outcome.result).keys
    given = {x: keys[x] for x in SHOWN if keys.get(x, KEYS[x].default) != KEYS[x].default}
    named = tuple((place.partition(".")[2], value) for place, value in given.items())
    return (*changes, *named, *initial_weights(outcome), *attacks(outcome))


def earlier_text(outcome: Outcome, key: str) -> str | None:
    """Return what a record says of the training of its `teacher`, or of its `start`; None without.

    The seed is left out where it is that of the run.
    """
    facts, seed = (outcome.result or {}).get(key), outcome.run.seed
    if not facts:
        return None
    known = {key: value for key, value in facts.items() if value != "unknown"}
    details = [str(known.get("backbone", "unknown CLIP"))]
    details += [f"{known[key]} {key}" for key in ("classes", "shots") if key in known]
    if known.get("seed", seed) != seed:
        details.append(f"seed {known['seed']}")
    if known.get("label_noise"):
        details.append(f"label noise {known['label_noise']:g} {known.get('label_noise_kind', '')}")
    if known.get("imbalance", 1.0) != 1.0:
        details.append(f"imbalance {known['imbalance']:g}")
    place = f"on {known['dataset']}" if "dataset" in known else "trained on unknown images"
    return f"{known.get('method', 'unknown method')} {place} ({', '.join(details)})"


def plain(value: Any) -> Any:
    """Return a value of a config as a number, or as a text."""
    return value if isinstance(value, int | float) else str(value)


def attacks(outcome: Outcome) -> Settings:
    """Return the attack of the test and that of the training, if any, in words."""
    result = outcome.result or {}
    texts = (result.get(ATTACK) or {}).get("text"), value_of(result, TRAINED)
    return tuple((key, str(x)) for key, x in zip((ATTACK, TRAINED), texts, strict=True) if x)
