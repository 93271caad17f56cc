"""Strategies that every other strategy is compared with."""

from __future__ import annotations

import archloom

from .evolution import RegularizedEvolution
from .grid import GridSearch
from .local_search import LocalSearch
from .random_search import RandomSearch
from .surrogate import Surrogate


@archloom.hookimpl
def register_strategies(register):
    register("random", RandomSearch)
    register("grid", GridSearch)
    register("evolution", RegularizedEvolution)
    register("local_search", LocalSearch)
    register("surrogate", Surrogate)
