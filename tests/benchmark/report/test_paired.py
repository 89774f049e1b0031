"""The difference of two methods on the same images: interval and test, where both are known."""

import itertools

import numpy as np
import pytest

from benchmark.report import paired
from benchmark.report.paired import Block, Pair, difference


def block(ours, theirs, name="images", training="training"):
    return Block(training, [Pair(name, np.atleast_2d(ours), np.atleast_2d(theirs))])


def test_few_images_are_tested_exactly():
    """Five images tell the methods apart, all for ours: 2 of 2^5 swaps are as extreme."""
    ours, theirs = np.zeros((2, 1, 40), bool)
    ours[0, :5] = True
    found = difference([block(ours, theirs)])
    assert found.value == pytest.approx(12.5)
    assert found.p == 2 / 2**5
    assert difference([block(ours, ours)]).p == 1


def test_all_swaps_are_those_of_images_with_all_their_seeds():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, 3, 8)) < 0.5
    gaps = 100 * (ours.astype(float) - theirs).mean(0) / 8
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    expected = (np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9).mean()
    assert difference([block(ours, theirs)]).p == pytest.approx(expected)


def test_random_swaps_come_near_all_swaps(monkeypatch):
    rng = np.random.default_rng(1)
    ours, theirs = rng.random((2, 2, 12)) < [[[0.8]], [[0.4]]]
    exact = difference([block(ours, theirs)]).p
    monkeypatch.setattr(paired, "EXACT", 0)
    assert difference([block(ours, theirs)]).p == pytest.approx(exact, abs=0.02)


def test_h_is_computed_anew_in_every_draw():
    """H of one data set is a mean over seeds, that of averages is of averages."""
    rng = np.random.default_rng(2)
    runs = rng.random((2, 2, 2, 3, 50)) < 0.6  # data set, column, method, seed, image
    blocks = [Block(f"t{i}", [Pair(f"{i} {j}", *runs[i, j]) for j in range(2)]) for i in range(2)]
    base, new = 100 * runs[:, 0].mean(-1), 100 * runs[:, 1].mean(-1)  # data set, method, seed
    each = (2 * base * new / (base + new)).mean(-1)[0]
    assert difference(blocks[:1]).value == pytest.approx(each[0] - each[1])
    base, new = base.mean((0, 2)), new.mean((0, 2))
    h = 2 * base * new / (base + new)
    found = difference(blocks, of_averages=True)
    assert found.value == pytest.approx(h[0] - h[1])
    assert found.low < found.value < found.high and found == difference(blocks, of_averages=True)


def test_the_interval_over_images_is_that_of_a_paired_difference():
    rng = np.random.default_rng(3)
    ours, theirs = rng.random((2, 1, 400)) < [[[0.6]], [[0.5]]]
    gaps = 100 * (ours.astype(float) - theirs)
    half = 1.96 * gaps.std() / 20
    found = difference([block(ours, theirs)])
    assert found.low == pytest.approx(found.value - half, abs=0.7)
    assert found.high == pytest.approx(found.value + half, abs=0.7)


@pytest.mark.parametrize("datasets", [1, 4])
@pytest.mark.parametrize(("spread", "least"), [(0, 0.92), (0.01, 0.92), (0.04, 0.9)])
def test_the_interval_holds_the_truth_as_often_as_it_says(monkeypatch, datasets, spread, least):
    """No more often, either: that would hide differences which are there.

    Three seeds that differ much (4 points) tell badly by how much they do.
    """
    monkeypatch.setattr(paired, "REPLICATES", 300)
    rng = np.random.default_rng(4)
    held = []
    for _ in range(200):
        blocks = []
        for i in range(datasets):
            skill = 0.55 + rng.normal(0, spread, (2, 3, 1))  # of a training
            blocks.append(block(*(rng.random((2, 3, 200)) < skill), f"images {i}", f"training {i}"))
        found = difference(blocks, of_averages=datasets > 1)
        held.append(found.low <= 0 <= found.high)
    assert least <= np.mean(held) <= 0.98


def test_seeds_that_differ_widen_the_interval():
    ours, theirs = np.zeros((2, 3, 1000), bool)
    ours[0, :300] = True  # one seed of three is better by far
    found = difference([block(ours, theirs)])
    assert found.value == pytest.approx(10)
    assert found.low < 0 and found.high > 25


def test_blocks_of_the_same_trainings_draw_the_same_seeds():
    """On two targets that both hang on the seed alone, an average is as unsure as each of them."""
    ours, theirs = np.zeros((2, 2, 100), bool)
    ours[0] = True  # with one seed of two always right, with the other never
    same = difference([block(ours, theirs), block(ours, theirs, "others")], of_averages=True)
    apart = [block(ours, theirs, str(i), f"training {i}") for i in range(4)]
    assert (same.low, same.high) == difference([block(ours, theirs)])[1:3]
    assert difference(apart, of_averages=True).low > same.low
