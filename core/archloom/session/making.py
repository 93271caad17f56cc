"""What a search runs with, made from its resolved configuration: who is told, who measures, the loop."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..engine import Limits, Search
from ..errors import PluginError
from ..estimator import Context
from ..job import measuring, opened
from ..measuring import Executor
from ..observing import Observers, name_of
from ..resolve import Resolved
from ..run import EventLog
from ..strategy import Strategy

logger = logging.getLogger("archloom")

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
    """Who measures inside the block, for the run in `folder`: the configured executor."""
    threads = r.config.threads or max(1, torch.get_num_threads() // r.config.at_once)
    job = lambda recorded: measuring(r, folder, recorded, threads)
    try:
        with opened(r.executor, r.measurer(context), folder, job) as executor:
            if executor.workers > r.config.open_trials:
                logger.warning(
                    "executor '%s' can make %d measurements at once, and at most %d trials are open: a larger "
                    "'window' would use it, in another search",
                    *(r.executor.entry.name, executor.workers, r.config.open_trials),
                )
            yield executor
    except PluginError as error:
        raise PluginError(
            f"{error}. What was done is kept; go on with: archloom resume {shlex.quote(str(folder))}, or, with another "
            "executor, add --set executor=NAME"
        ) from error


def make_loop(
    r: Resolved,
    strategy: Strategy,
    executor: Executor,
    log: EventLog,
    notify: Notify = lambda event: None,
    *,
    seed: int | None = None,
    epochs: float = 0.0,
) -> Search:
    """The engine's loop under the configured budget, of which the supernet's training took `epochs`; `seed` where it is
    another one than the configuration's."""
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
        seed=config.seed if seed is None else seed,
        log=log,
        order=config.order,
        window=config.open_trials,
        notify=notify,
        constraints=r.constraints,
        spent_seconds=max((event["active"] for event in log.events if "active" in event), default=0.0),
        spent_epochs=epochs,
        equal_once=config.canonical,
        strict=config.strict,
    )
