"""The paired tests of a comparison: what they may say of few pairs, and what must not change them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.comparing.statistics import Test, paired

SCORES = st.integers(-9, 9).map(float)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=8)


def judged(pairs: Any, *, resamples: int = 200) -> Test:
    mine, theirs = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    return paired("s", 1, mine, theirs, confidence=0.95, resamples=resamples, seed=0)


def numbers(test: Test) -> tuple[float, ...]:
    return (test.wins, test.ties, test.losses, test.wilcoxon, test.bootstrap)


@settings(max_examples=25, deadline=None)
@given(PAIRS, st.sampled_from([1e-11, 1e-3, 0.3, 7.0, 1e12]))
def test_the_unit_of_a_score_changes_no_test(pairs, unit):
    plain, scaled = judged(pairs), judged([(unit * a, unit * b) for a, b in pairs])
    assert numbers(scaled) == pytest.approx(numbers(plain))
    ends = (scaled.difference / unit, scaled.low / unit, scaled.high / unit)
    assert ends == pytest.approx((plain.difference, plain.low, plain.high), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(PAIRS, st.sampled_from([-3.0, 0.1, 1e3, 1e6]), st.randoms())
def test_neither_an_added_constant_nor_the_order_of_the_seeds_changes_a_test(pairs, constant, rng):
    shifted = [(a + constant, b + constant) for a, b in pairs]
    rng.shuffle(shifted)
    assert numbers(judged(shifted)) == numbers(judged(pairs))


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_no_p_value_is_lower_than_so_few_pairs_can_give(pairs):
    test = judged(pairs)
    least = 2.0 ** (1 - test.wins - test.losses)
    assert min(test.wilcoxon, test.bootstrap) >= min(1.0, least) * (1 - 1e-9)


def test_two_seeds_show_nothing_however_far_apart_they_are():
    test = judged([(0.0, 50.0), (0.0, 60.0)], resamples=10_000)
    assert (test.wilcoxon, test.bootstrap) == (0.5, 0.5)


@pytest.mark.parametrize("pairs", [4, 6, 8])
def test_few_pairs_of_equal_strategies_are_called_different_as_rarely_as_they_should(pairs):
    rng = np.random.default_rng(pairs)
    found = [judged(rng.normal(size=(pairs, 2))) for _ in range(150)]
    assert sum(test.bootstrap < 0.05 for test in found) / 150 <= 0.08
    assert sum(test.wilcoxon < 0.05 for test in found) / 150 <= 0.08


def test_scores_of_a_hundred_billionth_are_no_ties():
    """Ten wins and two losses, in whatever unit."""
    pairs = [(1.0, 1.0 + n) for n in range(1, 11)] + [(3.0, 1.0), (4.0, 1.0)]
    small = judged([(1e-11 * a, 1e-11 * b) for a, b in pairs])
    assert (small.wins, small.ties, small.losses) == (10, 0, 2)
    assert small.wilcoxon == judged(pairs).wilcoxon < 0.05


def test_sums_of_the_same_numbers_in_another_order_are_ties():
    parts = [93.1, 92.7, 91.3]
    sums = [sum(order) / 3 for order in itertools.permutations(parts)]
    assert len(set(sums)) > 1
    test = judged([(one, sums[0]) for one in sums])
    assert (test.ties, test.wilcoxon, test.bootstrap) == (6, 1.0, 1.0)
    # a regret is small where its scores are large: it is as exact as they are
    regrets = [93.1 - one for one in sums]
    mine, theirs = np.array(regrets), np.full(6, regrets[0])
    found = paired("s", 1, mine, theirs, confidence=0.95, resamples=200, seed=0, size=93.1)
    assert found.ties == 6


def test_equal_sizes_of_differences_are_tested_exactly():
    """Of the eight signs of (2, 2, 2) two are as far out as three wins."""
    mine = [10.0 - 0.1 * 3, 5.0 - 0.3, 1.0 - (0.1 + 0.2)]  # 0.3 to a person, three numbers to a machine
    test = judged([(a, b) for a, b in zip(mine, [10.0, 5.0, 1.0], strict=True)])
    assert (test.wilcoxon, test.bootstrap) == (0.25, 0.25)
