"""Estimators: who measures. They know no strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from .architecture import Architecture
from .model import Model, ModelParts, assemble
from .space import SearchSpace, input_shape
from .strategy import Recorded
from .task import Task

STATIC, INHERITED, TRAINING = 0, 1, 2
"""How dear an estimator is: counted, measured with inherited weights, trained. Cheap ones run first."""


@dataclass(frozen=True)
class Metric:
    """A measured quantity: `accuracy.trained` in "%", higher is better.

    A name carries its fidelity after the dot where there are several; metrics of different fidelity are
    different metrics and never compared.
    """

    name: str
    unit: str
    direction: Literal["max", "min"]


@dataclass(frozen=True)
class Context:
    """What an estimate may use. `seed` is the trial's own; `supernet` is there for weight sharing only."""

    space: SearchSpace
    task: Task
    model: ModelParts
    seed: int
    device: torch.device
    precision: str
    recorded: Recorded
    supernet: Model | None = None

    def assemble(self, architecture: Architecture) -> Model:
        """The whole model of `architecture` for the task; weights drawn from the trial's seed."""
        model = assemble(self.space, architecture, self.task, self.model, seed=self.seed)
        return model.to(self.device)

    def outline(self, architecture: Architecture) -> Model:
        """The same on the meta device: shapes without numbers, for counting; built in a moment."""
        with torch.device("meta"):
            return assemble(self.space, architecture, self.task, self.model, seed=self.seed)

    def shape(self, architecture: Architecture) -> tuple[int, int, int]:
        """(C, H, W) of the images that `architecture` is given."""
        return input_shape(self.space, architecture, self.task)


@runtime_checkable
class Estimator(Protocol):
    """Measures an architecture.

    metrics: what `estimate` returns, all of it each time. expense: `STATIC`, `INHERITED` or `TRAINING`.
    needs: "supernet" where inherited weights are used, else empty. An estimate that cannot be made is
    raised as an exception; it is recorded and the search goes on. One that trains says how many `epochs` an
    estimate takes, for the budget.
    """

    metrics: tuple[Metric, ...]
    expense: int
    needs: tuple[str, ...]

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]: ...
