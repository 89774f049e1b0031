"""What a record says of the training: what its images were, and from which weights it started."""

import re
from collections.abc import Mapping
from typing import Any

from trainers.prompting.dataset_keys import CHANGES, SENTENCES, STREAM

from ..protocols.base import learns_nothing
from ..records import Outcome, value_at

INIT, SOURCE = "INIT_WEIGHTS", "SENTENCES"
ATTACK, TRAINED = "attack", "TRAIN.ATTACK"  # in a test; what a training learned from
Settings = tuple[tuple[str, Any], ...]  # keys and values
# What a record counts of each.
COUNTS = {
    "LABEL_NOISE": "wrong_labels",
    "LABEL_NOISE_KIND": "wrong_labels",
    "IMBALANCE": "left_out",
}


def unfelt(result: Mapping) -> set[str]:
    """Return the keys in CHANGES that changed no image that the method of a record learned from."""
    counts = result.get("drawn") or {}
    return {key for key, count in COUNTS.items() if counts.get(count) == 0}


def compared_config(result: Mapping) -> dict:
    """Return the config of a record by which runs are compared.

    Label noise and imbalance that are `unfelt` count as none, and files (of sentences, of a stream)
    as what they hold. Weights that the training started from are always named, and so left out.
    """
    config = result.get("config") or {}
    data, model = config.get("DATASET") or {}, config.get("MODEL") or {}
    defaults = {key: CHANGES[key] for key in unfelt(result) if key in data}
    defaults |= {SOURCE: result["sentences"]} if result.get("sentences") else {}
    parts = {"DATASET": data | defaults} if defaults else {}
    parts |= {"MODEL": {**model, INIT: ""}} if model.get(INIT) else {}
    test = config.get("TEST") or {}
    if stream := (result.get("stream") or {}).get("name"):
        parts["TEST"] = test | {"STREAM": stream}
    if result.get("attack"):  # which `attacks` names, as the next one
        parts["TEST"] = {key: x for key, x in test.items() if not key.startswith("ATTACK")}
    if value_at(config, TRAINED):
        parts["TRAIN"] = {key: x for key, x in config["TRAIN"].items() if key != "ATTACK"}
    return config | parts


def initial_weights(outcome: Outcome) -> Settings:
    """Return the setting INIT_WEIGHTS, if the training, or what is not trained, started from some.

    The seed in a path is left out where it is that of the run.
    """
    path = value_at((outcome.result or {}).get("config"), f"MODEL.{INIT}")
    return ((INIT, re.sub(rf"seed{outcome.run.seed}(?!\d)", "seed", str(path))),) if path else ()


def image_changes(outcome: Outcome) -> Settings | None:
    """Return how training images were changed, by key of CHANGES; None without a record."""
    result = outcome.result or {}
    if result.get("config") is None:
        return None
    if learns_nothing(outcome.run.trainer):
        return ()
    config = compared_config(result)
    values = {key: value_at(config, f"DATASET.{key}") for key in CHANGES}
    return tuple((k, plain(v)) for k, v in values.items() if v not in (None, CHANGES[k]))


def always_named(outcome: Outcome) -> Settings | None:
    """Return the settings of images, sentences, streams, weights and attacks, named in any table.

    None if they are unknown.
    """
    changes = image_changes(outcome)
    if changes is None:
        return None
    config = compared_config(outcome.result or {})
    given = config.get("DATASET") or {}
    sentences = tuple((key, given[key]) for key in SENTENCES if given.get(key))
    of_test = config.get("TEST") or {}
    stream = tuple((key, of_test[key]) for key, x in STREAM.items() if of_test.get(key, x) != x)
    return (*changes, *sentences, *stream, *initial_weights(outcome), *attacks(outcome))


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


def drawn_text(outcome: Outcome) -> str | None:
    """Return what label noise and imbalance have done to the training images; None if unknown."""
    counts = (outcome.result or {}).get("drawn")
    if not counts:
        return None
    return (
        f"{counts.get('wrong_labels', 0):,} of {counts.get('images', 0):,} labels are wrong, "
        f"{counts.get('left_out', 0):,} images left out"
    )


def plain(value: Any) -> Any:
    """Return a value of a config as a number or text."""
    return value if isinstance(value, int | float | str) else str(value)


def attacks(outcome: Outcome) -> Settings:
    """Return the attack of the test and that of the training, if any, in words."""
    result = outcome.result or {}
    texts = (result.get(ATTACK) or {}).get("text"), value_at(result.get("config"), TRAINED)
    return tuple(pair for pair in zip((ATTACK, TRAINED), texts, strict=True) if pair[1])
