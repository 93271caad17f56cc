"""The whole extension surface. A plugin implements any of these with `@archloom.hookimpl`.

Each calls `register(name, factory)`. The factory's parameters that bear one of the names below are
handed in by the engine; its other parameters are keyword-only, typed, and are the user's options: the
host derives validation, help and defaults from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("archloom")


class Register(Protocol):
    """What each hook is handed: `register("digits", Digits)`.

    default: what stands where a configuration names none of the kind, so that it must need no option. One task, one
    recipe, one strategy (what others are compared with), one neck, one head and one loss may be the default; of the
    estimators and of the observers several, and of the executors, of which the first is taken that can do what is
    asked. Spaces and backbones are always named.
    """

    def __call__(self, name: str, factory: Callable[..., Any], *, default: bool = False) -> None: ...


@hookspec
def register_search_spaces(register: Register) -> None:
    """factory(*, options) -> `archloom.space.SearchSpace`"""


@hookspec
def register_strategies(register: Register) -> None:
    """factory(space, rng, *, options) -> `archloom.strategy.Strategy`, or
    factory(space, task, *, seed, ranks, options) -> `archloom.strategy.WeightSharing`"""


@hookspec
def register_estimators(register: Register) -> None:
    """factory(*, options) -> `archloom.estimator.Estimator`"""


@hookspec
def register_executors(register: Register) -> None:
    """factory(job, *, options) -> `archloom.measuring.Executor`, or
    factory(measure, *, options) -> `archloom.measuring.Executor` where it measures in this process"""


@hookspec
def register_tasks(register: Register) -> None:
    """factory(*, options) -> `archloom.task.Task`"""


@hookspec
def register_components(register: Register) -> None:
    """factory(*, options) -> nn.Module, under "backbone.NAME", "neck.NAME", "head.NAME" or "loss.NAME".
    A head's factory is also handed in_channels and num_classes, a backbone's in_channels."""


@hookspec
def register_recipes(register: Register) -> None:
    """factory(*, options) -> `archloom.training.Recipe`"""


@hookspec
def register_observers(register: Register) -> None:
    """factory(*, options) -> callable(event: dict), called for every line of the run's log"""
