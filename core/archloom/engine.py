"""The one loop over trials, for strategies that ask and are told and for those that train a supernet first.

The log is the search's memory: every proposal, result and delivery is one line, and a search is resumed
by replaying them into a fresh strategy. docs/engine.md tells the contract at length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

from .architecture import Architecture
from .errors import RunError, SearchError, SpaceError, called, shown
from .estimator import FULL, Fidelity
from .history import check_history
from .measuring import Asking, Executor, Outcome
from .objective import Constraint, Objective, exact
from .randomness import derive_seed
from .run import EventLog
from .space import SearchSpace, canonical, check, size
from .strategy import Proposal, Strategy
from .trial import Trial, since_anew

Event = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """When a search stops, and what it puts up with."""

    trials: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    max_failures: int = 10
    max_rejected: int = 1000
    max_repeats: int = 1000


_Key = tuple[Architecture, float]  # what a result is of: an architecture, or its form, at a fidelity


@dataclass
class _Open:
    """A proposal that has not been delivered: still being measured, or measured."""

    number: int
    architecture: Architecture
    fidelity: float
    since: float
    seed: int
    future: Future[Outcome] | None = None
    source: int | None = None
    trial: Trial | None = None


class Search:
    """Proposals, measurements and deliveries of one search, resumable from its log.

    equal_once: architectures of one canonical form get one result, as the same architecture does. strict: what
    measuring raises ends the search as it is.
    """

    def __init__(
        self,
        space: SearchSpace,
        strategy: Strategy,
        executor: Executor,
        objectives: Sequence[Objective],
        limits: Limits,
        *,
        seed: int,
        log: EventLog,
        order: str = "submitted",
        window: int = 1,
        notify: Callable[[Event], None] = lambda event: None,
        constraints: Sequence[Constraint] = (),
        spent_seconds: float = 0.0,
        spent_epochs: float = 0.0,
        equal_once: bool = False,
        strict: bool = False,
    ) -> None:
        self.space, self.strategy, self._asking = space, strategy, Asking(executor, strict)
        self.objectives, self.limits, self.constraints = objectives, limits, constraints
        self.seed, self.log, self.order, self.window, self.notify = seed, log, order, window, notify
        self._equal_once = equal_once
        self.trials: dict[int, Trial] = {}
        self._open: list[_Open] = []
        self._settled: dict[_Key, int] = {}
        self._measured_at: dict[Architecture, list[tuple[float, int]]] = {}  # (fidelity, seed), as delivered
        self._complete: set[Architecture] = set()  # no higher fidelity is left
        self._proposed = 0
        self._nothing_to_ask = False
        self._rejected = self._repeats = self._failures = self._measured = 0
        self._nearest: dict[Constraint, float] = {}
        self._started = time.perf_counter()
        self._spent_seconds, self._spent_epochs = spent_seconds, spent_epochs
        self._space_size = size(space)

    def run(self) -> str:
        """Go on until something says stop; the reason, as a sentence."""
        self._replay()
        reason = None
        while reason is None:
            while reason is None and self._may_propose():
                reason = self._stop_now()
                if reason is None:
                    self._propose()
            if reason is None and not self._open:
                reason = "the strategy has nothing more to propose"
            if reason is None:
                self._deliver(self._next())
        self._record({"event": "end", "reason": reason, "active": self.active})
        if self._proposed and not any(t.status == "ok" for t in self.trials.values()):
            raise SearchError(self._empty(reason))
        if not self._proposed:
            raise SearchError("the strategy proposed nothing at all; there is no result")
        return reason

    @property
    def nothing_feasible(self) -> bool:
        """Whether constraints left no trial to choose from."""
        return bool(self._nearest) and not any(t.status == "ok" for t in self.trials.values())

    @property
    def active(self) -> float:
        """Seconds of fit and search so far, summed over resumes."""
        return self._spent_seconds + time.perf_counter() - self._started

    def _record(self, event: Event) -> None:
        self.log.append(event)
        self.notify(event)

    # -- proposing ---------------------------------------------------------------------------------

    def _may_propose(self) -> bool:
        return not self._nothing_to_ask and len(self._open) < self.window

    def _stop_now(self) -> str | None:
        """Why to stop, or None. Before a stop the open trials finish: they may turn out to be infeasible and
        leave room for more. They are not delivered, so that a larger budget goes on as one long run."""
        if self._stop_reason() is None:
            return None
        for entry in self._open:
            self._settle(entry)
        return self._stop_reason()

    def _stop_reason(self) -> str | None:
        limits, in_flight = self.limits, sum(entry.trial is None for entry in self._open)
        if limits.trials is not None and self._measured + in_flight >= limits.trials:
            return f"the budget of {limits.trials} trials is spent"
        if self._measured and limits.seconds is not None and self.active >= limits.seconds:
            return f"the budget of {exact(limits.seconds)} seconds is spent"
        if self._measured and limits.epochs is not None and self._spent_epochs >= limits.epochs:
            return f"the budget of {exact(limits.epochs)} epochs is spent"
        if len(self._complete) >= self._space_size:
            return f"all {self._space_size} architectures of the space were proposed"
        if self._repeats >= limits.max_repeats:
            return f"the last {self._repeats} proposals were all repeats"
        if self._rejected >= limits.max_rejected:
            return f"the last {self._rejected} proposals were all infeasible"
        if self._failures >= limits.max_failures:
            return f"the last {self._failures} estimates all failed"
        return None

    def _propose(self) -> None:
        proposal = self._ask()
        self._record(
            {
                "event": "propose",
                "number": None if proposal is None else self._proposed,
                "architecture": None if proposal is None else proposal.architecture.to_json(),
                "fidelity": None if proposal is None else proposal.fidelity,
            }
        )
        if proposal is not None:
            self._start(self._enter(proposal))

    def _ask(self) -> Proposal | None:
        proposal = self.strategy.propose()
        if proposal is None:
            self._nothing_to_ask = True
            return None
        if not isinstance(proposal, Proposal):
            proposal = Proposal(proposal)
        if not 0.0 < proposal.fidelity <= 1.0:
            raise SearchError(
                f"{called(self.strategy)} proposed a fidelity of {proposal.fidelity!r}; it is a share of the full "
                "effort, above 0 and at most 1"
            )
        if not isinstance(proposal.architecture, Architecture):
            raise SearchError(
                f"{called(self.strategy)} proposed {shown(repr(proposal.architecture))}, which is no Architecture"
            )
        try:
            return Proposal(check(self.space, proposal.architecture), proposal.fidelity)
        except SpaceError as error:
            raise SpaceError(f"{called(self.strategy)} proposed what is not in the space: {error}") from error

    def _enter(self, proposal: Proposal) -> _Open:
        """A new open entry. What was delivered at a lower fidelity goes on from there, and under the same seed."""
        architecture, fidelity = proposal.architecture, proposal.fidelity
        earlier = [one for one in self._measured_at.get(architecture, []) if one[0] < fidelity]
        since, seed = max(earlier, default=(0.0, derive_seed(self.seed, "trial", self._proposed)))
        entry = _Open(self._proposed, architecture, fidelity, since, seed)
        self._proposed += 1
        self._open.append(entry)
        return entry

    def _start(self, entry: _Open) -> None:
        entry.source = self._source(entry)
        if entry.source is None:
            fidelity = Fidelity(entry.fidelity, entry.since)
            # an executor that knows no fidelity need not, as long as all are full
            more = () if fidelity == FULL else (fidelity,)
            entry.future = self._asking.submit(entry.architecture, entry.seed, *more)

    def _key(self, one: _Open | Trial) -> _Key:
        form = canonical(self.space, one.architecture) if self._equal_once else one.architecture
        return form, one.fidelity

    def _source(self, entry: _Open) -> int | None:
        """The earlier trial, settled or open, whose result this one repeats; failures are not repeated."""
        key = self._key(entry)
        settled = self._settled.get(key)
        if settled is not None:
            return settled
        for other in self._open:
            failed = other.trial is not None and other.trial.status == "failed"
            first = other.source is None and not failed and other.number < entry.number
            if first and self._key(other) == key:
                return other.number
        return None

    # -- settling and delivering -------------------------------------------------------------------

    def _next(self) -> _Open:
        """The proposal to deliver now: the oldest, or the first that is done."""
        if self.order == "completion":
            pending = [entry.future for entry in self._open if entry.future and entry.trial is None]
            if pending and not any(entry.trial or entry.source is not None for entry in self._open):
                wait(pending, return_when=FIRST_COMPLETED)
            for entry in self._open:
                if entry.trial or entry.source is not None or (entry.future and entry.future.done()):
                    return entry
        return self._open[0]

    def _deliver(self, entry: _Open) -> None:
        trial = self._settle(entry)
        self._record({"event": "observe", "number": trial.number})
        self._hand_over(entry, trial)

    def _hand_over(self, entry: _Open, trial: Trial) -> None:
        self._open.remove(entry)
        if trial.status == "ok" and trial.source is None:
            # by deliveries, whose order the log keeps: results may be ready earlier when they are replayed
            self._measured_at.setdefault(trial.architecture, []).append((trial.fidelity, trial.seed))
        self.strategy.observe(trial)
        self._nothing_to_ask = False

    def _settle(self, entry: _Open) -> Trial:
        if entry.trial is None:
            entry.trial = self._finish(entry)
            self._count(entry.trial)
            self._record({"event": "result", "active": self.active, **entry.trial.to_json()})
            if entry.trial.status == "failed":
                for waiting in self._open:
                    if waiting.trial is None and waiting.source == entry.number:
                        self._start(waiting)  # a failure is not repeated: it is measured after all
        return entry.trial

    def _finish(self, entry: _Open) -> Trial:
        if entry.source is not None and entry.source not in self.trials:
            self._settle(next(other for other in self._open if other.number == entry.source))
            return self._finish(entry)  # where the source failed, this one is measured now
        if entry.source is not None:
            return replace(
                self.trials[entry.source],
                number=entry.number,
                architecture=entry.architecture,
                seed=entry.seed,
                source=entry.source,
                cost={"seconds": 0.0, "epochs": 0.0},
            )
        assert entry.future is not None, "an entry without a source was submitted"
        outcome = self._asking.outcome(entry.future)
        scores = tuple(o.score(outcome.metrics) for o in self.objectives) if outcome.status == "ok" else None
        return Trial(
            entry.number,
            entry.architecture,
            outcome.status,
            outcome.metrics,
            scores,
            outcome.cost,
            entry.seed,
            None,
            outcome.error,
            entry.fidelity,
        )

    def _count(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._spent_epochs += trial.cost.get("epochs", 0.0)
        if trial.status != "failed":
            self._settled.setdefault(self._key(trial), trial.number)
            if trial.fidelity == 1.0 or trial.status == "infeasible":
                self._complete.add(trial.architecture)
        if trial.source is not None:
            self._repeats += 1
            return
        self._repeats = 0
        if trial.status == "infeasible":
            self._rejected += 1
            self._note_nearest(trial)
            return
        self._rejected = 0
        self._measured += 1
        self._failures = self._failures + 1 if trial.status == "failed" else 0

    def _note_nearest(self, trial: Trial) -> None:
        for constraint in self.constraints:
            value = trial.metrics.get(constraint.metric)
            if value is not None and not constraint.holds(value):
                known = self._nearest.get(constraint)
                if known is None or abs(value - constraint.bound) < abs(known - constraint.bound):
                    self._nearest[constraint] = value

    def _empty(self, reason: str) -> str:
        if self._nearest:
            told = "; ".join(
                f"{c}: the nearest seen was {exact(value)}" for c, value in self._nearest.items()
            )
            return f"no feasible architecture was found ({reason}). {told}. Loosen the constraint"
        errors = [trial.error for trial in self.trials.values() if trial.error]
        return f"no architecture could be measured ({reason}). The last error: {errors[-1] if errors else 'none'}"

    # -- resuming ----------------------------------------------------------------------------------

    def _replay(self) -> None:
        """Bring a fresh strategy to where the log ends, checking each proposal against it."""
        check_history(self.log.events)
        events = list(since_anew(self.log.events))
        results = {
            event["number"]: Trial.from_json({k: v for k, v in event.items() if k not in ("event", "active")})
            for event in events
            if event["event"] == "result"
        }
        for event in events:
            if event["event"] == "propose":
                self._replay_propose(event, results)
            elif event["event"] == "observe":
                entry = next(e for e in self._open if e.number == event["number"])
                if entry.trial is None:
                    raise RunError(
                        f"the log delivers trial {entry.number} without a result; it was changed by hand"
                    )
                self._hand_over(entry, entry.trial)
        self._failures = 0  # counted since the last start, or a resume would stop at once
        for entry in self._open:
            if entry.trial is None:
                self._start(entry)

    def _replay_propose(self, event: Event, results: Mapping[int, Trial]) -> None:
        proposal = self._ask()
        logged = None
        if event["architecture"] is not None:
            logged = Proposal(Architecture.from_json(event["architecture"]), event.get("fidelity", 1.0))
        if proposal != logged:
            raise RunError(
                f"the resumed strategy proposes something else than the log has at trial {self._proposed}: "
                f"now {_told(proposal)}, then {_told(logged)}. Its code or its data changed; start a new run"
            )
        if proposal is None:
            return
        entry = self._enter(proposal)
        entry.trial = results.get(entry.number)
        if entry.trial is not None:
            self._check_scores(entry.trial)
            self._count(entry.trial)

    def _check_scores(self, trial: Trial) -> None:
        if trial.scores is not None:
            lacking = [o.metric for o in self.objectives if o.metric not in trial.metrics]
            if lacking or trial.scores != tuple(o.score(trial.metrics) for o in self.objectives):
                raise RunError(
                    f"the log has scores of trial {trial.number} that do not follow from its metrics; it was changed "
                    "by hand. Restore it, or start a new run"
                )


def _told(proposal: Proposal | None) -> str:
    if proposal is None or proposal.fidelity == 1.0:
        return str(proposal and proposal.architecture)
    return f"{proposal.architecture} at fidelity {proposal.fidelity:g}"
