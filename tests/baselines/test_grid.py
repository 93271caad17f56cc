"""Grid search: everything that a space allows, once, in order, and then an end."""

from __future__ import annotations

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.engine import Limits, Search
from archloom.measuring import Here, Outcome
from archloom.objective import Objective
from archloom.run import Memory
from archloom_baselines import GridSearch


class TestGridSearch(testing.StrategyContract):
    factory = GridSearch


class Pairs:
    """Two numbers below four that may not be equal."""

    choices = (Choice("a", (0, 1, 2, 3)), Choice("b", (0, 1, 2, 3)))

    def build(self, architecture):
        raise NotImplementedError

    def violations(self, architecture):
        return ["they are equal"] if architecture["a"] == architecture["b"] else []


def test_it_proposes_what_the_space_allows_in_order_and_then_nothing():
    strategy = GridSearch(Pairs())
    found = []
    while (architecture := strategy.propose()) is not None:
        found.append((architecture["a"], architecture["b"]))
    assert found == [(a, b) for a in range(4) for b in range(4) if a != b]
    assert strategy.propose() is None


def test_the_engine_ends_with_the_best_of_all():
    def measure(architecture: Architecture, seed: int) -> Outcome:
        return Outcome("ok", {"sum": float(architecture["a"] - architecture["b"])}, {"seconds": 0.0})

    loop = Search(
        Pairs(),
        GridSearch(Pairs()),
        Here(measure),
        (Objective("sum", "max"),),
        Limits(),
        seed=0,
        log=Memory(),
    )
    assert loop.run() == "the strategy has nothing more to propose"
    assert len(loop.trials) == 12
    best = max(loop.trials.values(), key=lambda trial: trial.scores)
    assert dict(best.architecture) == {"a": 3, "b": 0}
