"""The contracts as test cases, for plugins to be tested with.

    from archloom.testing import StrategyContract

    class TestAnnealing(StrategyContract):
        factory, options = Annealing, {"cooling": 0.9}

pytest collects the subclass and runs each check of the contract on what the factory makes, through the
same door as the engine: options are validated, and what the factory asks for is handed in. A check that
fails says what the engine relies on. There is one contract for each protocol:

    StrategyContract        a strategy that proposes and observes
    WeightSharingContract   a method that trains a supernet
    SpaceContract           a search space; SharedSpaceContract where it shares weights
    EstimatorContract       an estimator
    ExecutorContract        an executor
    TaskContract            a task
    BackboneContract, NeckContract, HeadContract, LossContract
                            a component of a model
    RecipeContract          a recipe
    ObserverContract        an observer

Everything runs on the CPU, on spaces and images that are tiny unless a subclass gives others.
"""

from __future__ import annotations

from .checks import global_generators_untouched, same, snapshot
from .components import BackboneContract, HeadContract, LossContract, NeckContract
from .estimators import EstimatorContract
from .executors import ExecutorContract
from .observers import ObserverContract
from .recipes import RecipeContract
from .shared_spaces import SharedSpaceContract
from .spaces import SpaceContract
from .strategies import StrategyContract
from .tasks import TaskContract
from .tiny import TinySpace, run_context, tiny_supernet, tiny_task
from .weight_sharing import WeightSharingContract

__all__ = [
    "BackboneContract",
    "EstimatorContract",
    "ExecutorContract",
    "HeadContract",
    "LossContract",
    "NeckContract",
    "ObserverContract",
    "RecipeContract",
    "SharedSpaceContract",
    "SpaceContract",
    "StrategyContract",
    "TaskContract",
    "TinySpace",
    "WeightSharingContract",
    "global_generators_untouched",
    "run_context",
    "same",
    "snapshot",
    "tiny_supernet",
    "tiny_task",
]
