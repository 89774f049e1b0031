"""Thresholds of tags, and whether what is said of tags is true, on real scores of VOC2007."""

import numpy as np
import pytest
from paths import GOLDEN
from safetensors.numpy import load_file

from trainers.prompting.record import thresholds as tags

DRAWS = 200


def f1(given, y):
    """Return F1 of all tags."""
    return 2 * (given & (y == 1)).sum() / (given[y >= 0].sum() + (y == 1).sum())


def collection(n=60, K=4, seed=0):
    """Return scores whose levels differ by class, and labels of which some are unknown."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, K)) < 0.3).astype(int)
    s = y + 0.4 * rng.standard_normal((n, K)) + np.arange(K)
    y[rng.random((n, K)) < 0.1] = -1
    return s, y


def test_the_best_threshold_is_that_of_all_cuts():
    """Also with ties, which no threshold divides."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        s, y = rng.integers(0, 6, 12) / 2, rng.integers(0, 2, 12)
        y[0] = 1
        best = max(f1(s >= cut, y) for cut in s)
        assert f1(s >= tags.best_threshold(s, y), y) == best


def test_unknown_labels_change_nothing():
    s, y = collection()
    odd = np.where(y < 0, 1e6, s)
    for decides in (True, False):
        one, given = tags.fit_thresholds(s, y, decides)
        other, again = tags.fit_thresholds(odd, y, decides)
        np.testing.assert_allclose(one.best, other.best)
        assert tags.share_right(given >= 0, y) == tags.share_right(again >= 0, y)


def test_classes_of_other_levels_get_their_own_thresholds():
    s, y = collection(400)
    each = tags.choose_thresholds(s, y, False)
    np.testing.assert_allclose(each, 0.5 + np.arange(4), atol=0.2)
    s, y = collection(400)
    # folds see that one threshold does not fit probabilities of several levels, either
    np.testing.assert_allclose(tags.choose_thresholds(s / 4, y, True) * 4, each, atol=1e-9)
    same = s - np.arange(4)
    assert np.ptp(tags.choose_thresholds(same[:99], y[:99], True)) == 0


def test_with_few_images_probabilities_keep_a_half():
    s, y = collection(19)
    assert (tags.choose_thresholds(s, y, True) == 0.5).all()
    assert (tags.choose_thresholds(*collection(20), True) != 0.5).all()
    # in folds of 20 images as with all of them
    assert (tags.choose_thresholds(s, y, True, 20) != 0.5).all()


def test_a_name_without_a_positive_takes_the_threshold_of_all():
    s, y = collection()
    y[:, 2] = 0
    one = tags.choose_thresholds(s, y, False)
    assert one[2] == tags.best_threshold(s[y >= 0], y[y >= 0])


def test_without_a_positive_nothing_is_a_tag():
    s, y = np.array([[0.2, 0.9], [0.4, 0.1]]), np.zeros((2, 2), int)
    assert not (s >= tags.choose_thresholds(s, y, False)).any()


@pytest.mark.parametrize("wrong, sure", [(0, True), (1, False)])
def test_29_right_tags_are_the_least_that_prove_it(wrong, sure):
    y = np.zeros((50, 1), int)
    y[wrong : 29 + wrong] = 1
    values = -np.arange(50.0)[:, None]
    found = tags.find_sure(values, y)
    assert (found == (-28, 1.0)) if sure else (found is None)
    assert tags.find_sure(values[:49], y[:49]) is None


def test_the_sequence_ends_at_the_first_failure():
    """A good value behind a bad one is not taken: that would be one of many tries."""
    y = np.r_[np.ones(40, int), np.zeros(90, int), np.ones(840, int)][:, None]
    values = -np.arange(len(y), dtype=float)[:, None]
    assert tags.find_sure(values[:60], y[:60])[0] == -39  # 40 of 41 do not prove it
    assert tags.find_sure(values, y) is None  # of 485 tags, the first ones tested, 90 are wrong
    y[50:130] = 1
    assert tags.find_sure(values, y)[0] == -969


def test_what_is_said():
    s, y = collection(200)
    thresholds, given = tags.fit_thresholds(s, y, False)
    first, second = tags.sentences(thresholds, given >= 0, y)
    p, low, high = tags.share_right(given >= 0, y)
    assert first == (
        f"By folds, about {100 * p:.0f} of 100 tags were right (95%: {100 * low:.0f} to "
        f"{100 * high:.0f})."
    )
    assert low < p < high
    assert f"finds about {100 * thresholds.found:.0f}% of the labels" in second
    few, margins = tags.fit_thresholds(s[:19], y[:19], False)
    assert tags.sentences(few, margins >= 0, y[:19]) == []


def test_probabilities_have_one_sure_threshold():
    s, y = collection(200)
    alike = s - np.arange(4)
    thresholds, _ = tags.fit_thresholds(alike, y, True)
    assert (thresholds.sure == tags.find_sure(alike, y)[0]).all() and len(thresholds.sure) == 4


@pytest.fixture(scope="module")
def voc2007():
    """Return labels, and scores of a model by its name."""
    kept = load_file(GOLDEN / "voc2007" / "scores.safetensors")
    probabilities = 1 / (1 + np.exp(-kept["dualcoop/local"].astype(float)))
    ranks = kept["taidpt/global"].astype(float)
    return kept["label"].astype(int), {"dualcoop": probabilities, "taidpt": ranks}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dualcoop", "taidpt"])
@pytest.mark.parametrize("n", [20, 100, 300])
def test_each_sentence_is_as_often_true_as_it_says(voc2007, model, n):
    """95 of 100 draws; 200 draws cannot tell 91.9 from it. All other photographs are the truth."""
    y, s = voc2007[0], voc2007[1][model]
    rng, decides = np.random.default_rng(106 + n), model == "dualcoop"
    held, said, true = 0, 0, 0
    for _ in range(DRAWS):
        order = rng.permutation(len(y))
        own, rest = order[:n], order[n:]
        thresholds, given = tags.fit_thresholds(s[own], y[own], decides)
        of_rest = y[rest] == 1, y[rest] >= 0
        precision = [
            (tagged & of_rest[0]).sum() / (tagged & of_rest[1]).sum()
            for t in (thresholds.best, thresholds.sure)
            if t is not None
            for tagged in [s[rest] >= t]
        ]
        _, low, high = tags.share_right(given >= 0, y[own])
        held += low <= precision[0] <= high
        if thresholds.sure is not None:
            said, true = said + 1, true + (precision[1] >= tags.GOAL)
    print(f"{model}, {n}: the interval held in {held}, {true} of {said} were sure, of {DRAWS}")
    assert held >= 0.919 * DRAWS
    assert DRAWS - said + true >= 0.919 * DRAWS  # a broken promise is one of all draws
