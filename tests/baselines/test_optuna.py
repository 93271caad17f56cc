from __future__ import annotations

import sys
from typing import Any

import pytest

import archloom
import toys
from archloom import testing
from archloom.architecture import Choice
from archloom.engine import Limits, Search
from archloom.errors import ConfigError, UnknownName
from archloom.measuring import Here, Outcome
from archloom.objective import Objective, dominates, front
from archloom.run import Memory
from archloom.trial import Trial
from archloom_baselines.optuna_samplers import OptunaSampler

pytest.importorskip("optuna")

ONE = (Objective("m0", "max"),)
TWO = (Objective("m0", "max"), Objective("m1", "max"))


class TestTPE(testing.StrategyContract):
    factory, options = OptunaSampler, {"sampler": "tpe"}


class TestNSGA2OfTwoObjectives(testing.StrategyContract):
    factory, options, objectives = OptunaSampler, {"sampler": "nsga2", "options": {"population_size": 8}}, 2


class TestTPEOfTwoObjectives(testing.StrategyContract):
    factory, options, objectives = OptunaSampler, {"sampler": "TPESampler"}, 2


class TestCMAES(testing.StrategyContract):
    factory, options = OptunaSampler, {"sampler": "cmaes"}


class TestGP(testing.StrategyContract):
    factory, options, trials = OptunaSampler, {"sampler": "gp", "options": {"n_startup_trials": 4}}, 7


class TestRandom(testing.StrategyContract):
    factory, options = OptunaSampler, {"sampler": "random"}


def searched(
    sampler: str, seed: int, objectives: Any, measure: Any, trials: int = 80, **options: Any
) -> Search:
    space = toys.Digits(length=6, base=5)
    loop = Search(
        space,
        OptunaSampler(space, seed, objectives, sampler=sampler, **options),
        Here(measure),
        objectives,
        Limits(trials=trials),
        seed=seed,
        log=Memory(),
    )
    loop.run()
    return loop


def one(architecture: Any, seed: int) -> Outcome:
    return Outcome("ok", {"m0": float(sum((n + 1) * d for n, d in enumerate(architecture.values())))}, {})


def two(architecture: Any, seed: int) -> Outcome:
    """High digits in front raise the first and lower the second."""
    digits = list(architecture.values())
    first, second = float(sum(digits)), float(-sum(d * d for d in digits[:3]))
    return Outcome("ok", {"m0": first, "m1": second}, {})


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "cmaes"])
def test_it_searches_better_than_chance(sampler):
    options = {"options": {"population_size": 10}} if sampler == "nsga2" else {}
    found, drawn = (
        [
            max(trial.score or 0.0 for trial in searched(name, seed, ONE, one, **more).trials.values())
            for seed in range(5)
        ]
        for name, more in ((sampler, options), ("random", {}))
    )
    assert sum(found) > sum(drawn)


def test_several_objectives_give_a_front_that_random_search_does_not_reach():
    options = {"options": {"population_size": 16}}
    evolved = front(list(searched("nsga2", 0, TWO, two, 300, **options).trials.values()))
    drawn = front(list(searched("random", 0, TWO, two, 300).trials.values()))
    beaten = [d for d in drawn if any(dominates(e.scores, d.scores) for e in evolved)]
    lost = [e for e in evolved if any(dominates(d.scores, e.scores) for d in drawn)]
    assert len(beaten) > len(lost)


def test_what_is_infeasible_is_avoided():
    def ruled(architecture: Any, seed: int) -> Outcome:
        if architecture["d5"] > 2:
            return Outcome("infeasible", {}, {}, "d5 is too high")
        return one(architecture, seed)

    loop = searched("tpe", 0, ONE, ruled, 60)
    statuses = [trial.status for _, trial in sorted(loop.trials.items())]
    half = len(statuses) // 2
    assert statuses[half:].count("infeasible") < statuses[:half].count("infeasible")


def test_options_that_are_equal_to_python_stay_apart():
    class Space:
        choices = (Choice("a", (0, 1)), Choice("b", ("x", None)))

        def build(self, architecture: Any) -> Any:
            raise NotImplementedError

    strategy = OptunaSampler(Space(), 0, ONE, sampler="random")
    drawn = [strategy.propose() for _ in range(40)]
    assert {(d["a"], d["b"]) for d in drawn} == {(a, b) for a in (0, 1) for b in ("x", None)}
    for number, architecture in enumerate(drawn):
        strategy.observe(Trial(number, architecture, "ok", scores=(1.0,)))
    assert len(strategy.study.trials) == 40
    assert not strategy.open


def test_a_whole_search_is_configured_by_name_and_resumed(tmp_path):
    config = toys.config(strategy={"type": "optuna", "sampler": "tpe"}, budget={"trials": 20})
    host = toys.host()
    whole = archloom.search(config, tmp_path / "whole", host=host)
    archloom.search(config | {"budget": {"trials": 12}}, tmp_path / "part", host=host)
    rest = archloom.resume(tmp_path / "part", overrides=("budget.trials=20",), host=host)
    assert list(map(toys.comparable, rest.trials)) == list(map(toys.comparable, whole.trials))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "tpee"}, "unknown sampler of Optuna's 'tpee'; did you mean 'tpe'"),
        (
            {"sampler": "nsga2", "options": {"population": 4}},
            "no option 'population'; it has: .*population_size",
        ),
        ({"sampler": "nsga2", "options": {"population_size": 1}}, "'nsga2' cannot be made"),
        ({"sampler": "GridSampler"}, "'GridSampler' cannot be made: .*search_space"),
    ],
)
def test_what_optuna_does_not_have_is_refused(options, message):
    with pytest.raises((ConfigError, UnknownName), match=message):
        OptunaSampler(toys.Digits(), 0, ONE, **options)


def test_without_optuna_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'not installed: pip install "archloom\[optuna\]"'):
        OptunaSampler(toys.Digits(), 0, ONE)
