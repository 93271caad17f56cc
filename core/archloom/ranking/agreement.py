"""How well one order of networks agrees with another, with bootstrap intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, the 2.5th to the 97.5th percentile of the resamples; NaN where undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: Array) -> Interval:
        """NaN where the figure is, or where more than half of the resamples are (a predictor of few values)."""
        known = resampled[np.isfinite(resampled)]
        if not math.isfinite(value) or 2 * len(known) < len(resampled):
            return cls(value, math.nan, math.nan)
        low, high = np.percentile(known, (2.5, 97.5))
        return cls(value, float(low), float(high))

    def to_json(self) -> dict[str, float | None]:
        """JSON has no NaN: null."""
        return {
            name: number if math.isfinite(number) else None
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def resampling(networks: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(resamples + 1, networks): the networks themselves, then so many draws of as many with replacement."""
    drawn = rng.integers(networks, size=(resamples, networks))
    return np.concatenate([np.arange(networks)[None], drawn])


def kendall(x: Array, y: Array, index: NDArray[np.int64]) -> Array:
    """Kendall's tau-b of each row of `index`; NaN where x or y is constant there.

    tau_b = sum of sign(x_i - x_j) sign(y_i - y_j) over the pairs, over the root of the number of pairs not tied in x
    times that of those not tied in y. A network that is drawn twice is tied with itself in both.
    """
    n = len(x)
    counts = np.zeros((len(index), n), np.float32)  # how often each network is in each row
    np.add.at(counts, (np.arange(len(index))[:, None], index), 1.0)

    def pairs(signs: NDArray[np.float32]) -> Array:
        total: Array = np.einsum("rn,rn->r", counts @ signs, counts, dtype=np.float64) / 2
        return total

    sx, sy = (np.sign(v[:, None] - v[None, :]).astype(np.float32) for v in (x, y))
    return _ratio(pairs(sx * sy), np.sqrt(pairs(np.abs(sx)) * pairs(np.abs(sy))))


def spearman(x: Array, y: Array, index: NDArray[np.int64]) -> Array:
    """Spearman's rho of each row of `index`: Pearson's correlation of the ranks, ties sharing the mean rank."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    rx, ry = (rankdata(v[index], axis=1) for v in (x, y))
    rx, ry = rx - rx.mean(1, keepdims=True), ry - ry.mean(1, keepdims=True)
    return _ratio((rx * ry).sum(1), np.sqrt((rx**2).sum(1) * (ry**2).sum(1)))


def precision(x: Array, y: Array, index: NDArray[np.int64], k: int) -> Array:
    """Precision at top k of each row of `index`: how many of the k highest in x are among the k highest in y.

    Ties at the border are drawn by lot: the figure is the expectation, for a constant x that of chance, k / n.
    """

    def share(values: Array) -> Array:
        border = np.partition(values, -k, axis=1)[:, -k : values.shape[1] - k + 1]  # (rows, 1)
        above, tied = values > border, values == border
        left = (k - above.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
        return above + tied * left

    result: Array = (share(x[index]) * share(y[index])).sum(1) / k
    return result


def _ratio(numerator: Array, denominator: Array) -> Array:
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True)
class Agreement:
    """One predictor's order against the truth's. `networks`: how many it could measure.

    tau_top: Kendall's tau among the truth's best tenth alone. over: tau less the tau of a baseline on the same
    networks and resamples.
    """

    networks: int
    tau: Interval
    rho: Interval
    precision: Interval
    tau_top: Interval
    over: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain data, null where undefined."""
        figures: Mapping[str, Interval] = {
            "tau": self.tau,
            "rho": self.rho,
            "precision": self.precision,
            "tau_top": self.tau_top,
            "over": self.over,
        }
        return {"networks": self.networks, **{name: each.to_json() for name, each in figures.items()}}


LEAST = 5
"""With fewer networks nothing is told."""


def agreement(
    predicted: Array, truth: Array, baseline: Array, *, k: int, resamples: int, rng: np.random.Generator
) -> Agreement:
    """How well `predicted` (NaN where it could not be measured) orders the networks; higher is held better.

    baseline: another predictor that is to be beaten. Below `LEAST` networks all is undefined.
    """
    measured = np.isfinite(predicted)
    x, y, b = predicted[measured], truth[measured], baseline[measured]
    if len(x) < LEAST:
        return Agreement(len(x), *[UNDEFINED] * 5)
    index = resampling(len(x), resamples, rng)
    tau, base = kendall(x, y, index), kendall(b, y, index)
    best = np.argsort(-y, kind="stable")[: len(x) // 10]
    tau_top = UNDEFINED
    if len(best) >= LEAST:
        inner = kendall(x[best], y[best], resampling(len(best), resamples, rng))
        tau_top = Interval.of(float(inner[0]), inner[1:])

    def interval(values: Array) -> Interval:
        return Interval.of(float(values[0]), values[1:])

    return Agreement(
        len(x),
        interval(tau),
        interval(spearman(x, y, index)),
        interval(precision(x, y, index, k)) if k < len(x) else UNDEFINED,
        tau_top,
        interval(tau - base),
    )
