"""The hypervolume: how much of what is possible a front dominates (Zitzler and Thiele, PPSN 1998). No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError
from .objective import Objective, comparable, dominates
from .trial import Trial

Point = tuple[float, ...]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of all that some point dominates and that dominates `reference`; higher is better throughout.

    Exact, by slicing along the last objective (Zitzler 2001; While et al., IEEE TEC 10(1), 2006): n log n for two
    objectives, n^2 log n for three, and a factor n more for each further one. Points that do not exceed the reference
    everywhere add nothing.
    """
    inside = {tuple(p) for p in points if all(x > r for x, r in zip(p, reference, strict=True))}
    return _sliced(list(inside), tuple(reference))


def _sliced(points: list[Point], reference: Point) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return max(point[0] for point in points) - reference[0]
    if len(reference) == 2:
        return _swept(points, reference)
    ordered = sorted(points, key=lambda point: -point[-1])
    total = 0.0
    for n, point in enumerate(ordered):
        below = ordered[n + 1][-1] if n + 1 < len(ordered) else reference[-1]
        if point[-1] > below:  # a slice in which the same points count
            total += (point[-1] - below) * _sliced([one[:-1] for one in ordered[: n + 1]], reference[:-1])
    return total


def _swept(points: list[Point], reference: Point) -> float:
    """Two objectives: strips from the best in the first to the worst."""
    total, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if y > height:
            total += (x - reference[0]) * (y - height)
            height = y
    return total


@dataclass(frozen=True)
class History:
    """The hypervolume of the front after each trial. reference: metric -> value, as measured. given: whether the
    configuration says it; else it is the worst of each objective among all trials. numbers: the trials."""

    reference: Mapping[str, float]
    given: bool
    numbers: Sequence[int]
    values: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        """As result.json has it."""
        return {
            "reference": dict(self.reference),
            "reference given": self.given,
            "trials": list(self.numbers),
            "values": list(self.values),
        }


def check_reference(reference: Mapping[str, float], objectives: Sequence[str]) -> None:
    """A ConfigError unless the reference point is empty or has a value for each of several objectives."""
    if not reference:
        return
    if len(objectives) < 2:
        raise ConfigError(
            "'reference' is the point that a hypervolume is measured from; one objective has none"
        )
    odd = set(reference) ^ set(objectives)
    if odd:
        raise ConfigError(
            f"'reference' must name each objective once, {', '.join(objectives)}; '{sorted(odd)[0]}' is "
            + ("not there" if sorted(odd)[0] in objectives else "none of them")
        )


def history(
    trials: Sequence[Trial], objectives: Sequence[Objective], reference: Mapping[str, float] | None = None
) -> History | None:
    """The front's hypervolume after each trial, by number; None with one objective or where no trial is ok.

    A trial that is infeasible, failed, or of a lower fidelity than others changes nothing.
    """
    ok = {trial.number: trial.scores for trial in comparable(trials) if trial.scores is not None}
    if len(objectives) < 2 or not ok:
        return None
    if reference:
        origin = tuple(objective.score(reference) for objective in objectives)
    else:
        origin = tuple(min(values) for values in zip(*ok.values(), strict=True))
    numbers, values, front = [], [], list[Point]()
    volume = 0.0
    for trial in sorted(trials, key=lambda one: one.number):
        scores = ok.get(trial.number)
        if scores is not None and not any(dominates(one, scores) or one == scores for one in front):
            front = [*(one for one in front if not dominates(scores, one)), scores]
            volume = hypervolume(front, origin)
        numbers.append(trial.number)
        values.append(volume)
    told = {
        objective.metric: value if objective.direction == "max" else -value
        for objective, value in zip(objectives, origin, strict=True)
    }
    return History(told, bool(reference), numbers, values)
