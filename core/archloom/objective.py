"""What "better" means: objectives, constraints, the Pareto front and the pick from it. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .errors import ConfigError
from .trial import Trial

_CONSTRAINT = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*(\S+)\s*$")


def exact(value: float) -> str:
    """A number as it is, in its shortest form: two that differ are never written alike."""
    return str(int(value)) if abs(value) < 1e16 and value == int(value) else repr(float(value))


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric: `macs <= 300e6`."""

    metric: str
    sign: Literal["<=", ">=", "<", ">"]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """From text; a ConfigError with an example where it is no constraint."""
        match = _CONSTRAINT.match(text)
        try:
            bound = float(match[3].replace("_", "")) if match else float("nan")
        except ValueError:
            bound = float("nan")
        if match is None or bound != bound:
            raise ConfigError(
                f"'{text}' is no constraint; write a metric, one of <= >= < >, and a number: 'macs <= 300e6'"
            )
        return cls(match[1], match[2], bound)  # type: ignore[arg-type]

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the bound; NaN never does."""
        match self.sign:
            case "<=":
                return value <= self.bound
            case ">=":
                return value >= self.bound
            case "<":
                return value < self.bound
            case ">":
                return value > self.bound

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {exact(self.bound)}"


@dataclass(frozen=True)
class Objective:
    """A metric and the direction in which it is better."""

    metric: str
    direction: Literal["max", "min"]

    def score(self, metrics: Mapping[str, float]) -> float:
        """The metric, turned so that higher is better."""
        return metrics[self.metric] if self.direction == "max" else -metrics[self.metric]


@dataclass(frozen=True)
class Picking:
    """One trial of a front: the best by one metric among those within a margin of the best in others."""

    best: Objective
    within: Sequence[tuple[Objective, float]] = field(default_factory=tuple)

    def choose(self, trials: Sequence[Trial]) -> Trial:
        """The picked trial; ties go to the lowest number."""
        left = list(trials)
        for objective, margin in self.within:
            top = max(objective.score(trial.metrics) for trial in left)
            left = [trial for trial in left if objective.score(trial.metrics) >= top - margin]
        return max(left, key=lambda trial: (self.best.score(trial.metrics), -trial.number))


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether scores `a` are nowhere worse than `b` and somewhere better."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def comparable(trials: Sequence[Trial]) -> list[Trial]:
    """The ok trials of the highest fidelity that there is, by number: only these are compared in the end."""
    ok = [trial for trial in sorted(trials, key=lambda t: t.number) if trial.scores is not None]
    highest = max((trial.fidelity for trial in ok), default=1.0)
    return [trial for trial in ok if trial.fidelity == highest]


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The non-dominated ones of `comparable` trials; of equal ones (same scores) the lowest number alone.

    n log n for one and two objectives.
    """
    ok = comparable(trials)
    first: dict[tuple[float, ...], Trial] = {}
    for trial in ok:
        first.setdefault(trial.scores or (), trial)
    return [first[scores] for scores in _undominated(first)]


def _undominated(scores: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Those of different scores that no other one dominates, in the order given."""
    given = list(scores)
    kept: set[tuple[float, ...]] = set()
    # whatever dominates a point is above it in this order, and so is something undominated that dominates it
    descending = sorted(given, reverse=True)
    if len(given) and len(given[0]) <= 2:
        best = -math.inf
        for one in descending:
            if not kept or one[-1] > best:
                kept.add(one)
                best = one[-1]
            if len(one) < 2:
                break
        return [one for one in given if one in kept]
    above = np.empty((len(given), len(given[0]) if given else 0))
    for one in descending:
        if not (above[: len(kept)] >= one).all(axis=1).any():
            above[len(kept)] = one
            kept.add(one)
    return [one for one in given if one in kept]


def best(trials: Sequence[Trial], picking: Picking | None = None) -> Trial | None:
    """The engine's choice: with one objective the highest score, ties to the lowest number; with several
    the `picking` from the front, or None where nothing says how to pick; None where no trial is ok."""
    ok = comparable(trials)
    if not ok:
        return None
    if picking is not None:
        return picking.choose(front(ok) if len(ok[0].scores or ()) > 1 else ok)
    if len(ok[0].scores or ()) > 1:
        return None
    return max(ok, key=lambda trial: (trial.scores[0] if trial.scores else -math.inf, -trial.number))
