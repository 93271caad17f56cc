from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, rankdata
from sklearn.linear_model import BayesianRidge

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.errors import ConfigError
from archloom.plugins import Host
from archloom.space import Encoding, sample
from archloom.trial import Trial
from archloom_baselines import Surrogate
from archloom_baselines.surrogate import normal_scores


class Toy:
    def __init__(self, length: int = 6, base: int = 3) -> None:
        self.choices = [Choice(f"d{i}", tuple(range(base))) for i in range(length)]

    def build(self, architecture: Architecture) -> Any:
        raise NotImplementedError


class Ruled(Toy):
    def violations(self, architecture: Architecture) -> list[str]:
        return ["d0 may not be 2"] if architecture["d0"] == 2 else []


class TestSurrogate(testing.StrategyContract):
    factory, options = Surrogate, {"initial": 6, "batch": 3}


class TestSurrogateOfAPool(testing.StrategyContract):
    factory, options = Surrogate, {"initial": 6, "batch": 3, "pool": 100}


def cost(architecture: Architecture) -> float:
    return 5.0 + sum((n + 1) * int(d) ** 2 for n, d in enumerate(architecture.values()))


def quality(architecture: Architecture) -> float:
    return float(np.log(cost(architecture))) + 0.3 * int(architecture["d1"])


def run(strategy: Surrogate, trials: int, score: Any = quality) -> list[Architecture]:
    asked = []
    for number in range(trials):
        asked.append(strategy.propose())
        value = score(asked[-1])
        scores = None if value is None else (value,)
        metrics = {"macs": cost(asked[-1])}
        strategy.observe(Trial(number, asked[-1], "ok" if scores else "infeasible", metrics, scores))
    return asked


def test_a_batch_is_the_highest_mean_plus_kappa_sigma_of_what_is_not_yet_measured():
    """Worked out again with scikit-learn's model and one-hot rows made by hand."""
    space = Toy(length=4)
    strategy = Surrogate(space, random.Random(1), initial=12, batch=4, kappa=0.7)
    measured = run(strategy, 12)
    y = norm.ppf((rankdata([quality(one) for one in measured]) - 0.5) / 12)
    hot = lambda one: [float(one[c.name] == option) for c in space.choices for option in c.options]
    model = BayesianRidge().fit(np.array([hot(one) for one in measured]), y)
    everything = [Architecture({f"d{i}": n // 3**i % 3 for i in range(4)}) for n in range(81)]
    left = [one for one in everything if one not in measured]
    mean, sigma = model.predict(np.array([hot(one) for one in left]), return_std=True)
    best = sorted(zip(mean + 0.7 * sigma, range(len(left)), strict=True), reverse=True)[:4]
    assert [strategy.propose() for _ in range(4)] == [left[n] for _, n in best]


def test_scores_become_quantiles_of_their_ranks():
    values = [3.0, -1e9, 3.0, 3.5, 7.0, 3.0, 7.0]
    expected = norm.ppf((rankdata(values) - 0.5) / len(values))
    np.testing.assert_allclose(normal_scores(values), expected, atol=1e-12)
    np.testing.assert_allclose(normal_scores([2.0, 2.0]), [0.0, 0.0], atol=1e-12)


def test_nothing_is_proposed_twice_and_the_space_ends():
    strategy = Surrogate(Toy(length=3), random.Random(0), initial=5)
    asked = run(strategy, 27)
    assert len(set(asked)) >= 26  # the random ones at the start may repeat
    while len(set(asked)) < 27:
        asked += run(strategy, 1)
    assert strategy.propose() is None


def test_it_finds_the_best_of_729_where_decisions_add_up():
    asked = run(Surrogate(Toy(), random.Random(0)), 40)
    assert max(map(quality, asked)) == max(quality(Architecture({f"d{i}": 2 for i in range(6)})), 0.0)


def test_costs_of_unmeasured_architectures_are_learnt_exactly_where_they_are_sums():
    space = Toy()
    strategy = Surrogate(space, random.Random(0), initial=30, costs=["macs"])
    run(strategy, 30)
    others = [sample(space, random.Random(seed)) for seed in range(50)]
    learnt = strategy._log_cost("macs", Encoding(space.choices).of(others))
    true = np.log([cost(one) for one in others])
    np.testing.assert_allclose(learnt - learnt[0], true - true[0], atol=1e-9)


def test_the_costs_of_infeasible_trials_are_learnt_from_too():
    space = Toy()
    strategy = Surrogate(space, random.Random(0), initial=30, costs=["macs"])
    run(strategy, 60, lambda one: quality(one) if one["d0"] == 0 else None)
    others = [Architecture({f"d{i}": (i + n) % 3 for i in range(6)}) for n in range(3)]
    learnt = strategy._log_cost("macs", Encoding(space.choices).of(others))
    true = np.log([cost(one) for one in others])
    np.testing.assert_allclose(learnt - learnt[0], true - true[0], atol=1e-9)


def test_what_the_space_forbids_is_not_in_a_batch():
    strategy = Surrogate(Ruled(), random.Random(0), initial=10)
    asked = run(strategy, 60, lambda one: quality(one) if one["d0"] != 2 else None)
    assert all(one["d0"] != 2 for one in asked[10:])


def test_a_space_larger_than_the_pool_is_searched():
    space = Toy(length=20, base=5)
    asked = run(Surrogate(space, random.Random(0), pool=400), 80, lambda one: float(sum(one.values())))
    drawn = [sum(sample(space, random.Random(seed)).values()) for seed in range(1000)]
    assert max(sum(one.values()) for one in asked) > max(drawn)


def test_a_cost_that_no_estimator_measures_is_named():
    strategy = Surrogate(Toy(), random.Random(0), costs=["latency"])
    with pytest.raises(ConfigError, match=r"costs names 'latency', which trial 0 has not.*it has macs"):
        run(strategy, 1)


def test_a_cost_that_no_estimator_of_the_search_measures_is_refused_before_the_first_trial():
    with pytest.raises(ConfigError, match=r"unknown metric 'mac'; did you mean 'macs'\? .*surrogate: costs"):
        Surrogate(Toy(), random.Random(0), ("macs", "params"), costs=["mac"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 1}, "initial must be at least 2, not 1"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"pool": 3}, "pool must be at least 5, not 3"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"surrogate: {message}"):
        Surrogate(Toy(), random.Random(0), **options)


def test_the_new_baselines_are_registered():
    assert {"local_search", "surrogate"} <= set(Host().names("strategy"))
