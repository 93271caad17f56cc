"""The baselines on NAS-Bench-Macro: the search is real, only the training is looked up."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from archloom.engine import Limits, Search
from archloom.measuring import Here, Outcome
from archloom.objective import Objective
from archloom.randomness import python_rng
from archloom.run import Memory
from archloom_baselines import LocalSearch, RandomSearch, RegularizedEvolution, Surrogate
from archloom_tabular import MacroSpace, MacroTable

SEEN, TRUE, TRIALS, SEEDS = "accuracy.table.seed1", "accuracy.table", 100, 8


@pytest.fixture(scope="module")
def figures() -> Any:
    table = MacroTable()
    return {architecture: table.figures(architecture) for architecture in table.architectures()}


def regret(make: Any, figures: Any, seed: int) -> float:
    space = MacroSpace()
    loop = Search(
        space,
        make(space, python_rng(seed, "strategy")),
        Here(lambda architecture, _: Outcome("ok", figures[architecture], {})),
        [Objective(SEEN, "max")],
        Limits(trials=TRIALS),
        seed=seed,
        log=Memory(),
    )
    loop.run()
    measured = [trial for trial in loop.trials.values() if trial.source is None]
    assert len(measured) == TRIALS
    found = max(measured, key=lambda trial: trial.metrics[SEEN]).metrics[TRUE]
    return max(row[TRUE] for row in figures.values()) - found


def test_after_100_trials_every_strategy_beats_random_search_and_the_surrogate_all(figures):
    def mean(make: Any) -> float:
        return statistics.fmean(regret(make, figures, seed) for seed in range(SEEDS))

    drawn = mean(RandomSearch)
    evolved = mean(lambda space, rng: RegularizedEvolution(space, rng, population=10, tournament=5))
    climbed = mean(LocalSearch)
    modelled = mean(lambda space, rng: Surrogate(space, rng, costs=["macs.table"]))
    assert 0.2 < drawn < 0.5  # 0.33 over 200 searches
    assert max(evolved, climbed) < drawn
    assert modelled < 0.05
