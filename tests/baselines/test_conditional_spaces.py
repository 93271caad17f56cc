"""Each strategy on a space with ordered and conditional choices, asked and told by the engine itself."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from archloom.architecture import Architecture, Choice
from archloom.engine import Limits
from archloom.measuring import Outcome
from archloom.objective import Objective
from archloom.run import Memory
from archloom.space import Encoding, check, everything, neighbours, sample, size
from archloom_baselines import (
    GridSearch,
    Hyperband,
    LocalSearch,
    OptunaSampler,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
    Surrogate,
)
from toys import search

SUM = (Objective("sum", "max"),)


def elastic():
    """27 + 81 + 243 architectures: blocks at depths 1 to 3, the first always there."""
    depth = Choice("depth", (1, 2, 3), ordered=True)
    stem = Choice("stem", ("a", "b", "c"))
    width = Choice("width", (16, 24, 32), ordered=True)
    blocks = [
        Choice(f"block{n}", ("x", "y", "z"), when={"depth": tuple(range(n + 1, 4))} if n else None)
        for n in range(3)
    ]
    return SimpleNamespace(choices=[depth, stem, width, *blocks])


def worth(architecture):
    """More blocks are better, and so is z: the best is 3, c, 32, z z z."""
    return float(
        sum(
            "abcxyz".index(one) % 3 + 1 if isinstance(one, str) else one / 16 for one in architecture.values()
        )
    )


def measured(architecture, seed, *fidelity):
    return Outcome("ok", {"sum": worth(architecture)}, {"seconds": 0.0, "epochs": 1.0})


STRATEGIES = {
    "random": lambda space, rng: RandomSearch(space, rng),
    "grid": lambda space, rng: GridSearch(space),
    "evolution": lambda space, rng: RegularizedEvolution(space, rng, population=8, tournament=3, mutations=2),
    "local search": LocalSearch,
    "patient": lambda space, rng: LocalSearch(space, rng, patient=True),
    "surrogate": Surrogate,
    "surrogate, costs": lambda space, rng: Surrogate(space, rng, costs=["sum"], pool=100),
    "halving": lambda space, rng: SuccessiveHalving(space, rng, width=9, rungs=3),
    "hyperband": Hyperband,
    "tpe": lambda space, rng: OptunaSampler(space, 0, SUM),
    "nsga2": lambda space, rng: OptunaSampler(space, 0, SUM, sampler="nsga2", options={"population_size": 8}),
    "cmaes": lambda space, rng: OptunaSampler(space, 0, SUM, sampler="cmaes"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_proposes_architectures_of_the_space_and_resumes_to_the_same_ones(name):
    """The engine refuses proposals that decide what is not active."""
    if name in ("tpe", "nsga2", "cmaes"):
        pytest.importorskip("optuna")
    make, space = STRATEGIES[name], elastic()
    log = Memory()
    whole, _ = search(
        make(space, random.Random(1)), space=space, measure=measured, log=log, limits=Limits(trials=60)
    )
    asked = [trial.architecture for trial in whole.trials.values()]
    assert all(check(space, one) == one for one in asked)
    if name != "grid":  # which has not come further than the first depth
        assert len({one["depth"] for one in asked}) > 1
    half = Memory(log.events[: len(log.events) // 2])
    again, _ = search(
        make(space, random.Random(1)), space=space, measure=measured, log=half, limits=Limits(trials=60)
    )
    assert [trial.architecture for trial in again.trials.values()] == asked


def test_grid_search_proposes_all_of_them_and_the_engine_knows_that_there_are_no_more():
    space = elastic()
    loop, reason = search(GridSearch(space), space=space, measure=measured)
    assert len({trial.architecture for trial in loop.trials.values()}) == 351 == size(space)
    assert reason == "all 351 architectures of the space were proposed"


@pytest.mark.parametrize("name", ["local search", "surrogate", "surrogate, costs", "evolution"])
def test_it_reaches_the_best_through_depths_that_open_one_after_the_other(name):
    space = elastic()
    loop, _ = search(
        STRATEGIES[name](space, random.Random(0)), space=space, measure=measured, limits=Limits(trials=200)
    )
    best = max(loop.trials.values(), key=lambda trial: trial.score).architecture
    assert best == Architecture(
        {"depth": 3, "stem": "c", "width": 32, "block0": "z", "block1": "z", "block2": "z"}
    )


def test_costs_that_are_sums_over_the_active_decisions_are_learnt_exactly():
    """An ordered width may cost what it likes: its options are told apart, and not put on one line."""
    space = elastic()
    price = {
        1: 3.0,
        2: 5.0,
        3: 6.0,
        16: 1.0,
        24: 9.0,
        32: 2.0,
        "a": 1,
        "b": 2,
        "c": 7,
        "x": 4,
        "y": 1,
        "z": 2,
    }
    cost = lambda one: float(sum(price[option] for option in one.values()))
    strategy = Surrogate(space, random.Random(0), initial=60, costs=["cost"])
    search(
        strategy,
        space=space,
        measure=lambda one, seed: Outcome("ok", {"sum": worth(one), "cost": cost(one)}, {}),
        limits=Limits(trials=60),
    )
    others = list(everything(space))
    learnt = strategy._log_cost("cost", Encoding(space.choices, numbers=False).of(others))
    true = np.log([cost(one) for one in others])
    np.testing.assert_allclose(learnt - learnt[0], true - true[0], atol=1e-9)


def test_a_patient_climber_asks_for_every_neighbour_and_draws_what_a_step_opens():
    space, here = elastic(), None
    strategy = LocalSearch(space, random.Random(3), patient=True)
    loop, _ = search(strategy, space=space, measure=measured, limits=Limits(trials=1))
    here = loop.trials[0].architecture
    known = [{n: one[n] for n in one if n in here} for one in neighbours(space, here)]
    around = [{n: one[n] for n in one if n in here} for one in strategy.unasked]
    key = lambda one: str(sorted(one.items()))
    assert sorted(around, key=key) == sorted(known, key=key)


def test_an_ordered_choice_is_given_to_optuna_as_a_number_and_another_as_categories():
    optuna = pytest.importorskip("optuna")
    space = elastic()
    strategy = OptunaSampler(space, 0, SUM)
    search(strategy, space=space, measure=measured, limits=Limits(trials=10))
    kinds = {name: type(d) for trial in strategy.study.trials for name, d in trial.distributions.items()}
    integer, category = optuna.distributions.IntDistribution, optuna.distributions.CategoricalDistribution
    assert kinds == {"depth": integer, "width": integer} | dict.fromkeys(
        ["stem", "block0", "block1", "block2"], category
    )
    shallow = [trial for trial in strategy.study.trials if trial.params["depth"] == 0]
    assert shallow
    assert all("block1" not in trial.params for trial in shallow)


def test_halving_draws_every_network_of_a_small_space_before_it_ends():
    choices = [Choice("a", (0, 1)), Choice("b", (0, 1), when={"a": (1,)})]
    space = SimpleNamespace(choices=choices)
    strategy = SuccessiveHalving(space, random.Random(0), width=9, rungs=2, eta=2)
    asked = set()
    for _ in range(3):
        asked.add(strategy.propose().architecture)
    assert asked == set(everything(space))
    assert sample(space, random.Random(0)) in asked
