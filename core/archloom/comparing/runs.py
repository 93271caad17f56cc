"""The searches of a comparison: each by the engine's own loop, several at once, each kept as soon as it ends."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import SearchConfig
from ..context import RunContext, remembered
from ..errors import ConfigError, RunError, SearchError
from ..estimator import STATIC
from ..folder import Identity, differences, path_name, told
from ..job import Job
from ..measuring import Here, Measurer
from ..plugins import Host
from ..processes import Processes, Say, WorkerLost, processors
from ..randomness import derive_seed
from ..ranks import Ranks
from ..recording import shared
from ..resolve import Resolved, resolve
from ..run import Log, Memory, recorded
from ..session import search_or_resume
from ..session.making import make_loop
from ..session.opening import search_kind
from ..space import everything, size
from ..strategy import Recorded
from ..trial import Trial
from .config import Comparison

WHOLE = 200_000
"""How large a space may be to be measured whole."""

Record = dict[str, Any]


class Searches:
    """Makes the searches of a comparison, one after another, in one process. ask: for what all of them measure once;
    by default this is the process that owns the folder."""

    def __init__(self, comparison: Comparison, folder: Path, host: Host, ask: Recorded | None = None) -> None:
        self.comparison, self.folder, self.host = comparison, folder, host
        self._recorded: Recorded = ask or partial(recorded, folder)
        self._resolved: dict[str, Resolved] = {}

    def resolved(self, label: str) -> Resolved:
        """The objects of one strategy's searches, made once."""
        if label not in self._resolved:
            self._resolved[label] = resolve(self.comparison.of(label, 0), self.host)
        return self._resolved[label]

    def run(self, label: str, seed: int) -> Record:
        """One search: who, how it ended, what it took, and each new incumbent with what had been spent by then.

        Where all is looked up or counted, the loop runs in memory; a search that trains has a run folder of its
        own, and goes on there when it was interrupted.
        """
        resolved = self.resolved(label)
        started = time.perf_counter()
        static = resolved.method is None and all(e.expense == STATIC for e in resolved.estimators)
        if static and all(part.timeout is None for part in resolved.config.estimators):
            trials, reason = self._in_memory(resolved, seed)
        else:
            trials, reason = self._in_a_folder(label, seed)
        return {
            "event": "run",
            "label": label,
            "contender": self.comparison.protocol.strategies[label].to_json(),
            "seed": seed,
            "reason": reason,
            "seconds": time.perf_counter() - started,
            "trials": sum(counts(trial) for trial in trials),
            "incumbents": incumbents(trials),
        }

    def measurer(self, resolved: Resolved, seed: int) -> Measurer:
        """What measures in memory; values that are measured once are shared by all searches."""
        return resolved.measurer(self._context(resolved, seed).measuring())

    def _context(self, resolved: Resolved, seed: int) -> RunContext:
        return resolved.context(Ranks(), self._recorded, seed=seed)

    def _in_memory(self, resolved: Resolved, seed: int) -> tuple[list[Trial], str]:
        # what a strategy measures once is its own; what it is told of costs is what is measured here
        own = replace(self._context(resolved, seed), recorded=remembered())
        executor = Here(self.measurer(resolved, seed))
        loop = make_loop(resolved, own.strategy(resolved.strategy), executor, Memory(), seed=seed)
        try:
            reason = loop.run()
        except SearchError as error:  # a search that finds nothing has lost, and the others go on
            if resolved.config.strict:
                raise
            reason = str(error)
        return [loop.trials[number] for number in sorted(loop.trials)], reason

    def _in_a_folder(self, label: str, seed: int) -> tuple[list[Trial], str]:
        config = self.comparison.of(label, seed)
        try:
            result = search_or_resume(config, search_folder(self.folder, label, seed), host=self.host)
        except SearchError as error:
            if self.comparison.shared.strict:
                raise
            return [], str(error)
        return list(result.trials), result.reason

    def optima(self, scores: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """For each score the best there is ("best") and that of the network with the best selecting metric
        ("selected"), by measuring the whole space; a ConfigError where that cannot be done."""
        resolved = self.resolved(next(iter(self.comparison.protocol.strategies)))
        if any(estimator.expense != STATIC for estimator in resolved.estimators):
            raise ConfigError("optimum: exhaustive needs estimators that look up or count, none that trains")
        if size(resolved.space) > WHOLE:
            raise ConfigError(
                f"optimum: exhaustive would measure {size(resolved.space):,} architectures; more than {WHOLE:,} is "
                "too much. Give the optimum as a number, or leave it out: the best found by any search is taken"
            )
        measure, select = self.measurer(resolved, 0), resolved.objectives[0]
        rows = []
        for number, architecture in enumerate(everything(resolved.space)):
            outcome = measure(architecture, derive_seed(0, "trial", number))
            if outcome.status == "ok":
                rows.append(outcome.metrics)
        if not rows:
            raise SearchError("optimum: exhaustive found no feasible architecture in the whole space")
        chosen = max(rows, key=select.score)
        found = {}
        for name, metrics in scores.items():
            sign = 1 if resolved.metrics[metrics[0]].direction == "max" else -1
            values = [sign * mean_of(row, metrics) for row in rows]
            found[name] = {"best": sign * max(values), "selected": mean_of(chosen, metrics)}
        return found


def mean_of(row: Mapping[str, float], metrics: Sequence[str]) -> float:
    """A score: the mean of some metrics of one architecture."""
    return sum(row[name] for name in metrics) / len(metrics)


def counts(trial: Trial) -> bool:
    """Whether a trial is paid from the budget of trials: measured, and no repeat."""
    return trial.source is None and trial.status != "infeasible"


def incumbents(trials: Sequence[Trial]) -> list[Record]:
    """Each trial that was the best so far when it was measured, with trials, epochs and seconds spent by then.

    A trial of a higher fidelity comes before all of a lower one, whatever their scores."""
    found: list[Record] = []
    spent = {"trials": 0, "epochs": 0.0, "seconds": 0.0}
    best = (0.0, -math.inf)
    for trial in trials:
        spent["trials"] += counts(trial)
        for unit in ("epochs", "seconds"):
            spent[unit] += trial.cost.get(unit, 0.0)
        if trial.score is not None and (trial.fidelity, trial.score) > best:
            best = (trial.fidelity, trial.score)
            found.append(
                {**spent, "architecture": trial.architecture.to_json(), "metrics": dict(trial.metrics)}
            )
    return found


def search_folder(folder: Path, label: str, seed: int) -> Path:
    """The run folder of one search that trains."""
    return folder / "searches" / path_name(label) / f"seed{seed}"


# -- many of them -----------------------------------------------------------------------------------


def run_all(
    comparison: Comparison,
    folder: Path,
    host: Host,
    log: Log,
    notify: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """All searches that `log` has not, added to it as they end; the records of the whole comparison.

    Strategies alternate, so that an interrupted comparison has about as many searches of each.
    """
    protocol = comparison.protocol
    done = _recorded(log)
    wanted = {
        (label, seed): contender.to_json()
        for seed in range(protocol.seeds)
        for label, contender in protocol.strategies.items()
    }
    for (label, seed), contender in wanted.items():
        if (label, seed) in done and done[label, seed]["contender"] != contender:
            raise RunError(
                f"{folder} has searches of '{label}' with other options: then {done[label, seed]['contender']}, now "
                f"{contender}. Give the new one another label, or name another folder"
            )
    missing = [key for key in wanted if key not in done]
    for label, seed in missing:
        _check_begun(comparison.of(label, seed), host, search_folder(folder, label, seed), label)
    for record in _records(comparison, folder, host, missing):
        log.append(record)
        done[record["label"], record["seed"]] = record
        notify({"event": "run", "label": record["label"], "seed": record["seed"], "of": len(missing)})
    return [done[key] for key in wanted]


_RECORD: Mapping[str, Callable[[Any], bool]] = {
    "label": lambda value: isinstance(value, str),
    "contender": lambda value: isinstance(value, dict),
    "seed": lambda value: type(value) is int,
    "reason": lambda value: isinstance(value, str),
    "seconds": lambda value: type(value) in (int, float) and math.isfinite(value),
    "trials": lambda value: type(value) is int,
    "incumbents": lambda value: isinstance(value, list) and all(map(_is_incumbent, value)),
}


def _is_incumbent(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return False
    numbers = [*(value.get(axis) for axis in ("trials", "epochs", "seconds")), *value["metrics"].values()]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def _recorded(log: Log) -> dict[tuple[str, int], Record]:
    """The searches that a log has, each once; a RunError that names the line of one that cannot be meant."""
    done: dict[tuple[str, int], Record] = {}
    for index, event in enumerate(log.events):
        if event.get("event") != "run":
            if index or event.get("event") != "start":
                raise log.damage(index, "is no search")
            continue
        wrong = [name for name, good in _RECORD.items() if not good(event.get(name))]
        if wrong:
            raise log.damage(index, f"is a search whose {wrong[0]} cannot be meant")
        key = (event["label"], event["seed"])
        if key in done:
            raise log.damage(index, f"is the search of '{key[0]}' with seed {key[1]} once more")
        done[key] = event
    return done


def _check_begun(config: SearchConfig, host: Host, folder: Path, label: str) -> None:
    """A RunError, before anything runs, where a search was begun in `folder` with other options."""
    begun = told(folder, search_kind(host)) if folder.is_dir() else None
    found = differences(begun, Identity(resolve(config, host).config.identity())) if begun else []
    if found:
        raise RunError(
            f"{folder} has a search of '{label}' with other options ({'; '.join(found)}). Give the new one another "
            "label, or name another folder"
        )


def _records(
    comparison: Comparison, folder: Path, host: Host, missing: Sequence[tuple[str, int]]
) -> Iterator[Record]:
    number = min(comparison.protocol.processes or processors(), len(missing))
    if number <= 1:
        searches = Searches(comparison, folder, host)
        for label, seed in missing:
            yield searches.run(label, seed)
        return
    with (
        shared(folder) as recorded,
        closing(Processes(number, _prepare, (_job(comparison, folder, host, recorded),))) as pool,
    ):
        waiting = iter(missing)
        running = {pool.submit(*key): key for key in itertools.islice(waiting, 2 * number)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                label, seed = running.pop(future)
                try:
                    yield future.result()
                except WorkerLost as lost:
                    raise RunError(
                        f"the search of '{label}' with seed {seed} failed: {lost}. What was done is saved; the same "
                        "command goes on"
                    ) from lost
                running |= {pool.submit(*key): key for key in itertools.islice(waiting, 1)}


def _job(comparison: Comparison, folder: Path, host: Host, recorded: Recorded) -> Job[Searches]:
    configuration = json.dumps(comparison.model_dump(mode="json"))
    return Job(_searches, configuration, host.files, folder, comparison.shared.threads or 1, recorded)


def _searches(data: Any, host: Host, folder: Path, recorded: Recorded) -> Searches:
    return Searches(Comparison.model_validate(data), folder, host, recorded)


def _prepare(job: Job[Searches]) -> Callable[[Say, str, int], Record]:
    searches = job.prepare()
    return lambda say, label, seed: searches.run(label, seed)
