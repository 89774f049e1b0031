"""A run's record marks what its config and method use beyond labelled images."""

from types import SimpleNamespace

import pytest

from recipe.settings import build_cfg
from trainers.prompting.method import METHODS
from trainers.prompting.record.results import beyond

MMRL = {"TRAINER.NAME": "MMRL", "DATASET.NAME": "EuroSAT"}
WEIGHT = "TRAINER.MMRL.REG_WEIGHT"


@pytest.mark.parametrize(
    ("sources", "keys"),
    [
        ([{WEIGHT: 2.0}], []),
        ([{f"BY_DATASET.EuroSAT.{WEIGHT}": 2.0}], [WEIGHT]),
        ([{f"BY_DATASET.UCF101.{WEIGHT}": 2.0}], [WEIGHT]),  # also if set for another data set
        ([{f"BY_SHOTS.1.BY_DATASET.other.{WEIGHT}": 2.0}], [WEIGHT]),
        ([{f"BY_SHOTS.1.{WEIGHT}": 2.0}], []),
        ([{"BY_DATASET.EuroSAT.OPTIM.MAX_EPOCH": 7}], []),
        ([{"BY_DATASET.EuroSAT.TRAINER.COOP.N_CTX": 7}], []),
        ([{f"BY_DATASET.EuroSAT.{WEIGHT}": 2.0}, {WEIGHT: 3.0}], []),  # one value for all again
    ],
)
def test_settings_per_data_set(sources, keys):
    cfg = build_cfg([("the config", MMRL), *(("a file", source) for source in sources)])
    assert keys == cfg.TRAINER.PER_DATASET
    assert beyond(cfg, SimpleNamespace()) == (["per data set"] if keys else [])


def test_of_the_method():
    cfg = build_cfg([("the config", MMRL)])
    assert METHODS["CoPrompt"].takes == ("llm",)
    trainer = SimpleNamespace(method=SimpleNamespace(takes=("teacher", "llm")))
    assert beyond(cfg, trainer) == ["llm", "teacher"]
    for about, marks in (((("a cat.",),), ["llm"]), ((), [])):
        settings = SimpleNamespace(sentences=SimpleNamespace(about=about))
        method = SimpleNamespace(takes=(), settings=settings)
        assert beyond(cfg, SimpleNamespace(method=method)) == marks


@pytest.mark.parametrize(
    "final, searches, trained, marks",
    [
        ("best_val", False, 10, ["validation"]),
        ("best_val", False, 0, []),  # nothing is trained: no epoch is chosen
        ("last_step", False, 10, []),
        ("last_step", True, 0, ["validation"]),
    ],
)
def test_what_is_chosen_on_validation_images(final, searches, trained, marks):
    cfg = build_cfg([("the config", MMRL | {"TEST.FINAL_MODEL": final})])
    method = SimpleNamespace(takes=(), searches=searches)
    assert beyond(cfg, SimpleNamespace(method=method, num_trained=trained)) == marks
