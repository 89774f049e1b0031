"""The interval and p-value of a difference, where the true difference is known."""

import numpy as np
import pytest
from cases import slow_but
from scipy.stats import ttest_rel

from benchmark.report.paired import Pair, difference

MOTIFS = (120, 100)  # of base and of new classes


def pair(ours, theirs, units=None, seeds=None):
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    units = np.arange(ours.shape[1]) if units is None else units
    return Pair(units, np.arange(len(ours)) if seeds is None else seeds, ours, theirs)


def two_methods(rng, data_sets, seeds, spread=0.02, by_class=0.0, own=0.35, images=MOTIFS):
    """Draw answers of two equally good methods to the same motifs in several data sets.

    Motifs differ in difficulty in common, and by `own` for each method and in each data set. Seeds
    and single trainings vary by `spread`, and every answer has noise. Classes (ten motifs) vary in
    difficulty by `by_class`.

    Returns:
        Right answers of base and of new classes, each (2, data sets, seeds, motifs) bool.
    """
    found = []
    for n in images:
        hard = 0.8 * rng.standard_normal(n) + own * rng.standard_normal((2, 1, 1, n))
        hard = hard + own * rng.standard_normal((2, data_sets, 1, n))
        hard = hard + by_class * rng.standard_normal((2, 1, 1, n // 10)).repeat(10, axis=-1)
        skill = spread * rng.standard_normal((2, 1, seeds, 1))
        skill = skill + spread * rng.standard_normal((2, data_sets, seeds, 1))
        noise = 0.5 * rng.standard_normal((2, data_sets, seeds, n))
        found.append(hard + skill + noise > 0.3)
    return found


def blocks(found, units):
    """Return the block (base and new, or all classes) of each data set."""
    return [
        [pair(*half[:, i], of_half) for half, of_half in zip(found, units, strict=True)]
        for i in range(found[0].shape[1])
    ]


def motifs(images=MOTIFS):
    return np.split(np.arange(sum(images)), np.cumsum(images)[:-1])


def coverage(units, draws=600, **how):
    """Return the share of intervals (average H, or accuracy) that hold the true difference, 0."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(draws):
        found = difference(blocks(two_methods(rng, **how), units))
        held += found.low <= 0 <= found.high
    return held / draws


@pytest.mark.parametrize("spread", slow_but([0.02, 0.07], 0.07))
@pytest.mark.parametrize("seeds", slow_but([3, 9], 3))
def test_the_interval_has_its_nominal_coverage(seeds, spread):
    """Eight data sets show the same motifs. Coverage far above the nominal value would fail, too.

    Answers correlate as on the embedded data sets, 0.28 to 0.65.
    """
    ours = two_methods(np.random.default_rng(0), 8, seeds)[0][0, :, 0]
    correlations = np.corrcoef(ours)[np.triu_indices(8, 1)]
    assert correlations.min() > 0.28 and correlations.max() < 0.65
    assert 0.93 <= coverage(motifs(), data_sets=8, seeds=seeds, spread=spread) <= 0.995


CLOSE = {  # 100 * spread are about 2 points of accuracy
    "accuracy": {"images": (1000,), "data_sets": 1, "seeds": 3, "spread": 0.04},
    "H": {"images": (500, 500), "data_sets": 4, "seeds": 3, "spread": 0.07},
    "nine seeds": {"images": (1000,), "data_sets": 1, "seeds": 9, "spread": 0.025},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CLOSE.values(), ids=CLOSE)
def test_p_is_below_5_percent_in_about_5_percent_of_draws(how):
    """Also where seeds vary about as much as single answers, and both methods fail alike."""
    false = 1 - coverage(motifs(how["images"]), draws=2000, own=0, **how)
    assert 0.02 <= false <= 0.06


@pytest.mark.slow
def test_the_interval_covers_other_classes_only_if_classes_are_resampled():
    how = {"data_sets": 4, "seeds": 9, "by_class": 0.4}
    assert coverage(motifs(), **how) < 0.9
    assert 0.93 <= coverage([units // 10 for units in motifs()], **how) <= 0.995


def test_the_interval_of_a_single_data_set_has_its_nominal_coverage():
    assert 0.93 <= coverage(motifs(), data_sets=1, seeds=3, spread=0.07) <= 0.995


def test_motifs_are_resampled_as_a_bootstrap_does():
    """The bootstrap draws motifs of base and of new classes, each in all data sets at once."""
    rng = np.random.default_rng(2)
    found = two_methods(rng, 3, 1)
    interval = difference(blocks(found, motifs()))
    means = [
        100 * side[..., rng.integers(n, size=(4000, n))].mean((1, 2, 4))
        for side, n in zip(found, MOTIFS, strict=True)
    ]
    h = 2 * means[0] * means[1] / (means[0] + means[1])  # (2, draws)
    half = 1.97 * (h[0] - h[1]).std()
    assert interval.high - interval.value == pytest.approx(half, rel=0.05)
    assert interval.value - interval.low == pytest.approx(half, rel=0.05)


def test_images_of_one_motif_count_as_one():
    ours, theirs = np.random.default_rng(3).random((2, 1, 60)) < [[[0.6]], [[0.5]]]
    twice = pair(ours.repeat(2), theirs.repeat(2), np.arange(60).repeat(2))
    assert difference([[twice]])[:3] == pytest.approx(difference([[pair(ours, theirs)]])[:3])


def test_one_seed_is_the_paired_t_test():
    ours, theirs = np.random.default_rng(4).random((2, 400)) < [[0.6], [0.5]]
    expected = ttest_rel(100.0 * ours, 100.0 * theirs)
    found = difference([[pair(ours, theirs)]], trained=False)
    assert found[1:3] == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)
    assert difference([[pair(ours, theirs)]]) == found._replace(p=None)


def test_two_images_have_one_degree_of_freedom():
    ours, theirs = np.array([[True, True], [False, True]])
    expected = ttest_rel(100.0 * ours, 100.0 * theirs).confidence_interval()
    assert difference([[pair(ours, theirs)]], trained=False)[1:3] == pytest.approx(tuple(expected))


def test_if_only_seeds_differ_it_is_the_paired_t_test_of_seeds():
    share = np.array([[70, 80, 90], [60, 50, 55]])
    ours, theirs = np.arange(100) < share[..., None]
    found = difference([[pair(ours, theirs, np.zeros(100, int))]])  # all images show the same motif
    expected = ttest_rel(*share)
    assert found[1:3] == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p is None and found.differing == 1


def test_the_variance_of_single_answers_is_subtracted_from_that_of_images():
    """Methods that differ by noise alone are compared by seeds, as their paired t-test does."""
    rng = np.random.default_rng(7)
    found = [rng.random((2, 4, 500)) < 0.5 for _ in range(200)]
    ours = [difference([[pair(*one)]]) for one in found]
    theirs = [ttest_rel(*one.mean(axis=-1)).confidence_interval() for one in found]
    widths = [(100 * (t.high - t.low), o.high - o.low) for o, t in zip(ours, theirs, strict=True)]
    assert all(by_seeds <= width + 1e-9 for by_seeds, width in widths)
    assert sum(width < 1.001 * by_seeds for by_seeds, width in widths) > 80  # rounds below 0


@pytest.mark.parametrize("differing", [5, 6])
def test_p_needs_six_units_that_differ(differing):
    ours, theirs = np.zeros((2, 3, 40), bool)
    ours[:, :differing] = True
    found = difference([[pair(ours, theirs)]])
    assert (found.p is None) == (differing == 5) and found.differing == differing
    assert found.low > 0
    four = np.arange(40) // 4 * 4  # two motifs
    assert difference([[pair(ours, theirs, four)]]).p is None


def test_a_data_set_with_one_seed_leaves_an_average_without_p():
    rng = np.random.default_rng(8)
    many, one = rng.random((2, 3, 50)) < 0.6, rng.random((2, 1, 50)) < 0.6
    assert difference([[pair(*many)], [pair(*many)]]).p is not None
    assert difference([[pair(*many)], [pair(*one)]]).p is None


def test_data_sets_of_the_same_seeds_are_resampled_at_once():
    """If two data sets depend on the seed alike, their average is as uncertain as each."""
    ours, theirs = np.zeros((2, 2, 100), bool)
    ours[0] = True  # with one seed of two always right, with the other never
    one, other = pair(ours, theirs), pair(ours, theirs, np.arange(100, 200))
    apart = other._replace(seeds=np.array([7, 8]))
    found = difference([[one], [other]])
    assert found[:4] == pytest.approx(difference([[one]])[:4])
    assert difference([[one], [apart]]).low > found.low


def test_h_is_that_of_the_means():
    found = two_methods(np.random.default_rng(5), 2, 3)
    both = blocks(found, motifs())
    for sets in (1, 2):
        base, new = (100 * side[:, :sets].mean((1, 2, 3)) for side in found)  # of method
        h = 2 * base * new / (base + new)
        assert difference(both[:sets]).value == pytest.approx(h[0] - h[1])


def test_p_belongs_to_the_interval():
    rng = np.random.default_rng(6)
    found = [difference(blocks(two_methods(rng, 1, 3), motifs())) for _ in range(300)]
    for one in found:
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0)
    assert any(one.p < 0.05 for one in found) and any(one.p > 0.9 for one in found)


def test_methods_with_equal_and_with_opposite_answers():
    """Without variance there is no p."""
    right, wrong = np.ones((2, 30), bool), np.zeros((2, 30), bool)
    assert difference([[pair(right, right)]]) == (0, 0, 0, None, 0)
    assert difference([[pair(right, wrong)]]) == (100, 100, 100, None, 30)
    nothing = [[pair(wrong, wrong), pair(wrong, wrong)]]  # H is 0
    assert difference(nothing) == (0, 0, 0, None, 0)


def test_an_interval_ends_where_differences_end():
    right = np.ones((3, 7), bool)
    few = right.copy()
    few[:, :6] = False
    above, below = (difference([[pair(*both)]]).cut() for both in ((right, few), (few, right)))
    assert (above.high, below.low) == (100.0, -100.0)
    assert above.low == -below.high == pytest.approx(2 * above.value - 120.67, abs=0.01)
