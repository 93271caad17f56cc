"""A trial: one architecture that was proposed and what became of it. Frozen; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .architecture import Architecture

Event = TypeVar("Event", bound=Mapping[str, Any])

Status = Literal["ok", "infeasible", "failed"]


@dataclass(frozen=True)
class Trial:
    """What a strategy observes.

    `scores` are the objectives, each turned so that higher is better; None unless the trial is ok.
    `metrics` hold everything measured, as measured. `source` is the number of the trial whose result
    this one repeats (its cost is then 0). `cost` is in seconds and training epochs. `fidelity` is the share of
    the full measurement that was made, in 0..1: trials of different fidelity are not compared.
    """

    number: int
    architecture: Architecture
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: tuple[float, ...] | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    source: int | None = None
    error: str | None = None
    fidelity: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", dict(self.metrics))
        object.__setattr__(self, "cost", dict(self.cost))
        if self.scores is not None:
            object.__setattr__(self, "scores", tuple(self.scores))

    @property
    def score(self) -> float | None:
        """The first objective, higher is better; None unless the trial is ok."""
        return None if self.scores is None else self.scores[0]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON."""
        return {
            "number": self.number,
            "architecture": self.architecture.to_json(),
            "status": self.status,
            "metrics": dict(self.metrics),
            "scores": None if self.scores is None else list(self.scores),
            "cost": dict(self.cost),
            "seed": self.seed,
            "source": self.source,
            "error": self.error,
            "fidelity": self.fidelity,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The inverse of `to_json`."""
        return cls(**{**data, "architecture": Architecture.from_json(data["architecture"])})


def since_anew(events: Sequence[Event]) -> Sequence[Event]:
    """A log's events since its search last began anew, under other constraints; all of them where it never did."""
    begun = [number for number, event in enumerate(events) if event["event"] == "anew"]
    return events[begun[-1] + 1 :] if begun else events
