"""What a search runs with, made from its resolved configuration: who trains, who proposes, who measures, the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..engine import Limits, Search
from ..errors import ConfigError
from ..estimator import Context
from ..measuring import Executor, Here
from ..model import Model
from ..observing import Observers, name_of
from ..randomness import python_rng
from ..ranks import Ranks
from ..resolve import Resolved
from ..run import Run
from ..strategy import Recorded, Strategy, WeightSharing
from ..workers import Workers, measurer

Notify = Callable[[dict[str, Any]], None]
"""Is told of each event of a run."""


def make_observers(r: Resolved, folder: Path, notify: Notify) -> Observers:
    """The configured observers of a run in `folder`, and `notify`."""
    made = []
    for part in r.config.observers:
        entry = r.host.get("observer", part.type)
        made.append((f"observer '{part.type}'", entry.make(entry.validate(part.options), folder=folder)))
    return Observers([*made, (name_of(notify), notify)])


def make_method(r: Resolved, ranks: Ranks, recorded: Recorded) -> WeightSharing | None:
    """Who trains a supernet; None where nobody does, a ConfigError where it cannot."""
    if r.method is None:
        return None
    method = r.method(
        space=r.space,
        task=r.task,
        seed=r.config.seed,
        ranks=ranks,
        rng=python_rng(r.config.seed, "method"),
        model=r.parts,
        device=r.device,
        precision=r.config.precision,
        recorded=recorded,
        objectives=tuple(r.objectives),
        metrics=tuple(r.metrics),
    )
    if not isinstance(method, WeightSharing):
        raise ConfigError(
            f"method '{r.method.entry.name}' takes a task but lacks one of: supernet, fit, state_dict, "
            "load_state_dict"
        )
    return method


def make_strategy(r: Resolved, method: Any, *, seed: int, ranks: Ranks, recorded: Recorded) -> Strategy:
    """Who proposes: the configured strategy, or the `method` itself; a ConfigError where it does not."""
    strategy: Any = method
    if r.strategy is not None:
        strategy = r.strategy(
            space=r.space,
            rng=python_rng(seed, "strategy"),
            seed=seed,
            ranks=ranks,
            model=r.parts,
            device=r.device,
            precision=r.config.precision,
            recorded=recorded,
            objectives=tuple(r.objectives),
            metrics=tuple(r.metrics),
        )
    if isinstance(strategy, Strategy):
        return strategy
    if r.strategy is None:
        raise ConfigError(f"method {type(strategy).__name__} only trains; name a 'strategy' that proposes")
    raise ConfigError(f"strategy {type(strategy).__name__} lacks propose or observe")


def make_context(
    r: Resolved, recorded: Recorded, *, supernet: Model | None = None, folder: Path | None = None
) -> Context:
    """What the estimators of a run may use."""
    seed, precision = r.config.seed, r.config.precision
    return Context(r.space, r.task, r.parts, seed, r.device, precision, recorded, supernet, folder=folder)


@contextmanager
def executor_of(r: Resolved, context: Context, folder: Path) -> Iterator[Executor]:
    """Who measures inside the block: this process, or others, where there are several or an estimate may be ended."""
    if not r.config.in_processes:
        yield Here(measurer(r, context))
        return
    threads = r.config.threads or max(1, torch.get_num_threads() // r.config.workers)  # as the run began with
    workers = Workers(r.config.model_copy(update={"threads": threads}), r.host.files, folder)
    try:
        yield workers
    finally:
        workers.close()


def make_loop(
    r: Resolved, strategy: Strategy, executor: Executor, run: Run, notify: Notify, *, epochs: float
) -> Search:
    """The engine's loop under the configured budget, of which the supernet's training took `epochs`."""
    config = r.config
    limits = Limits(
        **config.budget.model_dump(),
        max_failures=config.max_failures,
        max_rejected=config.max_rejected,
        max_repeats=config.max_repeats,
    )
    return Search(
        r.space,
        strategy,
        executor,
        r.objectives,
        limits,
        seed=config.seed,
        log=run.log,
        order=config.order,
        window=config.open_trials,
        notify=notify,
        constraints=r.constraints,
        spent_seconds=max((event["active"] for event in run.log.events if "active" in event), default=0.0),
        spent_epochs=epochs,
    )
