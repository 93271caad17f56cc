"""The hypervolume: how much of what is possible a front dominates (Zitzler and Thiele, PPSN 1998). No torch here."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .objective import Objective, comparable
from .trial import Trial

Point = tuple[float, ...]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of all that some point dominates and that dominates `reference`; higher is better throughout.

    Exact: the sum of what each point adds to those before it (While, Bradstreet, Barone: A Fast Way of Calculating
    Exact Hypervolumes, IEEE TEC 16(1), 2012), n log n for up to three objectives. Points that do not exceed the
    reference everywhere add nothing.
    """
    origin = tuple(reference)
    inside = {tuple(p) for p in points if all(x > r for x, r in zip(p, origin, strict=True))}
    return _volume(list(inside), origin)


def _volume(points: list[Point], reference: Point) -> float:
    """Of points that exceed the reference everywhere, from the best in the last objective to the worst: each adds
    its height times what it adds to the base of those before it, which all stand higher."""
    if not points:
        return 0.0
    if len(reference) == 1:
        return max(point[0] for point in points) - reference[0]
    if len(reference) == 2:
        plane = Stairs(reference)
        return math.fsum(plane.add(point) for point in sorted(points, reverse=True))
    base, lowest = reference[:-1], reference[-1]
    stairs, before, parts = Stairs(base) if len(base) == 2 else None, list[Point](), list[float]()
    for point in sorted(points, key=lambda one: (-one[-1], one)):
        foot = point[:-1]
        added = stairs.add(foot) if stairs else _added(foot, before, base)
        if added > 0.0:
            before.append(foot)
            parts.append(added * (point[-1] - lowest))
    return math.fsum(parts)


def _added(point: Point, others: Sequence[Point], reference: Point) -> float:
    """What `point` adds to the volume of `others`: its own box less what they cover of it."""
    box = math.prod(x - r for x, r in zip(point, reference, strict=True))
    if not others:
        return box
    covered = np.minimum(np.asarray(others), point)
    if (covered == point).all(axis=1).any():
        return 0.0
    return max(box - _volume(_undominated(covered), reference), 0.0)


def _undominated(points: NDArray[np.float64]) -> list[Point]:
    """Those that no other one dominates, each value once; points (n, objectives)."""
    # a point that dominates another has the larger sum, or the same by rounding, and is then above it in this order
    order = np.lexsort((*points.T[::-1], points.sum(axis=1)))[::-1]
    left, kept = points[order], list[Point]()
    while len(left):
        kept.append(tuple(left[0].tolist()))
        left = left[(left > left[0]).any(axis=1)]
    return kept


class Stairs:
    """The front of two objectives, as steps that go down to the right, and what lies below it.

    reference: (x, y) of the corner; what does not exceed it in both adds nothing.
    """

    def __init__(self, reference: Sequence[float]) -> None:
        self._left, self._bottom = reference
        self._x, self._y = list[float](), list[float]()  # x rises, y falls

    def add(self, point: Sequence[float]) -> float:
        """Take a point in; the area that it adds, 0 where another one covers it."""
        x, y = point
        here = bisect.bisect_left(self._x, x)  # from here on, none is further left
        if x <= self._left or y <= self._bottom or (here < len(self._x) and self._y[here] >= y):
            return 0.0
        area, right = 0.0, x
        height = self._y[here] if here < len(self._y) else self._bottom
        upto = here + 1 if here < len(self._x) and self._x[here] == x else here
        first = here
        while first > 0 and self._y[first - 1] <= y:  # those that it covers, from the right to the left
            first -= 1
            area += (right - self._x[first]) * (y - height)
            right, height = self._x[first], self._y[first]
        area += (right - (self._x[first - 1] if first else self._left)) * (y - height)
        self._x[first:upto], self._y[first:upto] = [x], [y]
        return area


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
    for name, value in reference.items():
        if not math.isfinite(value):
            raise ConfigError(f"'reference' has {name} {value}; a volume is measured from a finite number")


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
    stairs, front, volume = Stairs(origin) if len(origin) == 2 else None, list[Point](), 0.0
    numbers, values = [], []
    for trial in sorted(trials, key=lambda one: one.number):
        scores = ok.get(trial.number)
        if scores is not None and all(x > r for x, r in zip(scores, origin, strict=True)):
            added = stairs.add(scores) if stairs else _added(scores, front, origin)
            if added > 0.0:
                front.append(scores)
                volume += added
        numbers.append(trial.number)
        values.append(volume)
    told = {
        objective.metric: value if objective.direction == "max" else -value
        for objective, value in zip(objectives, origin, strict=True)
    }
    return History(told, bool(reference), numbers, values)
