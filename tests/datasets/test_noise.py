"""Label noise and imbalance of training images: amounts, draws, and what they leave as it is."""

import json
import random
from collections import Counter
from functools import partial

import pytest
import tiny
import torch
from dassl.data.datasets import DATASET_REGISTRY, Datum
from own_images import read

from benchmark.records import value_of
from benchmark.report.training import COUNTS
from datasets import noise

K = 6
NAMES = {label: f"class {label}" for label in range(K)}


def items(sizes):
    return [
        Datum(f"{label}_{i}.png", label, 0, NAMES[label])
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


def labels(found):
    return [item.label for item in found]


def steps(found):
    """Return by how many classes each wrong label is off."""
    return [(b - a) % K for a, b in zip(labels(CLEAN), labels(found), strict=True) if a != b]


CLEAN = items([16] * K)


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
def test_an_exact_share_of_each_class_is_wrong(kind):
    found = noise.noisy(CLEAN, NAMES, 0.25, kind, 1)
    wrong = [a for a, b in zip(labels(CLEAN), labels(found), strict=True) if a != b]
    assert Counter(wrong) == dict.fromkeys(range(K), 4)
    assert [item.impath for item in found] == [item.impath for item in CLEAN]
    assert all(item.classname == NAMES[item.label] for item in found)
    others = Counter(step for seed in range(20) for step in
                     steps(noise.noisy(CLEAN, NAMES, 0.25, kind, seed)))  # fmt: skip
    if kind == "pair":
        assert set(others) == {1}
    else:  # 96 of each are expected of 480
        assert set(others) == {1, 2, 3, 4, 5} and all(60 < n < 132 for n in others.values())


@pytest.mark.parametrize("kind", ["sym", "asym"])
def test_wrong_labels_of_all_images_together(kind):
    """As NLPrompt's Dassl draws them: int(noise n) of all images, uneven over the classes."""
    counts, others = Counter(), Counter()
    for seed in range(20):
        found = noise.noisy(CLEAN, NAMES, 0.26, kind, seed)
        wrong = [a for a, b in zip(labels(CLEAN), labels(found), strict=True) if a != b]
        assert len(wrong) == 24 and all(item.classname == NAMES[item.label] for item in found)
        counts.update(Counter(wrong).values())
        others.update(steps(found))
    assert len(counts) > 4 and labels(found) == labels(noise.noisy(CLEAN, NAMES, 0.26, kind, 19))
    assert set(others) == ({1} if kind == "asym" else {1, 2, 3, 4, 5})


def test_a_share_that_is_not_whole_is_rounded_over_the_classes():
    one_each = items([1] * K)
    counts = Counter()
    for seed in range(60):
        found = labels(noise.noisy(one_each, NAMES, 0.25, "symmetric", seed))
        wrong = [label for label, other in enumerate(found) if label != other]
        assert len(wrong) == 2  # 1.5
        counts.update(wrong)
    assert all(8 < counts[label] < 35 for label in range(K))  # 20 are expected


def test_more_noise_includes_less_and_seeds_differ():
    def wrong(share, seed=1):
        found = labels(noise.noisy(CLEAN, NAMES, share, "symmetric", seed))
        pairs = enumerate(zip(labels(CLEAN), found, strict=True))
        return {(i, b) for i, (a, b) in pairs if a != b}

    assert wrong(0) == set() and wrong(0.25) < wrong(0.5) and len(wrong(0.5)) == 8 * K
    assert wrong(0.5) != wrong(0.5, seed=2)


def test_sizes_fall_exponentially():
    kept = noise.imbalance_classes(CLEAN, 10, 1)
    sizes = Counter(labels(kept))
    assert sorted(sizes.values()) == [2, 3, 4, 6, 10, 16]  # 16 / 10^(i / 5)
    places = {item.impath: i for i, item in enumerate(CLEAN)}
    assert [places[item.impath] for item in kept] == sorted(places[i.impath] for i in kept)
    others = [Counter(labels(noise.imbalance_classes(CLEAN, 10, seed))) for seed in range(20)]
    assert len({max(of, key=of.get) for of in others}) > 3  # which class is the largest is drawn
    assert {i.impath for i in noise.imbalance_classes(CLEAN, 50, 1)} < {i.impath for i in kept}
    assert set(Counter(labels(noise.imbalance_classes(items([4] * K), 100, 1)))) == set(NAMES)
    uneven = Counter(labels(noise.imbalance_classes(items([3, 50, 9, 1, 30, 20]), 5, 1)))
    assert uneven == {1: 50, 4: 30, 5: 20, 2: 9, 0: 3, 3: 1}  # none has more than is left to it


# ---- in a data set


load = partial(read, "ImageFolder", shots=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny.write_halves(tmp_path_factory.mktemp("halves"))


def rows(found):
    return [(item.impath, item.label, item.classname) for item in found]


@pytest.mark.parametrize("subset", ["all", "base", "new"])
def test_only_training_images_change(root, subset, capsys):
    clean = load(root, subset=subset)
    random.seed(5)  # earlier random numbers do not matter
    found = load(root, subset=subset, LABEL_NOISE=0.4, IMBALANCE=2.5)
    told = capsys.readouterr().out
    n = clean.num_classes
    wrong = {path: label for path, label, _ in rows(clean.train_x)}
    changed = [path for path, label, _ in rows(found.train_x) if wrong[path] != label]
    assert f"{len(changed)} of {len(found.train_x)} labels are wrong" in told and changed
    assert "has 5 training images and the smallest 2 (IMBALANCE 2.5)" in told
    assert {label for _, label, _ in rows(found.train_x)} <= set(range(n))
    assert found.num_classes == n and found.classnames == clean.classnames
    for part in ("train_u", "val", "test", "validation"):
        assert rows(getattr(found, part)) == rows(getattr(clean, part))
    assert found.other_classnames == clean.other_classnames
    again = load(root, subset=subset, LABEL_NOISE=0.4, IMBALANCE=2.5)
    assert rows(again.train_x) == rows(found.train_x)  # as in a resumed run


def test_a_class_whose_labels_are_all_gone_keeps_its_name(root):
    for seed in range(9):
        found = load(root, shots=1, seed=seed, LABEL_NOISE=0.8)
        assert found.classnames == tiny.HALVES and found.num_classes == 5


def test_images_that_stand_in_for_training_images_stay(root):
    class Tested(DATASET_REGISTRY.get("ImageFolder")):
        only_tested = True

    clean, noisy = (
        read(Tested, root, 5, **keys) for keys in ({}, {"LABEL_NOISE": 0.5, "IMBALANCE": 10})
    )
    assert rows(noisy.train_x) == rows(clean.train_x)


# ---- in a run

NOISY = ["DATASET.LABEL_NOISE", "0.5", "DATASET.LABEL_NOISE_KIND", "pair"]


def test_a_cache_of_training_images_has_the_wrong_labels(root, tmp_path, capsys):
    """So has every method: they read the labels of the same list."""
    out = tmp_path / "out"
    keys = [*tiny.OF_HALVES, "base"]
    assert tiny.run(root, "TipAdapter", out, extra=[*NOISY, *keys]) == 0
    state = torch.load(next((out / "tip_adapter").glob("model*")), weights_only=True)
    values = state["method"]["adapter.values"].argmax(1).tolist()
    found = load(root, shots=4, subset="base", LABEL_NOISE=0.5, LABEL_NOISE_KIND="pair").train_x
    assert values == labels(found) != labels(load(root, shots=4, subset="base").train_x)
    record = json.loads((out / "results.json").read_text())
    assert value_of(record, "DATASET.LABEL_NOISE") == 0.5 and record["seeded"]
    assert "6 of 12 labels are wrong (LABEL_NOISE 0.5, pair)" in (out / "log.txt").read_text()


def test_reports_know_the_keys():
    assert tuple(COUNTS) == noise.CHANGES
