from __future__ import annotations

import random
from typing import Any

import pytest

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.space import neighbours
from archloom.trial import Trial
from archloom_baselines import LocalSearch


class Toy:
    def __init__(self, length: int = 4, base: int = 3) -> None:
        self.choices = [Choice(f"d{i}", tuple(range(base))) for i in range(length)]

    def build(self, architecture: Architecture) -> Any:
        raise NotImplementedError


class TestLocalSearch(testing.StrategyContract):
    factory, options = LocalSearch, {}


class TestPatientLocalSearch(testing.StrategyContract):
    factory, options = LocalSearch, {"patient": True}


def told(strategy: LocalSearch, number: int, score: Any) -> Architecture:
    architecture = strategy.propose()
    assert architecture is not None
    value = score(architecture)
    scores = None if value is None else (float(value),)
    strategy.observe(Trial(number, architecture, "ok" if scores else "infeasible", {}, scores))
    return architecture


def distance(one: Architecture, other: Architecture) -> int:
    return sum(one[name] != other[name] for name in one)


def rugged(architecture: Architecture) -> float:
    """Many optima: a number that the architecture alone decides."""
    return random.Random(str(architecture)).random()


def test_neighbours_are_all_that_differ_in_one_decision():
    space = Toy()
    here = Architecture({choice.name: 1 for choice in space.choices})
    found = neighbours(space, here)
    assert len(set(found)) == len(found) == 4 * 2
    assert all(distance(here, one) == 1 for one in found)


@pytest.mark.parametrize("seed", range(5))
def test_the_hasty_climber_moves_at_the_first_better_neighbour(seed):
    strategy = LocalSearch(Toy(), random.Random(seed))
    here = told(strategy, 0, rugged)
    starts, left = 0, 8
    for number in range(1, 200):
        asked = told(strategy, number, rugged)
        if left == 0:  # all neighbours are known, and none was better: a new start
            here, left, starts = asked, 8, starts + 1
            continue
        assert distance(here, asked) == 1
        left -= 1
        if rugged(asked) > rugged(here):
            here, left = asked, 8
    assert starts > 2


@pytest.mark.parametrize("seed", range(5))
def test_the_patient_climber_moves_to_the_best_neighbour(seed):
    strategy = LocalSearch(Toy(), random.Random(seed), patient=True)
    here = told(strategy, 0, rugged)
    for step in range(20):
        around = [told(strategy, 8 * step + n, rugged) for n in range(8)]
        assert sorted(map(str, around)) == sorted(map(str, neighbours(Toy(), here)))
        best = max(around, key=rugged)
        here = best if rugged(best) > rugged(here) else told(strategy, 999, rugged)


def test_it_reaches_the_optimum_where_decisions_add_up():
    strategy = LocalSearch(Toy(length=8, base=4), random.Random(0))
    scores = [sum(told(strategy, n, lambda a: sum(a.values())).values()) for n in range(250)]
    assert max(scores) == 8 * 3


def test_a_start_that_is_infeasible_is_left_for_another():
    strategy = LocalSearch(Toy(length=12), random.Random(0))
    first, second = (told(strategy, n, lambda _: None) for n in range(2))
    assert distance(first, second) > 1


@pytest.mark.parametrize("patient", [False, True])
def test_it_waits_for_open_trials_before_it_starts_anew(patient):
    strategy = LocalSearch(Toy(), random.Random(0), patient=patient)
    start = strategy.propose()
    assert strategy.propose() is None
    strategy.observe(Trial(0, start, "ok", {}, (1.0,)))
    asked = [strategy.propose() for _ in range(8)]
    assert strategy.propose() is None
    for number, one in enumerate(asked):
        strategy.observe(Trial(number + 1, one, "ok", {}, (0.0,)))
        assert (strategy.propose() is None) == (number < 7)
