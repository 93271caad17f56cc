"""How well predicted latencies agree with measured ones. Arrays of one number for each network, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..randomness import derive_seed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """mape: mean of |predicted - measured| / measured, in %. bias: the same with its sign. tau: Kendall's tau-b.
    worst: the largest error in ms. Of mape and tau also the ends of their 95 % percentile bootstrap intervals, over
    the networks."""

    networks: int
    mape: float
    mape_low: float
    mape_high: float
    tau: float
    tau_low: float
    tau_high: float
    bias: float
    worst: float

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def agreement(predicted: Floats, measured: Floats, *, resamples: int = 1000, seed: int = 0) -> Agreement:
    """How well `predicted` agrees with `measured`; a ConfigError for fewer than three networks."""
    # takes a second, which only a check should spend
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    n = len(measured)
    if n < 3:
        raise ConfigError(f"an agreement over {n} networks means nothing; take at least three")
    relative = 100 * (predicted - measured) / measured
    rng = np.random.default_rng(derive_seed(seed, "agreement"))
    rows = rng.integers(0, n, (resamples, n))
    mapes = np.abs(relative)[rows].mean(1)
    # where a resample is one network n times there is no order, and no tau
    taus = [t for row in rows if np.isfinite(t := kendalltau(predicted[row], measured[row]).statistic)]
    ends = lambda values: np.quantile(values, [0.025, 0.975]).tolist() if len(values) else [float("nan")] * 2
    (mape_low, mape_high), (tau_low, tau_high) = ends(mapes), ends(taus)
    return Agreement(
        networks=n,
        mape=float(np.abs(relative).mean()),
        mape_low=mape_low,
        mape_high=mape_high,
        tau=float(kendalltau(predicted, measured).statistic),
        tau_low=tau_low,
        tau_high=tau_high,
        bias=float(relative.mean()),
        worst=float(np.abs(predicted - measured).max()),
    )


@dataclass(frozen=True)
class Calibration:
    """measured = offset + factor * predicted, fitted to some networks by least squares of the relative error."""

    offset: float
    factor: float
    networks: int

    @classmethod
    def fit(cls, predicted: Floats, measured: Floats) -> Calibration:
        """From at least two networks of different prediction."""
        if len(np.unique(predicted)) < 2:
            raise ConfigError(
                "a calibration needs at least two networks that differ in their predicted latency"
            )
        design = np.stack([np.ones_like(predicted), predicted], 1) / measured[:, None]
        offset, factor = np.linalg.lstsq(design, np.ones(len(measured)), rcond=None)[0]
        return cls(float(offset), float(factor), len(measured))

    def __call__(self, predicted: Floats) -> Floats:
        return self.offset + self.factor * predicted


def worst_cases(predicted: Floats, measured: Floats, number: int) -> Sequence[int]:
    """The positions of the largest relative errors, the largest first."""
    order = np.argsort(-np.abs(predicted - measured) / measured, kind="stable")
    return [int(n) for n in order[:number]]
