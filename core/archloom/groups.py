"""What the trainings of a verdict say: the found network against random ones, in accuracy (or
what else the task measures) and in cost. No torch here.

Networks are the units: several trainings of one network tell of that network, and three networks trained three times
are no nine networks. Whoever was trained once has no known error, and whoever has none beats nobody.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import columns
from .architecture import Architecture
from .columns import ACCURACY, Column, Judged

SAME_COST = 0.10
"""How far the cost of a random network "of the same cost" may lie from the found one's, as a fraction."""


@dataclass(frozen=True)
class Summary:
    """A metric of the networks of one role. `value`: the mean or the median of all trainings, as the column says.

    `spread` is the standard deviation over all trainings of the role, None with a single one; `between` that of the
    networks' own means, None with a single network.
    """

    value: float
    unit: str = "1"
    spread: float | None = None
    between: float | None = None


@dataclass(frozen=True)
class Group:
    """The networks of one role: what they reached and what they cost, by the names of the metrics. The first metric
    is the one that they are judged by."""

    role: str
    networks: int
    trainings: int
    metrics: Mapping[str, Summary]

    def value(self, metric: str) -> float | None:
        """What stands for a metric; None where not every training has it."""
        return self.metrics[metric].value if metric in self.metrics else None

    def error(self, metric: str) -> float | None:
        """The standard error of a metric, over networks where there are several, else over trainings; None where
        it is unknown: of a single training, or where all trainings gave the same."""
        summary = self.metrics[metric]
        if not summary.spread:
            return None
        if self.networks == 1:
            return summary.spread / math.sqrt(self.trainings)
        # where the networks' means are not known, the spread over all trainings stands for theirs: it is no smaller
        between = summary.spread if summary.between is None else summary.between
        return between / math.sqrt(self.networks) or None

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `error`."""
        return (self.trainings if self.networks == 1 else self.networks) - 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the metrics by name, and beside them those that have a `key` of their own, with spread and error
        of the one that networks are judged by; `error` is null where it is unknown."""
        main = next(iter(self.metrics))
        flat = {
            column.key: self.metrics[column.metric].value
            for column in (ACCURACY.column, *columns.COSTS)
            if column.key and column.metric in self.metrics
        }
        return {
            "role": self.role,
            "networks": self.networks,
            "trainings": self.trainings,
            **flat,
            "spread": self.metrics[main].spread,
            "between": self.metrics[main].between,
            "error": self.error(main),
            "metrics": {name: dict(summary.__dict__) for name, summary in self.metrics.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Group:
        """From an entry of result.json, also of an older one, which has no `metrics`."""
        if "metrics" in data:
            metrics = {name: Summary(**summary) for name, summary in data["metrics"].items()}
        else:
            known = (ACCURACY.column, *columns.COSTS)
            metrics = {c.metric: Summary(data[c.key], c.unit) for c in known if c.key and c.key in data}
            metrics[ACCURACY.metric] = replace(
                metrics[ACCURACY.metric], spread=data.get("spread"), between=data.get("between")
            )
        return cls(data["role"], data["networks"], data["trainings"], metrics)


@dataclass(frozen=True)
class Failure:
    """A training of the verdict that ended with an error: which, and why."""

    name: str
    role: str
    index: int
    seed: int
    architecture: Architecture
    error: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**self.__dict__, "architecture": self.architecture.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Failure:
        """From an event of the log, or an entry of result.json."""
        told = {name: data[name] for name in ("name", "role", "index", "seed", "error")}
        return cls(architecture=Architecture.from_json(data["architecture"]), **told)


def groups(results: Sequence[Mapping[str, Any]], by: Judged = ACCURACY) -> list[Group]:
    """The `final` events of a run, by role."""
    made = []
    for role in dict.fromkeys(result["role"] for result in results):
        mine = [result for result in results if result["role"] == role]
        shown = [
            column
            for column in (by.column, *by.costs)
            # one that was added since some of the trainings were made says nothing of the others
            if column is by.column or all(column.metric in result["metrics"] for result in mine)
        ]
        networks = len({result["index"] for result in mine})
        metrics = {column.metric: _summary(mine, column) for column in shown}
        made.append(Group(role, networks, len(mine), metrics))
    return made


def _summary(results: Sequence[Mapping[str, Any]], column: Column) -> Summary:
    """A metric over the trainings of one role."""
    values = [result["metrics"][column.metric] for result in results]
    means = [
        statistics.fmean(one["metrics"][column.metric] for one in results if one["index"] == index)
        for index in dict.fromkeys(result["index"] for result in results)
    ]
    return Summary(
        statistics.fmean(values) if column.summary == "mean" else statistics.median(values),
        column.unit,
        statistics.stdev(values) if len(values) > 1 else None,
        statistics.stdev(means) if len(means) > 1 else None,
    )


def sentences(told: Sequence[Group], failures: Sequence[Failure], by: Judged = ACCURACY) -> tuple[str, ...]:
    """The verdict: for each role of random networks one sentence, and what failed."""
    roles = list(dict.fromkeys([*(g.role for g in told), *(f.role for f in failures)]))
    by_role = {group.role: group for group in told}
    found, said = by_role.get("found"), []
    if found is None and "found" in roles:
        first = next(failure for failure in failures if failure.role == "found")
        said.append(f"the found network could not be trained, so nothing is said of it: {first.error}")
    for role in roles:
        failed = [failure for failure in failures if failure.role == role]
        if role != "found" and role not in by_role:
            said.append(
                f"there is no comparison with {role}: every training failed, the first with {failed[0].error}"
            )
        elif role != "found" and found is not None:
            verb = "is" if len(failed) == 1 else "are"
            left_out = f"; {len(failed)} of its trainings failed and {verb} left out" if failed else ""
            said.append(judge(found, by_role[role], by) + left_out)
    return tuple(said)


def judge(found: Group, random: Group, by: Judged = ACCURACY) -> str:
    """One sentence: is the found network more accurate than these random ones, is it cheaper, can it be told at all?

    Accuracies, or what else networks are judged `by`, are told apart where the 95 % interval of their difference
    leaves out zero (Welch's, Student's t over networks); they are alike where it lies within the margin. Costs are
    told apart where they differ by more than a tenth; by MACs where not all have the cost that they are judged by.
    """
    gap = _gap(found, random, by)
    known = all(by.cost.metric in group.metrics for group in (found, random))
    cost = by.cost if known else ACCURACY.cost
    ratio = _ratio(found.metrics[cost.metric].value, random.metrics[cost.metric].value)
    cheaper, dearer = ratio < 1 - SAME_COST, ratio > 1 + SAME_COST
    percent = f"at {100 * ratio:.0f} % of the {cost.noun or cost.title}"
    signed = f"+.{by.column.decimals}f"
    difference = f"{gap:{signed}} {by.of}"
    role = random.role if random.networks > 1 else f"{random.role} (a single network)"
    unlike = f"is not distinguishable in {by.noun} from {role}{_costs(cheaper, dearer)}"
    interval = _interval(found, random, by)
    if interval is None:
        told = f"{difference} (standard error unknown: {_unknown(found, random, by)}) {percent}"
        return f"the found network {unlike}: {told}"
    error, low, high = interval
    reach = f"95 % interval {low:{signed}} to {high:{signed}}"
    told = f"{difference} (standard error {error:.{by.column.decimals}f}, {reach}) {percent}"
    better, worse = (low > 0.0, high < 0.0) if by.direction == "max" else (high < 0.0, low > 0.0)
    margin = abs(random.metrics[by.metric].value) / 100 if by.margin is None else by.margin
    if better:
        word = f"is {by.better} but more expensive than {role}" if dearer else f"beats {role}"
    elif worse:
        word = (
            f"is {by.worse} but cheaper than {role}" if cheaper else f"does not beat {role}; it is {by.worse}"
        )
    elif low > -margin and high < margin:
        word = f"is {by.alike} as {role} {percent}" if cheaper else f"does not beat {role}; it is {by.alike}"
    else:
        word = unlike
    return f"the found network {word}: {told}"


def _ratio(mine: float, theirs: float) -> float:
    """Below 1 where mine is the smaller, whatever the signs."""
    if theirs > 0:
        return mine / theirs
    return 1.0 + (mine - theirs) / (abs(theirs) or 1.0)


def _costs(cheaper: bool, dearer: bool) -> str:
    return ", and cheaper" if cheaper else ", and more expensive" if dearer else ""


def _gap(found: Group, random: Group, by: Judged) -> float:
    return found.metrics[by.metric].value - random.metrics[by.metric].value


def _interval(found: Group, random: Group, by: Judged) -> tuple[float, float, float] | None:
    """Standard error of the difference of what is judged, and the ends of its 95 % interval (Welch 1947); None where
    the error of one of the two is unknown."""
    from scipy.stats import t  # type: ignore[import-untyped]  # takes a second, which only a verdict should spend

    errors = [group.error(by.metric) for group in (found, random)]
    if None in errors:
        return None
    squares = [(error or 0.0) ** 2 for error in errors]
    freedom = sum(squares) ** 2 / sum(s**2 / g.freedom for s, g in zip(squares, (found, random), strict=True))
    error, gap = math.sqrt(sum(squares)), _gap(found, random, by)
    reach = float(t.ppf(0.975, freedom)) * error
    return error, gap - reach, gap + reach


def _unknown(found: Group, random: Group, by: Judged) -> str:
    """Why the standard error is not known."""
    once = [group for group in (found, random) if group.trainings == 1]
    if len(once) == 2:
        return "one training of each"
    if once:
        return f"one training of {'the found network' if once[0] is found else once[0].role}"
    same = found if found.error(by.metric) is None else random
    whose = "the found network" if same is found else same.role
    return f"all trainings of {whose} gave the same {by.noun}"
