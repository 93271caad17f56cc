"""What a search ends with, as a value and as result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..architecture import Architecture
from ..columns import ACCURACY, Judged
from ..family import Member
from ..hypervolume import history
from ..objective import Objective
from ..run import write_json
from ..trial import Trial
from ..verdict import Failure, Group


@dataclass(frozen=True)
class Result:
    """What a search ends with. `architecture` is None where several objectives leave a front and nothing
    says how to pick from it; `complete` is False where the budget ended the training of the supernet. `failures`:
    trainings of the verdict that ended with an error; `problems`: what else failed after the search, as sentences;
    `units`: of each metric; `judged`: what the groups are judged by."""

    folder: Path
    architecture: Architecture | None
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    reason: str
    groups: tuple[Group, ...] = ()
    verdict: tuple[str, ...] = ()
    complete: bool = True
    family: tuple[Member, ...] = ()
    failures: tuple[Failure, ...] = ()
    problems: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    judged: Judged = ACCURACY


def write_result(
    result: Result,
    found: Trial | None,
    objectives: Sequence[Objective],
    reference: Mapping[str, float],
    *,
    finished: bool = True,
) -> None:
    """Write result.json into the run's folder. reference: the hypervolume's point. finished: False where the search
    has ended, and the verdict has not."""
    covered = history(result.trials, objectives, reference)
    document = {
        "reason": result.reason,
        "finished": finished,
        "trials": len(result.trials),
        "ok": sum(trial.status == "ok" for trial in result.trials),
        "found": None if found is None else found.to_json(),
        "units": dict(result.units),
        "front": [trial.number for trial in result.front],
        "hypervolume": None if covered is None else covered.to_json(),
        "groups": [group.to_json() for group in result.groups],
        "failures": [failure.to_json() for failure in result.failures],
        "verdict": list(result.verdict),
        "problems": list(result.problems),
        "family": [member.to_json() for member in result.family],
    }
    write_json(result.folder / "result.json", document)
