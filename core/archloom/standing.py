"""Where a search stands: what it has spent of its budget, the best so far, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Event = Mapping[str, Any]


def number(value: float) -> str:
    """A figure for people: whole ones with separators, others with four digits."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """A figure and its unit; "1" is none."""
    return number(value) if unit in ("", "1") else f"{number(value)} {unit}"


def with_unit(name: str, unit: str) -> str:
    """The name of figures and their unit, as it heads a column; "1" is none."""
    return name if unit in ("", "1") else f"{name}, {unit}"


@dataclass
class Standing:
    """How far a search is: what it has spent, and the best trial of each objective by itself."""

    measured: int = 0
    epochs: float = 0.0
    active: float = 0.0
    trainings: int = 0
    fidelity: float = 0.0
    best: list[tuple[float, float]] = field(default_factory=list)  # (score, value of the metric)

    def take(self, event: Event, objectives: Sequence[Mapping[str, str]]) -> bool:
        """Take in an event of the log; whether it gave a new best."""
        self.active = max(self.active, event.get("active", 0.0))
        if event["event"] == "fit":
            self.epochs = max(self.epochs, event["epochs"])
        elif event["event"] in ("final", "final failed"):
            self.trainings += 1
        if event["event"] != "result" or event["source"] is not None:
            return False
        self.epochs += event["cost"].get("epochs", 0.0)
        self.measured += event["status"] != "infeasible"
        fidelity = event.get("fidelity", 1.0)
        if (
            event["scores"] is None or fidelity < self.fidelity
        ):  # in the end the highest fidelity alone counts
            return False
        if fidelity > self.fidelity:
            self.fidelity, self.best = fidelity, []
        new = list(zip(event["scores"], (event["metrics"][o["name"]] for o in objectives), strict=True))
        better = [not self.best or score > self.best[i][0] for i, (score, _) in enumerate(new)]
        self.best = [new[i] if better[i] else self.best[i] for i in range(len(new))]
        return any(better)

    def share(self, budget: Mapping[str, float | None]) -> float | None:
        """How much of the budget is spent, 0 to 1; None where there is no budget."""
        spent = {"trials": self.measured, "epochs": self.epochs, "seconds": self.active}
        shares = [spent[name] / limit for name, limit in budget.items() if limit]
        return min(1.0, max(shares)) if shares else None


def announced(
    event: Event,
    events: Iterable[Event],
    objectives: Sequence[Mapping[str, str]],
    budget: Mapping[str, float | None],
    trainings: int,
    main: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A search's `start`, with what a display needs to know besides: `objectives` (name, unit), `budget`, how many
    `trainings` the verdict holds, the `main` metric (name, unit, direction) where it is not accuracy, and where the
    `events` of its log stand, as `so_far`."""
    standing = Standing()
    for one in events:
        standing.take(one, objectives)
    extras = {"objectives": list(objectives), "budget": dict(budget), "trainings": trainings}
    extras |= {} if main is None else {"main": dict(main)}
    return {**event, **extras, "so_far": asdict(standing)}


class Pace:
    """How long it will take, from how long it took `since` a moment (of `time.monotonic`), when `share` was done."""

    def __init__(self, share: float, since: float) -> None:
        self._first, self._since = share, since
        self._left: float | None = None
        self._at = 0.0

    def look(self, share: float) -> None:
        """The share that is done now, 0 to 1."""
        now = time.monotonic()
        if share > self._first:
            self._left, self._at = (1 - share) * (now - self._since) / (share - self._first), now

    def left(self) -> str:
        """`0:12:34 left`, counted down between two looks; empty where nothing is known, or nothing is left."""
        if not self._left:
            return ""
        seconds = round(max(0.0, self._left - (time.monotonic() - self._at)))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02} left"
