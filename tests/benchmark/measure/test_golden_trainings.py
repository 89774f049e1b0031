"""Whole trainings of published code on the tiny CLIP, repeated from the same start and batches."""

import pytest
from cases import slow_but
from paths import GOLDEN, ROOT

from benchmark.measure.pets import write_pets
from benchmark.measure.replay import Places, Record, compare_records, replay

FILES = sorted((ROOT / "tests" / "golden_trainings").glob("*.safetensors"))
QUICK = [path for path in FILES if path.stem in ("align", "coop", "maple", "mmp")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_pets(folder, 32)
    return folder


@pytest.fixture
def places(root, tmp_path):
    return Places(root, GOLDEN / "tiny_clip_seed0.safetensors", tmp_path)


@pytest.mark.parametrize("path", slow_but(FILES, *QUICK), ids=lambda path: path.stem)
def test_a_whole_training_is_that_of_public_code(path, places):
    theirs = Record.read(path)
    ours = replay(theirs, places)
    found = compare_records(theirs, ours)
    assert not found.problems, found
    assert found.steps == 9 and found.moved > 0.01
    assert ours.facts == {half: theirs.facts[half] for half in ("base", "new")}


def test_every_method_has_a_training():
    facts = [Record.read(path).facts for path in FILES]
    assert len(FILES) == 11
    assert {fact["trainer"].lower() for fact in facts} == {path.stem for path in FILES}
    assert {fact["dassl"] for fact in facts} == {"0.6.3", "none"}  # CLIP-LoRA and CLIP-SVD: none
