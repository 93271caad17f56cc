"""Where estimates are made: in this process, or in others of this machine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from archloom import FULL, Architecture, Fidelity, Job, Measurer, Outcome, SearchError
from archloom.processes import MOST, Processes, Say, WorkerLost


class Workers:
    """Processes of this machine, each with its own objects made from the configuration.

    A measurement whose worker dies is tried once more, in a new process; when that one dies as well, or an estimator
    takes longer than its timeout, its outcome is "failed" with the reason (a SearchError where the configuration is
    strict).
    """

    offers = ("timeout",)

    def __init__(self, job: Job[Measurer], *, workers: Annotated[int, Field(ge=1, le=MOST)] = 1) -> None:
        self.workers, self._strict = workers, job.strict
        self._processes = Processes(workers, _prepare, (job,), lost=self._lost)

    def submit(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Future[Outcome]:
        """Measure in the next free worker."""
        return self._processes.submit(architecture, seed, fidelity)

    def _lost(self, lost: WorkerLost, seconds: float, architecture: Architecture, *rest: object) -> Outcome:
        if self._strict:
            raise SearchError(f"{architecture}: {lost}")
        tries = "" if lost.late else ", in each of two tries"
        return Outcome("failed", {}, {"seconds": seconds, "epochs": 0.0}, f"{lost}{tries}")

    def close(self) -> None:
        """End the workers."""
        self._processes.close()


def _prepare(job: Job[Measurer]) -> Callable[..., Outcome]:
    measurer = job.prepare()

    def measure(say: Say, architecture: Architecture, seed: int, fidelity: Fidelity) -> Outcome:
        def watch(name: str, timeout: float | None) -> None:
            say(f"estimator '{name}'", timeout)

        return replace(measurer, watch=watch)(architecture, seed, fidelity)

    return measure
