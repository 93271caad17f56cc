from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.errors import ConfigError
from archloom.strategy import Proposal
from archloom.trial import Trial
from archloom_baselines import Hyperband, SuccessiveHalving


class Toy:
    def __init__(self, length: int = 6, base: int = 4) -> None:
        self.choices = [Choice(f"d{i}", tuple(range(base))) for i in range(length)]

    def build(self, architecture: Architecture) -> Any:
        raise NotImplementedError


class TestSuccessiveHalving(testing.StrategyContract):
    factory, options = SuccessiveHalving, {"width": 9, "rungs": 3}


class TestHyperband(testing.StrategyContract):
    factory, options = Hyperband, {}


def quality(architecture: Architecture) -> float:
    return float(sum((n + 1) * d for n, d in enumerate(architecture.values())))


def told(strategy: Any, trials: int, score: Any = quality) -> list[Proposal]:
    proposals = []
    for number in range(trials):
        proposals.append(strategy.propose())
        value = score(proposals[-1].architecture)
        scores = None if value is None else (value,)
        status = "ok" if scores else "infeasible"
        strategy.observe(
            Trial(number, proposals[-1].architecture, status, scores=scores, fidelity=proposals[-1].fidelity)
        )
    return proposals


def test_each_rung_keeps_the_best_third_and_trains_it_three_times_as_long():
    proposals = told(SuccessiveHalving(Toy(), random.Random(0), width=27, eta=3, rungs=4), 40)
    rungs = [proposals[:27], proposals[27:36], proposals[36:39], proposals[39:]]
    assert [{one.fidelity for one in rung} for rung in rungs] == [{1 / 27}, {1 / 9}, {1 / 3}, {1.0}]
    for before, after in itertools.pairwise(rungs):
        best = sorted((quality(one.architecture) for one in before), reverse=True)[: len(after)]
        assert [quality(one.architecture) for one in after] == best
    assert len({one.architecture for one in rungs[0]}) == 27


def test_a_complete_bracket_is_followed_by_a_new_one():
    proposals = told(SuccessiveHalving(Toy(), random.Random(0), width=4, eta=2, rungs=3), 21)
    assert [one.fidelity for one in proposals] == ([0.25] * 4 + [0.5] * 2 + [1.0]) * 3


def test_hyperband_s_brackets_are_those_of_its_paper():
    """Table 1 of Li et al., R = 81 and eta = 3: n_i and r_i of the brackets s = 4 to 0."""
    table = [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    total = sum(n for bracket in table for n, _ in bracket)
    proposals = told(Hyperband(Toy(), random.Random(0), rungs=5), total)
    for bracket in table:
        for n, r in bracket:
            rung, proposals = proposals[:n], proposals[n:]
            assert {round(81 * one.fidelity, 6) for one in rung} == {r}


def test_what_is_infeasible_at_the_first_rung_is_replaced():
    scored = lambda architecture: quality(architecture) if architecture["d0"] else None
    proposals = told(SuccessiveHalving(Toy(), random.Random(1), width=9, eta=3, rungs=2), 30, scored)
    first = next(n for n, one in enumerate(proposals) if one.fidelity == 1.0)
    feasible = [one for one in proposals[:first] if one.architecture["d0"]]
    assert len(feasible) == 9 < first
    assert [one.fidelity for one in proposals[first : first + 3]] == [1.0] * 3


def test_it_waits_for_the_whole_rung_before_it_promotes():
    strategy = SuccessiveHalving(Toy(), random.Random(0), width=4, eta=2, rungs=2)
    asked = [strategy.propose() for _ in range(4)]
    assert strategy.propose() is None
    for number, one in enumerate(asked):
        assert strategy.propose() is None
        strategy.observe(Trial(number, one.architecture, "ok", scores=(float(number),), fidelity=0.5))
    promoted = [strategy.propose() for _ in range(2)]
    assert [one.architecture for one in promoted] == [asked[3].architecture, asked[2].architecture]
    assert strategy.propose() is None


def test_a_space_smaller_than_a_bracket_is_searched_whole():
    proposals = told(SuccessiveHalving(Toy(length=1, base=3), random.Random(0), width=9, eta=3, rungs=2), 4)
    assert Counter(one.fidelity for one in proposals) == {1 / 3: 3, 1.0: 1}
    assert quality(proposals[-1].architecture) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_rung_holds_different_networks_where_infeasible_ones_leave_the_first_one_short(seed):
    """12 networks, of which 3 are infeasible: nine are judged, and the best six of the nine go on."""
    scored = lambda architecture: quality(architecture) if architecture["d1"] != 3 else None
    space = Toy(length=2)
    space.choices[0] = Choice("d0", (0, 1, 2))
    strategy = SuccessiveHalving(space, random.Random(seed), width=12, eta=2, rungs=3)
    proposals = told(strategy, 12 + 6 + 3, scored)
    rungs = [proposals[:12], proposals[12:18], proposals[18:]]
    assert [{one.fidelity for one in rung} for rung in rungs] == [{0.25}, {0.5}, {1.0}]
    assert [len({one.architecture for one in rung}) for rung in rungs] == [12, 6, 3]
    best = sorted(
        (quality(one.architecture) for one in rungs[0] if one.architecture["d1"] != 3), reverse=True
    )
    assert sorted((quality(one.architecture) for one in rungs[1]), reverse=True) == best[:6]


@pytest.mark.parametrize("strategy", [SuccessiveHalving, Hyperband])
def test_a_space_without_a_feasible_network_is_left_and_tried_anew(strategy):
    asked = told(strategy(Toy(length=2, base=3), random.Random(0)), 40, lambda architecture: None)
    assert {len({one.architecture for one in asked[:9]}), len({one.architecture for one in asked})} == {9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1}, "eta must be at least 2, not 1"),
        ({"rungs": 1}, "rungs must be at least 2, not 1"),
        ({"width": 8, "rungs": 3}, "width must be at least 9, not 8"),
    ],
)
def test_options_that_leave_nobody_at_the_end_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"successive_halving: {message}"):
        SuccessiveHalving(Toy(), random.Random(0), **options)
