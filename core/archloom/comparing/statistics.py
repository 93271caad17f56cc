"""What may be concluded from several searches of each strategy: bands, differences, tests. No torch here.

Curves are arrays of shape (seeds, points): the score of the incumbent of each search at each budget, NaN where a
search had none yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAME = 2.0**-40
"""Scores that differ by less than this part of their size are equal: sums of the same numbers in another order differ
in the last digits. A part, so that the unit of a score changes nothing."""


def curve(steps: Sequence[tuple[float, float]], grid: Sequence[float]) -> Floats:
    """(points,): the value of the last step at or before each point of the grid, NaN before the first.

    steps: (spent, value) of each incumbent, in order.
    """
    spent = np.array([at for at, _ in steps], dtype=float)
    values = np.array([np.nan, *(value for _, value in steps)])
    return values[np.searchsorted(spent, np.asarray(grid, dtype=float) * (1 + SAME), side="right")]


def bootstrap_means(values: Floats, resamples: int, seed: int) -> Floats:
    """(seeds, points) -> (resamples, points): means of searches drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(values)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return drawn @ values / n


def band(values: Floats, confidence: float, resamples: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Mean, lower and upper end of the percentile bootstrap interval of the mean, each (points,)."""
    means = bootstrap_means(values, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return values.mean(0), low, high


@dataclass(frozen=True)
class Test:
    """One strategy against the baseline at one budget, paired by seed.

    difference: mean of the strategy's regret less the baseline's, with its bootstrap interval; negative is better.
    wins, ties, losses: seeds in which the strategy's regret is lower, equal, higher. wilcoxon: two-sided p value of
    the signed-rank test (Wilcoxon 1945; zero differences are left out, without any other p is 1). bootstrap:
    two-sided p value of the paired bootstrap of the mean difference (Efron and Tibshirani 1993, chapter 16: the
    differences are shifted to mean zero). *_holm: the same after Holm's correction (1979) over all tests of a table.
    """

    strategy: str
    at: float
    difference: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    wilcoxon: float
    bootstrap: float
    wilcoxon_holm: float = float("nan")
    bootstrap_holm: float = float("nan")

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


Test.__test__ = False  # type: ignore[attr-defined]  # no test case of pytest's


EXACT = 10
"""Up to so many pairs that differ, all their 2^n signs are gone through."""


def paired(
    strategy: str,
    at: float,
    regret: Floats,
    baseline: Floats,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    size: float = 0.0,
) -> Test:
    """Test `regret` (seeds,) against the baseline's of the same seeds.

    size: the largest of the scores that the regrets are differences of, which says how exact those are. The unit of
    the scores and the order of the seeds change nothing.
    """
    size = max(size, float(np.abs(regret).max()), float(np.abs(baseline).max()))
    differences = np.sort(_settled(regret - baseline, SAME * size))
    unequal = differences[differences != 0.0]
    means = bootstrap_means(differences[:, None], resamples, seed)[:, 0]
    mean = float(differences.mean())
    beyond = int((np.abs(means - mean) >= abs(mean) * (1 - SAME)).sum())
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Test(
        strategy=strategy,
        at=at,
        difference=mean,
        low=float(low),
        high=float(high),
        wins=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences > 0).sum()),
        wilcoxon=_by_rank(unequal),
        # one is added to both: a p value of zero cannot be had from so many draws
        bootstrap=max((beyond + 1) / (resamples + 1), _by_signs(unequal, resamples, seed)),
    )


def _settled(differences: Floats, least: float) -> Floats:
    """The differences, with those below `least` zero and sizes that lie closer together than that equal."""
    sizes = np.abs(differences)
    order = np.argsort(sizes)
    steps = np.diff(sizes[order], prepend=0.0) > least
    groups = np.cumsum(steps)  # 0: those that are equal to zero
    firsts = np.append(0.0, sizes[order][steps])
    settled = np.empty_like(sizes)
    settled[order] = firsts[groups]
    return np.sign(differences) * settled


def _by_rank(unequal: Floats) -> float:
    """Two-sided p value of the signed-rank test, exact for few pairs, with equal sizes among them too."""
    # takes a second, which only a comparison should spend
    from scipy.stats import permutation_test, rankdata, wilcoxon  # type: ignore[import-untyped]

    if len(unequal) < 2:
        return 1.0
    ranks = rankdata(np.abs(unequal))
    if len(unequal) > EXACT or len(np.unique(ranks)) == len(ranks):
        return float(wilcoxon(unequal).pvalue)
    signed = np.sign(unequal) * ranks
    found = permutation_test(
        (signed,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    return float(found.pvalue)


def _by_signs(unequal: Floats, resamples: int, seed: int) -> float:
    """Two-sided p value of the sign-flip test of the mean: exact for few pairs, of `resamples` draws for more."""
    from scipy.stats import permutation_test

    if len(unequal) < 2:
        return 1.0
    draws = np.inf if len(unequal) <= EXACT else resamples
    rng = np.random.default_rng(seed)
    found = permutation_test(
        (unequal,),
        lambda values, axis: np.abs(np.mean(values, axis=axis)),
        permutation_type="samples",
        n_resamples=draws,
        vectorized=True,
        alternative="greater",
        random_state=rng,
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def corrected(tests: Sequence[Test]) -> list[Test]:
    """The tests with Holm's correction over all of them, for each kind of p value."""
    by_rank, by_mean = (holm([getattr(test, kind) for test in tests]) for kind in ("wilcoxon", "bootstrap"))
    return [
        Test(**{**asdict(test), "wilcoxon_holm": rank, "bootstrap_holm": mean})
        for test, rank, mean in zip(tests, by_rank, by_mean, strict=True)
    ]


def summary(values: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Mean, median and standard deviation over the seeds of each strategy's (seeds,)."""
    return {
        label: {
            "mean": float(column.mean()),
            "median": float(np.median(column)),
            "deviation": float(column.std(ddof=1)),
        }
        for label, column in values.items()
    }
