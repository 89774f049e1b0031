"""A run's record marks what its config and method use beyond labelled images."""

from types import SimpleNamespace

import pytest

from recipe.settings import build_cfg
from trainers.prompting.method import METHODS
from trainers.prompting.record.results import Evaluation

MMRL = {"TRAINER.NAME": "MMRL", "DATASET.NAME": "EuroSAT"}
WEIGHT = "TRAINER.MMRL.REG_WEIGHT"


def beyond(cfg, num_trained=0, **method):
    """Return the marks of an evaluation of a method with these attributes, or of other code."""
    plain = {"takes": (), "searches": False, "settings": SimpleNamespace(sentences=None)}
    method = SimpleNamespace(**plain | method) if method else None
    of_run = {"cfg": cfg, "method": method, "num_trained": num_trained}
    return Evaluation(dataset=None, num_classes=2, device=None, results={}, **of_run).beyond()


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
    assert beyond(cfg) == (["per data set"] if keys else [])


def test_of_the_method():
    cfg = build_cfg([("the config", MMRL)])
    assert METHODS["CoPrompt"].takes == ("sentences",)
    assert beyond(cfg, takes=("teacher", "llm")) == ["llm", "teacher"]
    for about, marks in (((("a cat.",),), ["sentences"]), ((), [])):
        settings = SimpleNamespace(sentences=SimpleNamespace(about=about))
        assert beyond(cfg, settings=settings) == marks


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
    assert beyond(cfg, trained, searches=searches) == marks
