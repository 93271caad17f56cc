"""What the trainings of a verdict say: the found network against random ones, in accuracy and in cost. No torch here.

Networks are the units: several trainings of one network tell of that network, and three networks trained three times
are no nine networks. Whoever was trained once has no known error, and whoever has none beats nobody.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .architecture import Architecture

SAME_COST = 0.10
"""How far the cost of a random network "of the same cost" may lie from the found one's, as a fraction."""

AS_ACCURATE = 1.0
"""Two accuracies are alike where their whole difference, with its 95 % interval, is below so many points."""


@dataclass(frozen=True)
class Group:
    """The networks of one role: mean and spread of test accuracy over networks and seeds, mean costs.

    `latency` is the median, since one disturbed timing would rule the mean. `spread` is the standard deviation over
    all trainings of the role, None with a single one; `between` that of the networks' own means, None with a single
    network.
    """

    role: str
    networks: int
    trainings: int
    accuracy: float
    spread: float | None
    macs: float
    params: float
    latency: float
    between: float | None = None

    @property
    def error(self) -> float | None:
        """The standard error of `accuracy`, over networks where there are several, else over trainings; None where
        it is unknown: of a single training, or where all trainings gave the same."""
        if not self.spread:
            return None
        if self.networks == 1:
            return self.spread / math.sqrt(self.trainings)
        # where the networks' means are not known, the spread over all trainings stands for theirs: it is no smaller
        between = self.spread if self.between is None else self.between
        return between / math.sqrt(self.networks) or None

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `error`."""
        return (self.trainings if self.networks == 1 else self.networks) - 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `error` is null where it is unknown."""
        return {**self.__dict__, "error": self.error}


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


def groups(results: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The `final` events of a run, by role."""
    found = []
    for role in dict.fromkeys(result["role"] for result in results):
        mine = [result for result in results if result["role"] == role]
        metrics = [result["metrics"] for result in mine]
        accuracies = [one["test.accuracy"] for one in metrics]
        networks = list(dict.fromkeys(result["index"] for result in mine))
        means = [
            statistics.fmean(one["metrics"]["test.accuracy"] for one in mine if one["index"] == index)
            for index in networks
        ]
        found.append(
            Group(
                role=role,
                networks=len(networks),
                trainings=len(mine),
                accuracy=statistics.fmean(accuracies),
                spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                macs=statistics.fmean(one["macs"] for one in metrics),
                params=statistics.fmean(one["params"] for one in metrics),
                latency=statistics.median(one["latency.measured"] for one in metrics),
                between=statistics.stdev(means) if len(means) > 1 else None,
            )
        )
    return found


def sentences(told: Sequence[Group], failures: Sequence[Failure]) -> tuple[str, ...]:
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
            said.append(judge(found, by_role[role]) + left_out)
    return tuple(said)


def judge(found: Group, random: Group) -> str:
    """One sentence: is the found network more accurate than these random ones, is it cheaper, can it be told at all?

    Accuracies are told apart where the 95 % interval of their difference leaves out zero (Welch's, Student's t over
    networks); they are alike where it lies within `AS_ACCURATE`. Costs are told apart where they differ by more than
    a tenth.
    """
    gap, ratio = (
        found.accuracy - random.accuracy,
        found.macs / random.macs if random.macs else 1.0 + found.macs,
    )
    cheaper, dearer = ratio < 1 - SAME_COST, ratio > 1 + SAME_COST
    percent = f"at {100 * ratio:.0f} % of the MACs"
    accuracy = f"{gap:+.2f} points of test accuracy"
    role = random.role if random.networks > 1 else f"{random.role} (a single network)"
    interval = _interval(found, random)
    if interval is None:
        told = f"{accuracy} (standard error unknown: {_unknown(found, random)}) {percent}"
        return f"the found network is not distinguishable in accuracy from {role}{_costs(cheaper, dearer)}: {told}"
    error, low, high = interval
    told = f"{accuracy} (standard error {error:.2f}, 95 % interval {low:+.2f} to {high:+.2f}) {percent}"
    alike = low > -AS_ACCURATE and high < AS_ACCURATE
    if low > 0.0:
        word = f"is more accurate but more expensive than {role}" if dearer else f"beats {role}"
    elif high < 0.0:
        word = (
            f"is less accurate but cheaper than {role}"
            if cheaper
            else f"does not beat {role}; it is less accurate"
        )
    elif alike:
        word = (
            f"is as accurate as {role} {percent}" if cheaper else f"does not beat {role}; it is as accurate"
        )
    else:
        word = f"is not distinguishable in accuracy from {role}{_costs(cheaper, dearer)}"
    return f"the found network {word}: {told}"


def _costs(cheaper: bool, dearer: bool) -> str:
    return ", and cheaper" if cheaper else ", and more expensive" if dearer else ""


def _interval(found: Group, random: Group) -> tuple[float, float, float] | None:
    """Standard error of the difference of the accuracies, and the ends of its 95 % interval (Welch 1947); None where
    the error of one of the two is unknown."""
    from scipy.stats import t  # type: ignore[import-untyped]  # takes a second, which only a verdict should spend

    if found.error is None or random.error is None:
        return None
    squares = [(group.error or 0.0) ** 2 for group in (found, random)]
    freedom = sum(squares) ** 2 / sum(s**2 / g.freedom for s, g in zip(squares, (found, random), strict=True))
    error, gap = math.sqrt(sum(squares)), found.accuracy - random.accuracy
    reach = float(t.ppf(0.975, freedom)) * error
    return error, gap - reach, gap + reach


def _unknown(found: Group, random: Group) -> str:
    """Why the standard error is not known."""
    once = [group for group in (found, random) if group.trainings == 1]
    if len(once) == 2:
        return "one training of each"
    if once:
        return f"one training of {'the found network' if once[0] is found else once[0].role}"
    same = found if found.error is None else random
    whose = "the found network" if same is found else same.role
    return f"all trainings of {whose} gave the same accuracy"
