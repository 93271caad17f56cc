"""Strategies that every other strategy is compared with: random search and regularized evolution."""

from __future__ import annotations

import archloom

from .evolution import RegularizedEvolution
from .random_search import RandomSearch


@archloom.hookimpl
def register_strategies(register):
    register("random", RandomSearch)
    register("evolution", RegularizedEvolution)
