"""Other constraints in a run that goes on, and what becomes of the trials that it has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RunError
from ..resolve import Resolved
from ..run import Run
from ..trial import Trial, since_anew

logger = logging.getLogger("archloom")


def check_constraints_kept(r: Resolved, run: Run, *, searched: bool = False) -> None:
    """A RunError where trials were measured under other constraints and would be lost with them.

    Constraints may change as long as there are no trials, and where a supernet was trained: the search then begins
    anew with it, and its trials so far stand in the log alone. `searched`: the search is over, and they may not.
    """
    then = list(run.log.of("start"))[-1]["identity"].get("constraints")
    now = r.config.constraints
    tried = sum(event["event"] == "propose" for event in since_anew(run.log.events))
    if then == now or not (tried or searched):
        return
    if searched or r.method is None:
        raise RunError(
            f"the trials in {run.folder} were measured under other constraints: then {then!r}, now {now!r}. "
            + ("Change them by archloom resume" if searched and r.method else "Keep them, or start a new run")
        )
    logger.warning(
        "other constraints: the search begins anew, and its %d trials so far stay in the log", tried
    )
    run.log.append({"event": "anew", "constraints": now})


def logged_trials(events: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """The trials of a log's events, by number."""
    results = {
        event["number"]: {key: value for key, value in event.items() if key not in ("event", "active")}
        for event in events
        if event["event"] == "result"
    }
    return [Trial.from_json(results[number]) for number in sorted(results)]
