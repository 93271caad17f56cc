import math
import random

from archloom_annealing import Annealing

from archloom import Trial
from archloom.testing import StrategyContract, TinySpace


class TestAnnealingKeepsTheContract(StrategyContract):
    factory = Annealing


class TestHotAnnealingKeepsTheContract(StrategyContract):
    factory, options = Annealing, {"temperature": 10.0, "cooling": 1.0}


def walk(score, **options):
    """An annealing that stands on its first proposal, a neighbour of it, and whether it went there."""
    annealing = Annealing(TinySpace(), random.Random(0), **options)
    first, second = (annealing.propose() for _ in range(2))
    annealing.observe(Trial(0, first, "ok", scores=(10.0,)))
    annealing.observe(Trial(1, second, "ok", scores=(score,)))
    return annealing.here.number == 1


def test_a_better_neighbour_is_always_accepted():
    assert walk(10.5, temperature=1e-9)


def test_a_worse_neighbour_is_refused_when_it_is_cold():
    assert not walk(9.0, temperature=1e-9)


def test_worse_neighbours_are_accepted_as_often_as_the_formula_says():
    annealing = Annealing(TinySpace(), random.Random(0), temperature=0.1, cooling=1.0)
    start, worse = (Trial(n, annealing.propose(), "ok", scores=(s,)) for n, s in enumerate((10.0, 9.5)))
    accepted = 0
    for _ in range(4000):
        annealing.here = start
        annealing.observe(worse)
        accepted += annealing.here is worse
    # a loss of 5 % at T = 0.1; three standard deviations of 4000 draws are 0.023
    assert math.isclose(accepted / 4000, math.exp(-0.5), abs_tol=0.023)
