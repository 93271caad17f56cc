"""Measuring in other processes of this machine. One that dies or takes too long costs its own trial alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .config import SearchConfig, parse_config
from .errors import SearchError
from .estimator import FULL, Fidelity
from .measuring import Outcome
from .plugins import Host
from .processes import Processes, Say, WorkerLost
from .ranks import Ranks
from .resolve import resolve
from .run import recorded


class Workers:
    """`config.workers` processes, each with its own objects made from the configuration.

    A measurement whose worker dies is tried once more, in a new process; when that one dies as well, or an estimator
    takes longer than its timeout, its outcome is "failed" with the reason (a SearchError where the configuration is
    strict).
    """

    def __init__(self, config: SearchConfig, files: Sequence[str], folder: Path) -> None:
        self.workers, self._strict = config.workers, config.strict
        arguments = (config.model_dump(mode="json"), tuple(files), str(folder))
        self._processes = Processes(config.workers, _prepare, arguments)

    def submit(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Future[Outcome]:
        """Measure in the next free worker."""
        started = time.perf_counter()
        outcome: Future[Outcome] = Future()

        def finish(done: Future[Outcome]) -> None:
            if done.cancelled():
                outcome.cancel()
                return
            error = done.exception()
            if error is None:
                outcome.set_result(done.result())
            elif not isinstance(error, WorkerLost):
                outcome.set_exception(error)
            elif self._strict:
                outcome.set_exception(SearchError(f"{architecture}: {error}"))
            else:
                cost = {"seconds": time.perf_counter() - started, "epochs": 0.0}
                tries = "" if error.late else ", in each of two tries"
                outcome.set_result(Outcome("failed", {}, cost, f"{error}{tries}"))

        self._processes.submit(architecture, seed, fidelity).add_done_callback(finish)
        return outcome

    def close(self) -> None:
        """End the workers."""
        self._processes.close()


def _prepare(data: dict[str, Any], files: tuple[str, ...], folder: str) -> Any:
    import torch

    config = parse_config(data)
    torch.set_num_threads(config.threads or max(1, torch.get_num_threads() // config.workers))
    resolved = resolve(config, Host(files))
    context = resolved.context(Ranks(), partial(recorded, Path(folder))).measuring(folder=Path(folder))

    def measure(say: Say, architecture: Architecture, seed: int, fidelity: Fidelity) -> Outcome:
        def watch(name: str, timeout: float | None) -> None:
            say(f"estimator '{name}'", timeout)

        return resolved.measurer(context, watch)(architecture, seed, fidelity)

    return measure
