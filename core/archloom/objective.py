"""What "better" means: objectives, constraints, the Pareto front and the pick from it. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .errors import ConfigError
from .trial import Trial

_CONSTRAINT = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*(\S+)\s*$")


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
        return f"{self.metric} {self.sign} {self.bound:g}"


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
    """The non-dominated ones of `comparable` trials; of equal ones (same scores) the lowest number alone."""
    ok = comparable(trials)
    kept: list[Trial] = []
    for trial in ok:
        rivals = [other.scores for other in ok if other.scores is not None]
        if any(dominates(scores, trial.scores or ()) for scores in rivals):
            continue
        if any(other.scores == trial.scores for other in kept):
            continue
        kept.append(trial)
    return kept


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
