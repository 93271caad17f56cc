"""The contract of executors."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..architecture import Architecture
from ..config import parse_config
from ..errors import PluginError
from ..estimator import FULL, Fidelity
from ..job import measuring
from ..measuring import Asking, Measurer, Outcome, trouble
from ..plugins import Host
from ..recording import shared
from ..resolve import resolve
from . import answering
from .checks import Contract, require

PATIENCE = 120.0
"""Seconds within which a result must be there, the start of a process included."""


@dataclass(frozen=True)
class _Opened:
    """An executor, what measures the same in this process, and the folder of their run."""

    executor: Any
    here: Measurer
    folder: Path

    def outcome(self, does: str, number: int = 0, seed: int = 5, fidelity: Fidelity = FULL) -> Outcome:
        """What the executor gives for one submission."""
        return self.submit(does, number, seed, fidelity).result(PATIENCE)

    def submit(self, does: str, number: int = 0, seed: int = 5, fidelity: Fidelity = FULL) -> Future[Outcome]:
        try:
            return Asking(self.executor, strict=True).submit(behaviour(does, number), seed, fidelity)
        except PluginError as error:
            raise AssertionError(str(error)) from error

    def begun(self, does: str, number: int) -> int:
        """How often the measuring of this began."""
        return answering.measured(self.folder).count((does, number))


def behaviour(does: str, number: int = 0) -> Architecture:
    """The architecture of the contract's space whose estimate does this, and gives the number."""
    return Architecture({"does": does, "number": number})


class ExecutorContract(Contract):
    """Checks an executor. timeout: seconds that an estimate may take where the executor offers to end it."""

    kind = "executor"
    timeout: ClassVar[float] = 5.0
    _stack: ClassVar[ExitStack]
    _kept: ClassVar[_Opened]

    @contextmanager
    def _opened(self) -> Iterator[_Opened]:
        """An executor of a run of its own."""
        with tempfile.TemporaryDirectory(prefix="archloom-") as name, ExitStack() as stack:
            folder = Path(name)
            config = parse_config(
                {
                    "space": "contract_behaviours",
                    "task": "contract_tiny",
                    "strategy": "contract_silent",
                    "estimators": ["contract_answering"],
                    "objectives": ["number"],
                    "verdict": {"seeds": 0},
                    "observers": [],
                    "threads": 1,
                    "plugins": [answering.__file__],
                }
            )
            if "timeout" in self._entry().offers:
                limited = config.estimators[0].model_copy(update={"timeout": self.timeout})
                config = config.model_copy(update={"estimators": [limited], "workers": 1})
            job = measuring(
                resolve(config, Host(config.plugins)), folder, stack.enter_context(shared(folder)), 1
            )
            here = job.maker(job.data, Host(job.files), folder, job.recorded)
            executor = self._maker()(job=job, measure=here)
            if callable(getattr(executor, "close", None)):
                stack.callback(executor.close)
            yield _Opened(executor, here, folder)

    def _shared(self) -> _Opened:
        """One executor for all checks that leave it as it was."""
        case = type(self)
        if "_kept" not in vars(case):
            case._stack = ExitStack()
            case._kept = case._stack.enter_context(self._opened())
        return case._kept

    @classmethod
    def teardown_class(cls) -> None:
        """Close what the checks shared; pytest calls it."""
        if "_kept" in vars(cls):
            del cls._kept
            cls._stack.close()

    def _elsewhere(self, one: _Opened) -> bool:
        """Whether it measures in other processes: there one may die, and be ended."""
        return one.outcome("answers").metrics["process"] != os.getpid()

    def test_it_can_be_asked_and_closed(self) -> None:
        one = self._shared()
        problem = trouble(one.executor)
        require(not problem, f"the executor {problem}")

    def test_each_submission_has_its_own_result_as_measured_here(self) -> None:
        one = self._shared()
        wanted = [
            ("waits", 1, 11),
            ("answers", 2, 12),
            ("raises", 3, 13),
            ("answers", 4, 14),
            ("answers", 2, 15),
        ]
        futures = [one.submit(*row) for row in wanted]
        for row, future in zip(wanted, futures, strict=True):
            given, here = future.result(PATIENCE), one.here(behaviour(*row[:2]), row[2])
            require(
                isinstance(given, Outcome) and _plain(given) == _plain(here),
                f"the measurement of {row} came out as {given!r}, and here as {here!r}; what a future gives is the "
                "outcome of its own submission, whichever is finished first",
            )

    def test_the_fidelity_is_handed_on(self) -> None:
        one, fidelity = self._shared(), Fidelity(0.5, 0.25)
        part, whole = one.outcome("answers", fidelity=fidelity), one.outcome("answers")
        require(
            (part.metrics["upto"], part.metrics["since"]) == (0.5, 0.25),
            f"submitted with {fidelity}, the estimator was handed {part.metrics}",
        )
        require(
            (whole.metrics["upto"], whole.metrics["since"]) == (1.0, 0.0),
            f"submitted at full fidelity, the estimator was handed {whole.metrics}",
        )

    def test_an_estimator_that_raises_fails_its_own_trial(self) -> None:
        one = self._shared()
        raising, after = one.submit("raises", 6), one.submit("answers", 5)
        failed = _outcome(raising, "an estimator that raises")
        require(
            failed.status == "failed" and "the number was 6" in str(failed.error),
            f"where an estimator raises, the outcome is failed and has its words as the error, not {failed!r}",
        )
        require(after.result(PATIENCE).status == "ok", "after an estimator that raised, another trial failed")

    def test_a_measurement_that_kills_its_process_fails_alone_after_two_tries(self) -> None:
        one = self._shared()
        if not self._elsewhere(one):
            return  # this process would die
        futures = [one.submit("answers", 1), one.submit("dies", 7), one.submit("answers", 2)]
        before, killed, after = (_outcome(future, "a process that dies") for future in futures)
        require(
            killed.status == "failed" and killed.error,
            f"a measurement that kills its process is a failed outcome with the reason, not {killed!r}",
        )
        require(
            (before.status, after.status) == ("ok", "ok"), "a process that died took other trials with it"
        )
        tries = one.begun("dies", 7)
        require(
            tries == 2, f"it was begun {tries} times; a death may be chance, so it is tried again, once only"
        )

    def test_a_measurement_whose_process_died_once_is_made_again(self) -> None:
        one = self._shared()
        if not self._elsewhere(one):
            return
        again = _outcome(one.submit("dies once", 3), "a process that died once")
        require(
            again.status == "ok" and again.metrics["number"] == 3,
            f"a measurement whose process died is made again in a new one, not {again!r}",
        )

    def test_an_estimate_that_takes_too_long_is_ended_where_it_offers_that(self) -> None:
        if "timeout" not in self._entry().offers:
            return
        one = self._shared()
        started = time.monotonic()
        late = _outcome(one.submit("sleeps", 4), "an estimate that takes too long")
        require(
            late.status == "failed" and "contract_answering" in str(late.error),
            f"an estimate that takes longer than its timeout is failed, with the estimator's name, not {late!r}",
        )
        seconds, tries = time.monotonic() - started, one.begun("sleeps", 4)
        require(seconds < answering.SLEEP, f"it was waited for, {seconds:.0f} seconds")
        require(tries == 1, f"it was begun {tries} times; what takes too long is not tried again")
        require(
            one.outcome("answers").status == "ok", "after an estimate that was ended, another trial failed"
        )

    def test_it_measures_in_this_process_where_it_offers_the_supernet(self) -> None:
        if "supernet" not in self._entry().offers:
            return
        require(
            not self._elsewhere(self._shared()),
            "it offers 'supernet', whose weights are in this process, and measures in another",
        )

    def test_a_recorded_value_is_measured_once_for_all(self) -> None:
        one = self._shared()
        futures = [one.submit("asks", number) for number in range(4)]
        asked = [future.result(PATIENCE).metrics["asked"] for future in futures]
        require(
            asked == [1.0] * 4 and one.begun("measures", 0) == 1,
            f"a value that is measured once in a run was measured {one.begun('measures', 0)} times, and read as "
            f"{asked}; keep the job's `recorded`",
        )

    def test_a_cancelled_measurement_is_not_made(self) -> None:
        one = self._shared()
        futures = [one.submit("waits", number) for number in range(one.executor.workers)]
        last = one.submit("waits", 7)
        cancelled = last.cancel()
        for future in futures:
            require(future.result(PATIENCE).status == "ok", "cancelling one future ended another measurement")
        one.outcome("answers", 3)  # whatever was before it has begun by now
        require(
            cancelled == last.cancelled() and cancelled != bool(one.begun("waits", 7)),
            f"cancel() said {cancelled}, and the measurement was "
            f"{'made' if one.begun('waits', 7) else 'not made'}; it is one of concurrent.futures",
        )

    def test_closing_ends_what_runs_and_what_waits(self) -> None:
        with self._opened() as one:
            elsewhere = self._elsewhere(one)
            futures: list[Future[Outcome]] = []
            if elsewhere:
                futures = [one.submit("sleeps", 5) for _ in range(one.executor.workers)]
                _until(lambda: one.begun("sleeps", 5) >= 1, "a measurement began")
                futures.append(one.submit("answers", 6))
            started = time.monotonic()
            one.executor.close()
            seconds = time.monotonic() - started
            require(
                seconds < answering.SLEEP / 2, f"close() waited for {seconds:.0f} seconds; it ends what runs"
            )
            _until(
                lambda: all(future.done() for future in futures), "close() left a future that is never done"
            )
            left = {pid for does, _, pid in answering.rows(one.folder) if does == "sleeps"}
            _until(lambda: not any(map(_alive, left)), f"close() left processes: {sorted(left)}")


def _plain(outcome: Outcome) -> tuple[Any, ...]:
    """What is the same wherever it was measured."""
    metrics = {name: value for name, value in outcome.metrics.items() if name != "process"}
    return outcome.status, metrics, outcome.cost["epochs"], outcome.error


def _outcome(future: Future[Outcome], what: str) -> Outcome:
    try:
        return future.result(PATIENCE)
    except Exception as error:
        raise AssertionError(
            f"{what} ended its future with {type(error).__name__}: {error}; the search would end there. Give an "
            'Outcome with the status "failed"'
        ) from error


def _until(condition: Callable[[], bool], problem: str) -> None:
    """Wait for the condition, for a while."""
    until = time.monotonic() + answering.SLEEP / 2
    while not condition():
        require(time.monotonic() < until, problem)
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
