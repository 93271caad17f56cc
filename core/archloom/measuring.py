"""Measuring one architecture: estimators in order of expense, constraints between them."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from .architecture import Architecture
from .errors import ArchloomError, PluginError, SearchError, called
from .estimator import FULL, Context, Estimator, Fidelity
from .objective import Constraint, exact
from .space import SearchSpace, violations
from .trial import Status

logger = logging.getLogger("archloom")

Watch = Callable[[str, float | None], None]
"""Is called before each estimate with the estimator's name and its timeout in seconds."""


def unwatched(name: str, timeout: float | None) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Outcome:
    """What measuring one architecture gave."""

    status: Status
    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Measurer:
    """Measures architectures, cheap estimators first; the first broken constraint ends it.

    names, timeouts: of the estimators, in their order; without names their classes' stand in messages. A timeout is
    kept by whoever is behind `watch`: a process cannot end its own estimate.
    """

    space: SearchSpace
    estimators: Sequence[Estimator]
    constraints: Sequence[Constraint]
    context: Context
    strict: bool = False
    names: Sequence[str] = ()
    timeouts: Sequence[float | None] = ()
    watch: Watch = unwatched

    def __call__(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Outcome:
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        cost = {"seconds": 0.0, "epochs": 0.0}

        def outcome(status: Status, error: str | None = None) -> Outcome:
            return Outcome(status, metrics, cost | {"seconds": time.perf_counter() - started}, error)

        if broken := violations(self.space, architecture):
            return outcome("infeasible", broken[0])
        context = replace(self.context, seed=seed, fidelity=fidelity)
        for name, timeout, estimator in self._in_order():
            try:
                self.watch(name, timeout)
                measured = estimator.estimate(architecture, context)
                cost["epochs"] += _epochs(estimator, fidelity)
                if not isinstance(measured, Mapping):
                    raise SearchError(f"it gave {measured!r:.80}, not a mapping of metrics to values")
                lacking = [m.name for m in estimator.metrics if m.name not in measured]
                if lacking:
                    raise SearchError(f"it gave {_given(measured)}, but not {', '.join(lacking)}")
                numbers = {m.name: float(measured[m.name]) for m in estimator.metrics}
            except (Exception, SystemExit) as error:
                # a stranger's estimator may raise anything, or exit: it is recorded, and the search goes on
                logger.warning("%s failed on %s\n%s", name, architecture, traceback.format_exc())
                if self.strict:
                    raise
                return outcome("failed", f"{name}: {type(error).__name__}: {error}")
            metrics |= {metric: value for metric, value in numbers.items() if math.isfinite(value)}
            if odd := [
                f"{metric} is {value}" for metric, value in numbers.items() if not math.isfinite(value)
            ]:
                return outcome("failed", f"{name}: {', '.join(odd)}, not a number to compare")
            for constraint in self.constraints:
                value = metrics.get(constraint.metric)
                if value is not None and not constraint.holds(value):
                    return outcome("infeasible", f"{constraint} broken: {exact(value)}")
        return outcome("ok")

    def _in_order(self) -> list[tuple[str, float | None, Estimator]]:
        """Name, timeout and estimator, the cheapest first."""
        names = self.names or [type(estimator).__name__ for estimator in self.estimators]
        timeouts = self.timeouts or [None] * len(self.estimators)
        return sorted(zip(names, timeouts, self.estimators, strict=True), key=lambda row: row[2].expense)


def _given(measured: Mapping[str, float]) -> str:
    return ", ".join(map(str, measured)) or "nothing"


def _epochs(estimator: Estimator, fidelity: Fidelity) -> float:
    """What an estimate adds to the budget's epochs: of one that is continued, only what is new."""
    if hasattr(estimator, "epochs_at"):
        return float(estimator.epochs_at(fidelity.upto) - estimator.epochs_at(fidelity.since))
    return float(getattr(estimator, "epochs", 0.0))


@runtime_checkable
class Executor(Protocol):
    """Where measuring happens: in this process, or elsewhere.

    workers: how many measurements it makes at once. submit: a future of what a `Measurer` gives for the same arguments;
    a measurement that is lost with its process is a "failed" outcome, and touches no other. close: ends what is being
    measured elsewhere, and cancels what was not begun. Its factory may have `offers`, a tuple of "supernet", where it
    measures in this process, which has the supernet, and "timeout", where it ends an estimate that takes longer than
    its estimator's timeout; without it, it offers neither.
    """

    workers: int

    def submit(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Future[Outcome]: ...

    def close(self) -> None: ...


def trouble(executor: Any) -> str:
    """What an executor lacks, as the end of a sentence that begins with its name; empty where it is whole."""
    lacking = [name for name in ("submit", "close") if not callable(getattr(executor, name, None))]
    if not hasattr(executor, "workers"):
        lacking.insert(0, "workers")
    if lacking:
        return f"lacks {', '.join(lacking)}; an executor has workers, submit and close"
    workers = executor.workers
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        return f"has workers = {workers!r}; it is how many measurements are made at once, a whole number of at least 1"
    return ""


@dataclass(frozen=True)
class Asking:
    """Asks an executor, and checks what it gives: a PluginError with its name where that is no measurement.

    strict: what a measurement raises ends the search, so an exception need not be the executor's own.
    """

    executor: Executor
    strict: bool = False

    def submit(self, *measurement: Any) -> Future[Outcome]:
        """The executor's future for the arguments of its `submit`."""
        try:
            future: Any = self.executor.submit(*measurement)
        except Exception as error:
            if self._passes(error):
                raise
            raise self._broken(error, "from submit") from error
        if not isinstance(future, Future):
            raise PluginError(
                f"{called(self.executor)} gave {_kind(future)} from submit; it must give {_FUTURE}"
            )
        return future

    def outcome(self, future: Future[Outcome]) -> Outcome:
        """What is in a future that `submit` gave; it is waited for."""
        try:
            outcome: Any = future.result()
        except CancelledError as error:
            raise PluginError(
                f"{called(self.executor)} cancelled a future that the search waits for; only close may cancel"
            ) from error
        except Exception as error:
            if self._passes(error):
                raise
            raise self._broken(error, "in the future of a measurement") from error
        if not isinstance(outcome, Outcome):
            raise PluginError(
                f"{called(self.executor)} gave a Future of {_kind(outcome)} from submit; it must give "
                f"{_FUTURE}"
            )
        return outcome

    def _passes(self, error: Exception) -> bool:
        return self.strict or isinstance(error, ArchloomError)

    def _broken(self, error: Exception, where: str) -> PluginError:
        return PluginError(
            f"{called(self.executor)} raised {type(error).__name__} {where}: {error}. It must give {_FUTURE}, whose "
            "status is 'failed' where a measurement is lost"
        )


def _kind(thing: Any) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


_FUTURE = "a concurrent.futures.Future of an archloom.Outcome"


class Here:
    """Measures in this process, at once."""

    offers = ("supernet",)

    def __init__(self, measure: Callable[..., Outcome]) -> None:
        """measure: of (architecture, seed), and the fidelity where it is not full."""
        self.measure, self.workers = measure, 1

    def submit(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Future[Outcome]:
        """Measure now: the future is done."""
        future: Future[Outcome] = Future()
        more = () if fidelity == FULL else (fidelity,)
        future.set_result(self.measure(architecture, seed, *more))
        return future

    def close(self) -> None:
        """There is nothing to end."""
