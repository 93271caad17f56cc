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


def curve(steps: Sequence[tuple[float, float]], grid: Sequence[float]) -> Floats:
    """(points,): the value of the last step at or before each point of the grid, NaN before the first.

    steps: (spent, value) of each incumbent, in order.
    """
    spent = np.array([at for at, _ in steps], dtype=float)
    values = np.array([np.nan, *(value for _, value in steps)])
    return values[np.searchsorted(spent, np.asarray(grid, dtype=float) + 1e-9, side="right")]


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


def paired(
    strategy: str,
    at: float,
    regret: Floats,
    baseline: Floats,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Test:
    """Test `regret` (seeds,) against the baseline's of the same seeds."""
    # takes a second, which only a comparison should spend
    from scipy.stats import wilcoxon  # type: ignore[import-untyped]

    # sums of the same numbers in another order differ in the last digits, and are ties all the same
    differences = np.round(regret - baseline, 9)
    unequal = differences[differences != 0.0]
    by_rank = float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0
    means = bootstrap_means(differences[:, None], resamples, seed)[:, 0]
    mean = float(differences.mean())
    beyond = int((np.abs(means - mean) >= abs(mean)).sum())
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
        wilcoxon=by_rank,
        # one is added to both: a p value of zero cannot be had from so many draws
        bootstrap=(beyond + 1) / (resamples + 1),
    )


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
