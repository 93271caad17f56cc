"""What a search runs with, made from its resolved configuration: who is told, who measures, the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..engine import Search
from ..estimator import Context
from ..measuring import Executor, Here
from ..observing import Observers, name_of
from ..resolve import Resolved
from ..run import Run
from ..strategy import Strategy
from ..workers import Workers

Notify = Callable[[dict[str, Any]], None]
"""Is told of each event of a run."""


def make_observers(r: Resolved, folder: Path, notify: Notify) -> Observers:
    """The configured observers of a run in `folder`, and `notify`."""
    made = []
    for part in r.config.observers:
        entry = r.host.get("observer", part.type)
        made.append((f"observer '{part.type}'", entry.make(entry.validate(part.options), folder=folder)))
    return Observers([*made, (name_of(notify), notify)])


@contextmanager
def executor_of(r: Resolved, context: Context, folder: Path) -> Iterator[Executor]:
    """Who measures inside the block: this process, or others, where there are several or an estimate may be ended."""
    if not r.config.in_processes:
        yield Here(r.measurer(context))
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
    return Search(
        r.space,
        strategy,
        executor,
        r.objectives,
        r.limits,
        seed=config.seed,
        log=run.log,
        order=config.order,
        window=config.open_trials,
        notify=notify,
        constraints=r.constraints,
        spent_seconds=max((event["active"] for event in run.log.events if "active" in event), default=0.0),
        spent_epochs=epochs,
        equal_once=config.canonical,
    )
