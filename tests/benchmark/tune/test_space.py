"""Search spaces: the settings of each method."""

import pytest
import yaml

from benchmark.protocols.configs import CONFIGS, known_trainers
from benchmark.protocols.space import Space, as_pairs, read_word, setting_text
from benchmark.protocols.tuning import folder_name
from trainers.prompting.errors import UserError

KNOWN = ("CoOp", "KgCoOp")


def names(space: Space, trainer: str = "CoOp", budget=None) -> list[str]:
    return [setting_text(setting) for setting in space.settings(trainer, budget)]


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a tree to a file and reads it as a search space."""

    def write(tree, *words: str) -> Space:
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return Space(tmp_path / "space.yaml", words, KNOWN)

    return write


def test_a_grid_of_dotted_or_nested_keys(written):
    space = written({"OPTIM": {"LR": [0.1, 0.2], "NAME": "sgd"}, "OPTIM.MAX_EPOCH": [5, 10]})
    assert names(space) == [
        f"OPTIM.LR={rate} OPTIM.NAME=sgd OPTIM.MAX_EPOCH={epochs}"
        for rate in (0.1, 0.2)
        for epochs in (5, 10)
    ]


def test_a_method_may_have_its_own_ranges(written):
    own = {"KgCoOp": [{"OPTIM.LR": 1}, {"OPTIM.LR": 2, "TRAINER.COOP.W": [1, 8]}]}
    space = written({"OPTIM.LR": [0.1, 0.2], "BY_TRAINER": own})
    assert names(space) == ["OPTIM.LR=0.1", "OPTIM.LR=0.2"]
    assert names(space, "KgCoOp") == [
        "OPTIM.LR=1", "OPTIM.LR=2 TRAINER.COOP.W=1", "OPTIM.LR=2 TRAINER.COOP.W=8",
    ]  # fmt: skip


def test_several_grids_give_each_setting_once(written):
    sgd, adam = {"OPTIM.NAME": "sgd", "OPTIM.LR": [0.1, 0.01]}, {"OPTIM.NAME": "adam"}
    space = written([sgd, adam | {"OPTIM.LR": [0.001]}, sgd])
    assert names(space) == [
        "OPTIM.NAME=sgd OPTIM.LR=0.1", "OPTIM.NAME=sgd OPTIM.LR=0.01",
        "OPTIM.NAME=adam OPTIM.LR=0.001",
    ]  # fmt: skip


def test_words_replace_what_the_file_has(written):
    space = written({"OPTIM.LR": [0.1, 0.2], "OPTIM.MAX_EPOCH": [5, 10]}, "OPTIM.LR=0.3")
    assert names(space) == ["OPTIM.LR=0.3 OPTIM.MAX_EPOCH=5", "OPTIM.LR=0.3 OPTIM.MAX_EPOCH=10"]


def test_a_budget_draws_the_same_settings_every_time(written):
    space = written({"OPTIM.LR": [i / 100 for i in range(1, 21)]})
    drawn = names(space, budget=5)
    assert drawn == names(space, budget=5) and len(set(drawn)) == 5
    assert set(drawn) < set(names(space)) and len(names(space, budget=50)) == 20


def test_a_large_space_is_drawn_from_without_listing_it(written, deadline):
    space = written([{f"OPTIM.KEY{i}": [1, 2] for i in range(n)} for n in (40, 41)])
    drawn = names(space, budget=100)
    assert drawn == names(space, budget=100) and len(set(drawn)) == 100
    assert 40 < sum("KEY40=" in name for name in drawn) < 90  # of the larger grid: two thirds
    assert all(10 < sum(f"KEY{i}=1" in name for name in drawn) < 90 for i in range(40))
    for given in (None, 10_001):
        with pytest.raises(UserError, match="CoOp has 3,298,534,883,328 settings: give"):
            names(space, budget=given)


def test_large_grids_that_overlap_give_what_they_have(written, monkeypatch):
    monkeypatch.setattr("benchmark.protocols.space.MOST", 100)
    drawn = names(written([{"OPTIM.LR": list(range(60))}] * 2), budget=90)
    assert len(drawn) == len(set(drawn)) == 60


def test_a_key_that_is_given_twice_is_refused(written):
    with pytest.raises(UserError, match="OPTIM.LR is given twice: write all of its values in one"):
        written({}, "OPTIM.LR=0.1", "OPTIM.NAME=sgd,adam", "OPTIM.LR=0.2")


def test_lists_are_values_too():
    key, values = read_word("TRAINER.ALIGN.REGULARIZERS=[kg],[scl_text, scl_image]")
    assert values == [["kg"], ["scl_text", "scl_image"]]
    assert as_pairs({key: values[0]}) == (key, "['kg']")
    assert read_word("OPTIM.LR=1e-3,0.1") == ("OPTIM.LR", ["1e-3", 0.1])


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"OPTIM.LR": None}, "OPTIM.LR has no values"),
        ({"OPTIM.LR": []}, "OPTIM.LR has no values"),
        (["OPTIM.LR"], "is not a search space"),
        ({"BY_TRAINER": {"KgCoOp": [1]}}, "'1' is not a search space"),
        ({"BY_TRAINER": {"KgCoop": {"OPTIM.LR": [1, 2]}}}, "did you mean 'KgCoOp'"),
        ({"BY_TRAINER": 1}, "below BY_TRAINER, write TRAINER:"),
    ],
)
def test_a_file_of_another_form(written, tree, sentence):
    with pytest.raises(UserError, match=sentence.replace("'", ".")):
        written(tree)


def test_folders_are_short_and_differ():
    setting = {"OPTIM.NAME": "sgd", "OPTIM.LR": 0.1}
    assert folder_name(setting) == "OPTIM.LR=0.1_OPTIM.NAME=sgd"
    odd = [folder_name({"TRAINER.ALIGN.CTX_INIT": f"a {mark} of"}) for mark in "/:"]
    assert len(set(odd)) == 2 and not set("/: ") & set("".join(odd))
    long = [folder_name({f"OPTIM.KEY{i}": n for i in range(30)}) for n in (1, 2)]
    assert len(set(long)) == 2 and max(map(len, long)) < 110


@pytest.mark.parametrize("name", ["emoji", "public"])
def test_the_shipped_spaces_give_every_method_the_same_number_of_settings(name):
    space = Space(CONFIGS / "tune" / f"{name}.yaml", (), known_trainers())
    learning = [trainer for trainer in known_trainers() if trainer != "ZeroshotCLIP"]
    assert len({len(space.settings(trainer)) for trainer in learning}) == 1
