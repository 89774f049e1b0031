"""The embedded data sets by artist."""

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from embedded import ARTISTS, BASE, CLASSES, PRETRAINING, WITHHELD
from embedded import BY_ARTIST as DATASETS
from paths import ROOT
from PIL import Image

from benchmark.report.names import motif
from datasets.emoji import ARTISTS as ARCHIVE

REGISTERED = [
    f"Emoji{artist}{half}"
    for artist in ("Openmoji", "Fluent", "Emojione", "Symbola")
    for half in "AB"
]


@pytest.fixture(scope="module")
def archive():
    with zipfile.ZipFile(ARCHIVE) as file:
        yield file


@pytest.fixture(scope="module")
def splits(archive):
    return {name: json.loads(archive.read(f"split_{name}.json")) for name in DATASETS}


def test_archive_holds_what_its_splits_name_and_nothing_else(archive, splits):
    named = {row[0] for split in splits.values() for rows in split.values() for row in rows}
    texts = {"ATTRIBUTION-ARTISTS.txt", "LICENSE-MIT.txt", "withheld.json"}
    texts |= {f"split_{name}.json" for name in DATASETS}
    assert set(archive.namelist()) == {f"images/{path}" for path in named} | texts
    attribution = archive.read("ATTRIBUTION-ARTISTS.txt").decode()
    assert attribution == (ROOT / "assets" / "ATTRIBUTION-ARTISTS.txt").read_text("utf-8")
    assert {path.split("/")[0] for path in named} == {*ARTISTS}
    for artist in ARTISTS:
        assert f"images/{artist}" in attribution
    for path in named:
        with Image.open(archive.open(f"images/{path}")) as image:
            assert image.convert("RGB").size == (64, 64), path


def test_every_class_has_as_many_images_in_every_set(splits):
    tested = None
    for name, split in splits.items():
        counts = {part: Counter(row[2] for row in rows) for part, rows in split.items()}
        assert counts["train"] == dict.fromkeys(CLASSES, 16), name
        assert counts["val"] == dict.fromkeys(CLASSES, 4), name
        assert set(counts["test"]) == set(CLASSES) and min(counts["test"].values()) >= 8
        tested = tested or counts["test"]
        assert counts["test"] == tested
    assert sum(tested.values()) == 338


def test_a_motif_is_in_one_part_and_class_of_all_sets(splits):
    place, images = {}, Counter()
    for name, split in splits.items():
        for part, rows in split.items():
            for path, _, label in rows:
                shown = motif(name, path)
                assert place.setdefault(shown, (part, label)) == (part, label), path
                images[name, shown] += 1
    assert set(images.values()) == {1}  # so test images show different things
    assert len(place) == 22 * 20 + 338


def test_test_motifs_are_withheld_from_pretraining(archive, splits):
    listed = archive.read("withheld.json")
    assert hashlib.sha256(listed).hexdigest() == WITHHELD
    withheld = set(json.loads(listed))
    for split in splits.values():
        of = {part: {Path(row[0]).stem for row in rows} for part, rows in split.items()}
        assert of["val"] | of["test"] <= withheld
        assert not of["train"] & withheld
    assert {"1f436", "1f415"} <= withheld or not {"1f436", "1f415"} & withheld  # dog face and dog
    assert not {*ARTISTS} & PRETRAINING


def test_base_classes_are_those_of_the_split(splits):
    for name, split in splits.items():
        names = dict(sorted((row[1], row[2]) for row in split["train"]))
        base = BASE[name[-1]]
        assert list(names.values()) == base + sorted({*CLASSES} - {*base})


def test_every_data_set_has_an_artist_and_a_config_file():
    assert [
        (ROOT / f"configs/datasets/{name}.yaml").read_text().split('"')[1] for name in DATASETS
    ] == REGISTERED


@pytest.mark.parametrize("name", REGISTERED)
def test_data_sets(name, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / "artists"

    def read(subset, shots, seed=1):
        keys = SimpleNamespace(ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset)
        return DATASET_REGISTRY.get(name)(SimpleNamespace(DATASET=keys, SEED=seed))

    base, new = read("base", 4), read("new", 4)
    assert (base.num_classes, new.num_classes) == (11, 11)
    assert not set(base.classnames) & set(new.classnames)
    assert (len(base.train_x), len(base.val)) == (44, 44)
    assert len(base.test) + len(new.test) == 338
    assert Path(base.test[0].impath).is_file()
    drawn = [{item.impath for item in read("base", 4, seed).train_x} for seed in (1, 2)]
    assert len(drawn[0] & drawn[1]) < 22  # a quarter of them by chance
