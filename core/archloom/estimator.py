"""Estimators: who measures. They know no strategy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch

from .architecture import Architecture
from .errors import ConfigError
from .metrics import Metric as Metric
from .model import Model, ModelParts, assemble
from .space import SearchSpace, input_shape
from .strategy import Recorded
from .task import Task

STATIC, INHERITED, TRAINING = 0, 1, 2
"""How dear an estimator is: counted, measured with inherited weights, trained. Cheap ones run first."""


@dataclass(frozen=True)
class Fidelity:
    """How much of the full measurement is made: `upto` in (0, 1]; `since`, how much of it was made before."""

    upto: float = 1.0
    since: float = 0.0


FULL = Fidelity()


@dataclass(frozen=True)
class Context:
    """What an estimate may use. `seed` is the trial's own; `supernet` is there for weight sharing only.

    `fidelity` matters to estimators with `epochs_at` alone. `folder` is the run's folder, None where there is none.
    `task` is None in a run without one (`task: null`), where no network can be assembled.
    """

    space: SearchSpace
    task: Task
    model: ModelParts
    seed: int
    device: torch.device
    precision: str
    recorded: Recorded
    supernet: Model | None = None
    fidelity: Fidelity = FULL
    folder: Path | None = None

    def kept(self, architecture: Architecture) -> Path | None:
        """A folder of this architecture's own, where an estimate at a low fidelity leaves what one at a higher
        fidelity goes on from; None where the run keeps nothing. An estimate must come out the same, to the bit on a
        CPU, whether it finds something there or not."""
        if self.folder is None:
            return None
        text = json.dumps([architecture.to_json(), self.seed], sort_keys=True)
        return self.folder / "continued" / hashlib.sha256(text.encode()).hexdigest()[:16]

    def assemble(self, architecture: Architecture) -> Model:
        """The whole model of `architecture` for the task; weights drawn from the trial's seed."""
        self._check_task("a network")
        model = assemble(self.space, architecture, self.task, self.model, seed=self.seed)
        return model.to(self.device)

    def outline(self, architecture: Architecture) -> Model:
        """The same on the meta device: shapes without numbers, for counting; built in a moment."""
        self._check_task("a network")
        with torch.device("meta"):
            return assemble(self.space, architecture, self.task, self.model, seed=self.seed)

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        """The shape, (C, H, W) for images, of the inputs that `architecture` is given."""
        self._check_task("the shape of an input")
        return input_shape(self.space, architecture, self.task)

    def _check_task(self, what: str) -> None:
        if cast("Task | None", self.task) is None:
            raise ConfigError(f"{what} is asked for in a run without a task (task: null); name a task")


@runtime_checkable
class Estimator(Protocol):
    """Measures an architecture.

    metrics: what `estimate` returns, all of it each time. expense: `STATIC`, `INHERITED` or `TRAINING`.
    needs: "supernet" where inherited weights are used, "task" where networks are built or measured for the task (a run
    without a task then refuses it before anything runs), else empty. An estimate that cannot be made is
    raised as an exception; it is recorded and the search goes on. One that trains says how many `epochs` an
    estimate takes, for the budget. One that can measure at a lower fidelity has `epochs_at(fidelity)` as well: how
    many epochs that is, 0 at 0 and `epochs` at 1; it goes by the context's `fidelity`. One that holds for some spaces
    or images alone has `check(space, task, model)`, which raises a ConfigError before anything runs.
    """

    metrics: tuple[Metric, ...]
    expense: int
    needs: tuple[str, ...]

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]: ...
