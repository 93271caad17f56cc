from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from archloom.architecture import Architecture, Choice
from archloom.engine import Limits, Search
from archloom.errors import ConfigError
from archloom.measuring import Here, Outcome
from archloom.objective import Objective
from archloom.plugins import Host
from archloom.run import Memory
from archloom.trial import Trial
from archloom_baselines import RandomSearch, RegularizedEvolution


class Toy:
    """`length` choices of one of `base` numbers each."""

    def __init__(self, length: int = 10, base: int = 5) -> None:
        self.choices = [Choice(f"d{i}", tuple(range(base))) for i in range(length)]

    def build(self, architecture: Architecture) -> Any:
        raise NotImplementedError


def total(architecture: Architecture) -> float:
    return float(sum(architecture.values()))


def observe(strategy: Any, number: int, architecture: Architecture, score: float | None) -> None:
    status = "ok" if score is not None else "infeasible"
    strategy.observe(Trial(number, architecture, status, {}, None if score is None else (score,)))


def by_hand(space: Toy, rng: random.Random, cycles: int, P: int, S: int) -> list[dict[str, int]]:
    """Algorithm 1 of the paper over plain dictionaries and lists; what it evaluates, in order."""
    population: list[tuple[dict[str, int], float]] = []
    history: list[dict[str, int]] = []
    while len(population) < P:
        model = {choice.name: rng.choice(choice.options) for choice in space.choices}
        history.append(model)
        population.append((model, float(sum(model.values()))))
    while len(history) < cycles:
        candidates: list[tuple[dict[str, int], float]] = []
        while len(candidates) < S:
            candidates.append(population[rng.randrange(len(population))])
        parent = candidates[0]
        for candidate in candidates[1:]:
            if candidate[1] > parent[1]:
                parent = candidate
        child = dict(parent[0])
        choice = rng.choice(space.choices)
        child[choice.name] = rng.choice([option for option in choice.options if option != child[choice.name]])
        history.append(child)
        population.append((child, float(sum(child.values()))))
        population.pop(0)
    return history


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("P", "S"), [(1, 1), (8, 3), (20, 20)])
def test_evolution_is_algorithm_1_of_the_paper(seed, P, S):
    space = Toy()
    strategy = RegularizedEvolution(space, random.Random(seed), population=P, tournament=S)
    proposed = []
    for number in range(120):
        proposed.append(strategy.propose())
        observe(strategy, number, proposed[-1], total(proposed[-1]))
    assert [one.to_json() for one in proposed] == by_hand(space, random.Random(seed), 120, P, S)


def test_the_oldest_dies_and_not_the_worst():
    strategy = RegularizedEvolution(Toy(), random.Random(0), population=3, tournament=1)
    for number, score in enumerate([9.0, 1.0, 2.0, 0.0]):
        observe(strategy, number, strategy.propose(), score)
    assert [trial.number for trial in strategy.living] == [1, 2, 3]


def test_what_is_infeasible_or_failed_dies_at_birth():
    strategy = RegularizedEvolution(Toy(), random.Random(0), population=2, tournament=1)
    for number in range(5):
        observe(strategy, number, strategy.propose(), None)
    assert not strategy.living


@pytest.mark.parametrize(("length", "base", "mutations"), [(4, 2, 2), (4, 2, 4), (10, 5, 3), (1, 3, 1)])
def test_a_child_differs_from_its_parent_in_exactly_as_many_decisions_as_asked(length, base, mutations):
    space = Toy(length, base)
    strategy = RegularizedEvolution(space, random.Random(0), population=1, tournament=1, mutations=mutations)
    parent = strategy.propose()
    observe(strategy, 0, parent, 1.0)
    children = [strategy.propose() for _ in range(200)]
    assert {sum(parent[k] != child[k] for k in parent) for child in children} == {mutations}


def test_more_mutations_than_decisions_that_can_change_are_refused():
    space = Toy(4, 2)
    space.choices[0] = Choice("d0", (7,))
    with pytest.raises(
        ConfigError, match="mutations is 4, but only 3 decisions of the space have two options"
    ):
        RegularizedEvolution(space, random.Random(0), mutations=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 4, "tournament": 5}, r"tournament must lie in 1\.\.4, not 5"),
        ({"tournament": 0}, "tournament must lie in"),
        ({"mutations": 0}, "mutations must be at least 1, not 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RegularizedEvolution(Toy(), random.Random(0), **options)


def test_random_search_draws_every_architecture_equally_often():
    space = Toy(length=2, base=3)
    strategy = RandomSearch(space, random.Random(0))
    counts: dict[Architecture, int] = {}
    for _ in range(4500):
        drawn = strategy.propose()
        counts[drawn] = counts.get(drawn, 0) + 1
    # chi-squared with 8 degrees of freedom: above 26.1 once in a thousand seeds
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 26.1
    assert len(counts) == 9


def best_of(make: Any, seed: int, trials: int = 150) -> float:
    space = Toy()
    loop = Search(
        space,
        make(space, random.Random(seed)),
        Here(lambda architecture, _: Outcome("ok", {"sum": total(architecture)}, {})),
        [Objective("sum", "max")],
        Limits(trials=trials),
        seed=seed,
        log=Memory(),
    )
    loop.run()
    return max(trial.score or 0.0 for trial in loop.trials.values())


def test_evolution_beats_random_search_where_decisions_add_up():
    seeds = range(8)
    evolved = [
        best_of(lambda space, rng: RegularizedEvolution(space, rng, population=20, tournament=5), s)
        for s in seeds
    ]
    drawn = [best_of(RandomSearch, s) for s in seeds]
    error = (statistics.variance(evolved) / len(seeds) + statistics.variance(drawn) / len(seeds)) ** 0.5
    assert statistics.fmean(evolved) - statistics.fmean(drawn) > 4 * error
    assert all(e > d for e, d in zip(evolved, drawn, strict=True))


def test_both_are_registered_with_typed_options():
    host = Host()
    assert [option.name for option in host.get("strategy", "evolution").options][:3] == [
        "population",
        "tournament",
        "mutations",
    ]
    assert not host.get("strategy", "random").shares_weights
