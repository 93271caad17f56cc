"""Strategies that every other strategy is compared with, and a space that is written in the configuration."""

from __future__ import annotations

import archloom
from archloom import Register

from .choices import Choices
from .evolution import RegularizedEvolution
from .grid import GridSearch
from .local_search import LocalSearch
from .optuna_samplers import OptunaSampler
from .random_search import RandomSearch
from .successive_halving import Hyperband, SuccessiveHalving
from .surrogate import Surrogate


@archloom.hookimpl
def register_search_spaces(register: Register) -> None:
    register("choices", Choices)


@archloom.hookimpl
def register_strategies(register: Register) -> None:
    register("random", RandomSearch, default=True)
    register("grid", GridSearch)
    register("evolution", RegularizedEvolution)
    register("local_search", LocalSearch)
    register("surrogate", Surrogate)
    register("successive_halving", SuccessiveHalving)
    register("hyperband", Hyperband)
    register("optuna", OptunaSampler)
