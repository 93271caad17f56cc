"""From the searches' records to curves, tables and tests: all numbers of a comparison as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import SearchError
from ..objective import exact
from ..randomness import derive_seed
from .config import Comparison
from .runs import Record, mean_of
from .statistics import Floats, Test, band, corrected, curve, paired

FORMAT = "archloom comparison 1"
POINTS = 200
"""How many points a curve has at most."""


@dataclass(frozen=True)
class Direction:
    """Which way a score is better, and its unit."""

    direction: Literal["max", "min"]
    unit: str

    @property
    def difference(self) -> str:
        """The unit of a difference of two such scores."""
        return "percentage points" if self.unit == "%" else self.unit


def results(
    comparison: Comparison,
    records: Sequence[Record],
    directions: Mapping[str, Direction],
    optima: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The document that comparison.json holds. A SearchError where a strategy found nothing in any search."""
    protocol = comparison.protocol
    by_label = {
        label: [record for record in records if record["label"] == label] for label in protocol.strategies
    }
    empty = [
        (label, record["seed"], record["reason"])
        for label, mine in by_label.items()
        for record in mine
        if not record["incumbents"]
    ]
    if empty:
        label, seed, reason = empty[0]
        raise SearchError(
            f"{len(empty)} of the searches measured nothing feasible, the first of them '{label}' with seed {seed} "
            f"({reason}); a regret cannot be computed. Loosen the constraints, or leave the strategy out"
        )
    at = sorted({*protocol.at, comparison.limit}) if protocol.at else _quarters(comparison)
    scored = {
        label: _scored(comparison, by_label, names, directions[label], optima.get(label, {}), at)
        for label, names in protocol.score.items()
    }
    return {
        "format": FORMAT,
        "protocol": {
            **protocol.model_dump(mode="json", exclude={"strategies", "processes"}),
            "axis": comparison.axis,
            "budget": comparison.limit,
            "at": at,
            "baseline": comparison.baseline,
            "pairing": "searches of the same seed",
        },
        "searched": {
            name: value
            for name, value in comparison.identity().items()
            if name in ("space", "task", "estimators", "constraints", "order", "window", "recipe", "model")
        },
        "strategies": {
            label: {
                **protocol.strategies[label].to_json(),
                "searches": len(mine),
                "trials": _mean([record["trials"] for record in mine]),
            }
            for label, mine in by_label.items()
        },
        "scores": scored,
    }


def seconds(comparison: Comparison, records: Sequence[Record]) -> dict[str, float]:
    """Label -> the mean seconds that a search took."""
    return {
        label: _mean([record["seconds"] for record in records if record["label"] == label])
        for label in comparison.protocol.strategies
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _quarters(comparison: Comparison) -> list[float]:
    """A quarter, a half and the whole of the budget."""
    parts = [comparison.limit * part for part in (0.25, 0.5, 1.0)]
    whole = comparison.axis == "trials"
    return sorted({max(1.0, float(round(part))) if whole else part for part in parts})


def _grid(comparison: Comparison, at: Sequence[float]) -> list[float]:
    """Where the curves are drawn: even steps up to the budget, and every budget of `at`."""
    if comparison.axis == "trials" and comparison.limit <= POINTS:
        return [float(n) for n in range(1, int(comparison.limit) + 1)]
    even = [comparison.limit * (n + 1) / POINTS for n in range(POINTS)]
    return sorted({*(map(round, even) if comparison.axis == "trials" else even), *at})


def _scored(
    comparison: Comparison,
    by_label: Mapping[str, Sequence[Record]],
    names: Sequence[str],
    direction: Direction,
    optimum: Mapping[str, float],
    at: Sequence[float],
) -> dict[str, Any]:
    """Curves, table and tests of one score."""
    protocol = comparison.protocol
    sign = 1.0 if direction.direction == "max" else -1.0
    steps = {
        label: [
            [(one[comparison.axis], sign * mean_of(one["metrics"], names)) for one in record["incumbents"]]
            for record in mine
        ]
        for label, mine in by_label.items()
    }
    known = "best" in optimum
    best = sign * optimum["best"] if known else max(v for m in steps.values() for s in m for _, v in s)
    size = max(abs(v) for v in (best, *(v for m in steps.values() for s in m for _, v in s)))
    grid = _grid(comparison, at)
    # the budget is checked before a proposal, so that what ends last may end a little beyond it
    reach = [*grid[:-1], float("inf")]
    regret = {label: best - np.array([curve(one, reach) for one in mine]) for label, mine in steps.items()}
    found: dict[str, Any] = {
        "metrics": list(names),
        "direction": direction.direction,
        "unit": direction.difference,
        "optimum": sign * best,
        "optimum of": "the whole space"
        if protocol.optimum == "exhaustive"
        else "the configuration"
        if known
        else "the best of all these searches",
        "curves": {label: _band(comparison, grid, values) for label, values in regret.items()},
        "tests": [test.to_json() for test in _tests(comparison, grid, at, regret, size)],
        "regret": {
            label: {exact(one): _plain(values[:, grid.index(one)]) for one in at}
            for label, values in regret.items()
        },
    }
    if "selected" in optimum:
        found["floor"] = best - sign * optimum["selected"]
    return found


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _seed(*purpose: str | int) -> int:
    return derive_seed(0, "comparison", *purpose)


def _band(comparison: Comparison, grid: Sequence[float], regret: Floats) -> dict[str, list[float]]:
    """Mean and interval over the seeds, from where every search has an incumbent."""
    protocol = comparison.protocol
    known = np.isfinite(regret).min(axis=0)  # (points,)
    mean, low, high = band(regret[:, known], protocol.confidence, protocol.resamples, _seed("band"))
    return {
        "at": [one for one, there in zip(grid, known, strict=True) if there],
        "mean": mean.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _tests(
    comparison: Comparison,
    grid: Sequence[float],
    at: Sequence[float],
    regret: Mapping[str, Floats],
    size: float,
) -> list[Test]:
    """Each strategy against the baseline at each budget where both have incumbents, corrected together; `size`: the
    largest score."""
    protocol, baseline, tests = comparison.protocol, comparison.baseline, []
    for label, values in regret.items():
        for one in at:
            mine, theirs = values[:, grid.index(one)], regret[baseline][:, grid.index(one)]
            if label != baseline and not np.isnan(mine + theirs).any():
                tests.append(
                    paired(
                        label,
                        one,
                        mine,
                        theirs,
                        confidence=protocol.confidence,
                        resamples=protocol.resamples,
                        seed=_seed("paired"),
                        size=size,
                    )
                )
    return corrected(tests)
