"""The estimates of a ranking: made where its executor makes them, each with what it took."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..architecture import Architecture
from ..errors import ConfigError
from ..estimator import FULL, Context, Estimator, Fidelity
from ..job import Job, opened
from ..measuring import Asking, Executor, Here, Outcome, Watch, unwatched
from ..plugins import Host
from ..strategy import Recorded
from .config import parse_rank
from .plan import Plan, Predictor, make_plan


@dataclass(frozen=True)
class Estimating:
    """Estimates with one estimator. What it raises on one network is an outcome; a ConfigError is raised."""

    name: str
    estimator: Estimator
    context: Context
    watch: Watch = unwatched

    def __call__(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Outcome:
        started = time.perf_counter()
        cost = lambda: {"seconds": time.perf_counter() - started, "epochs": 0.0}
        context = replace(self.context, seed=seed, fidelity=fidelity)
        try:
            self.watch(self.name, None)
            measured = self.estimator.estimate(architecture, context)
            values = {m.name: float(measured[m.name]) for m in self.estimator.metrics}
        except ConfigError:
            raise
        except Exception as error:
            return Outcome("failed", {}, cost(), f"{type(error).__name__}: {error}")
        return Outcome("ok", {n: value for n, value in values.items() if math.isfinite(value)}, cost())


def estimates(
    plan: Plan, predictor: Predictor, context: Context, networks: Sequence[Architecture], folder: Path
) -> Generator[Outcome]:
    """An outcome for each of the networks, in their order, as soon as it is there."""
    if not networks:
        return
    with _executor_of(plan, predictor, context, folder) as executor:
        asking = Asking(executor)
        open_ones: deque[Future[Outcome]] = deque()
        for architecture in networks:
            open_ones.append(asking.submit(architecture, context.seed, FULL))
            if len(open_ones) >= executor.workers:
                yield asking.outcome(open_ones.popleft())
        while open_ones:
            yield asking.outcome(open_ones.popleft())


@contextmanager
def _executor_of(plan: Plan, predictor: Predictor, context: Context, folder: Path) -> Iterator[Executor]:
    """The configured executor; this process for the truth and for the weights of a supernet, which are here."""
    measure = Estimating(predictor.key, predictor.estimator, context)
    if predictor.supernet is not None or predictor.estimator is plan.truth:
        yield Here(measure)
        return
    config = plan.config
    threads = config.threads or max(1, torch.get_num_threads() // config.at_once)
    data = {"config": config.model_dump(mode="json"), "predictor": predictor.key}
    job = lambda recorded: Job(_estimating, json.dumps(data), plan.host.files, folder, threads, recorded)
    with opened(plan.executor, measure, folder, job) as executor:
        yield executor


def _estimating(data: Any, host: Host, folder: Path, recorded: Recorded) -> Estimating:
    plan = make_plan(parse_rank(data["config"]), host)
    predictor = next(one for one in plan.predictors if one.key == data["predictor"])
    context = replace(plan.context, recorded=recorded).measuring()
    return Estimating(predictor.key, predictor.estimator, context)
