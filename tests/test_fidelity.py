"""Measuring at a part of the full effort, and going on from there: the engine's side and the trainer's."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch

import archloom
import toys
from archloom.engine import Limits, Search
from archloom.errors import ConfigError, SearchError
from archloom.estimator import FULL, Context, Fidelity
from archloom.measuring import Here, Measurer, Outcome
from archloom.model import ModelParts
from archloom.objective import Objective, best, comparable, front
from archloom.run import Memory
from archloom.strategy import Proposal
from archloom.testing import TinySpace, tiny_task
from archloom.trial import Trial
from archloom_estimators import TrainedAccuracy

A, B = toys.digits(1, 0, 0), toys.digits(2, 0, 0)


def noted(calls: list[Any]) -> Any:
    def measure(architecture: Any, seed: int, fidelity: Fidelity = FULL) -> Outcome:
        calls.append((architecture, seed, fidelity))
        return Outcome("ok", {"sum": float(architecture["d0"])}, {"seconds": 0.0, "epochs": 0.0})

    return measure


def searched(proposals: list[Any], calls: list[Any], log: Any = None) -> Search:
    loop, _ = toys.search(toys.Listed(proposals), measure=noted(calls), log=log)
    return loop


# -- the engine ----------------------------------------------------------------------------------------


def test_a_higher_fidelity_goes_on_under_the_seed_of_the_lower_one():
    calls: list[Any] = []
    loop = searched([Proposal(A, 0.25), B, Proposal(A, 0.5), A, A], calls)
    assert [fidelity for _, _, fidelity in calls] == [
        Fidelity(0.25, 0.0),
        FULL,
        Fidelity(0.5, 0.25),
        Fidelity(1.0, 0.5),
    ]
    seeds = [seed for _, seed, _ in calls]
    assert seeds[0] == seeds[2] == seeds[3] != seeds[1]
    assert [trial.fidelity for trial in loop.trials.values()] == [0.25, 1.0, 0.5, 1.0, 1.0]
    assert loop.trials[4].source == 3


def test_the_same_architecture_at_another_fidelity_is_no_repeat():
    calls: list[Any] = []
    loop = searched([Proposal(A, 0.5), Proposal(A, 0.25), Proposal(A, 0.5)], calls)
    assert [trial.source for trial in loop.trials.values()] == [None, None, 0]
    assert calls[1][2] == Fidelity(0.25, 0.0)


@pytest.mark.parametrize("fidelity", [0.0, -0.5, 1.5, float("nan")])
def test_a_fidelity_that_is_no_share_is_refused(fidelity):
    with pytest.raises(SearchError, match="it is a share of the full effort, above 0 and at most 1"):
        searched([Proposal(A, fidelity)], [])


def test_an_executor_that_knows_no_fidelity_is_not_asked_for_any():
    class Old:
        workers = 1

        def submit(self, architecture: Any, seed: int) -> Any:
            return Here(toys.by_sum).submit(architecture, seed)

    loop, _ = toys.search(toys.Listed([A, B]), executor=Old())
    assert len(loop.trials) == 2


def test_the_log_of_a_search_with_fidelities_goes_on_from_any_line():
    proposals = [Proposal(A, 0.25), B, Proposal(A, 0.5), Proposal(B, 0.5), A, A]
    whole, calls = Memory(), []
    searched(list(proposals), calls, whole)
    results = lambda log: [{**e, "active": 0} for e in log.events if e["event"] == "result"]
    for cut in range(1, len(whole.events)):
        log, again = Memory([dict(event) for event in whole.events[:cut]]), []
        searched(list(proposals), again, log)
        assert results(log) == results(whole)
        assert again == calls[len(calls) - len(again) :]


def test_trials_of_the_highest_fidelity_alone_are_compared():
    def trial(number: int, score: float, fidelity: float) -> Trial:
        return Trial(number, toys.digits(number), "ok", {}, (score, 1.0), fidelity=fidelity)

    trials = [trial(0, 9.0, 0.5), trial(1, 3.0, 1.0), trial(2, 2.0, 1.0)]
    assert [one.number for one in comparable(trials)] == [1, 2]
    assert [one.number for one in front(trials)] == [1]
    alone = [Trial(t.number, t.architecture, "ok", {}, t.scores[:1], fidelity=t.fidelity) for t in trials]
    assert best(alone).number == 1
    assert best(alone[:1]).number == 0, "a search that was stopped before has the best it saw"


def test_a_log_from_before_there_were_fidelities_is_read_as_full():
    data = Trial(0, A, "ok").to_json()
    del data["fidelity"]
    assert Trial.from_json(data).fidelity == 1.0


# -- the trainer ---------------------------------------------------------------------------------------


def context(folder: Any, fidelity: Fidelity, seed: int = 5) -> Context:
    task = tiny_task(images=96)
    once = lambda name, measure: measure()
    return Context(
        TinySpace(), task, ModelParts(), seed, torch.device("cpu"), "float32", once, None, fidelity, folder
    )


SMALL = {"layer0": "k3", "layer1": "k1", **{f"layer{n}": "skip" for n in range(2, 6)}}


def test_a_continued_training_is_the_uninterrupted_one_to_the_bit(tmp_path, monkeypatch):
    """Not the accuracy alone, which is coarse: the weights that are judged."""
    from archloom_estimators import accuracy

    judged: list[Any] = []
    real = accuracy.evaluate

    def remember(model: Any, *rest: Any) -> Any:
        judged.append({key: value.clone() for key, value in model.state_dict().items()})
        return real(model, *rest)

    monkeypatch.setattr(accuracy, "evaluate", remember)
    estimator = TrainedAccuracy(epochs=4, batch_size=16)
    architecture = archloom.Architecture(SMALL)
    at_once = estimator.estimate(architecture, context(None, FULL))
    steps = [Fidelity(0.25), Fidelity(0.5, 0.25), Fidelity(1.0, 0.5)]
    for step in steps:
        last = estimator.estimate(architecture, context(tmp_path, step))
    assert last == at_once
    for key, value in judged[0].items():
        assert torch.equal(value, judged[-1][key]), key
    half = judged[2]
    estimator.estimate(architecture, context(None, Fidelity(0.5)))
    for key, value in judged[-1].items():
        assert torch.equal(value, half[key]), key
    assert not list((tmp_path / "continued").iterdir()), "nothing goes on from a complete training"


def test_a_training_continues_and_does_not_begin_anew(tmp_path, monkeypatch):
    from archloom_estimators import accuracy

    trained: list[int] = []
    real = accuracy.train

    def counting(*arguments: Any, **options: Any) -> Any:
        for epoch in real(*arguments, **options):
            trained.append(epoch.number)
            yield epoch

    monkeypatch.setattr(accuracy, "train", counting)
    estimator, architecture = TrainedAccuracy(epochs=4, batch_size=16), archloom.Architecture(SMALL)
    estimator.estimate(architecture, context(tmp_path, Fidelity(0.5)))
    estimator.estimate(architecture, context(tmp_path, Fidelity(0.5)))  # killed before its result was kept
    assert trained == [1, 2]
    estimator.estimate(architecture, context(tmp_path, Fidelity(1.0, 0.5)))
    assert trained == [1, 2, 3, 4]


def test_the_budget_counts_only_the_epochs_that_are_new():
    estimator = TrainedAccuracy(epochs=4, batch_size=16)
    assert [estimator.epochs_at(f) for f in (0, 0.01, 0.25, 0.5, 1)] == [0, 1, 1, 2, 4]
    measurer = Measurer(TinySpace(), [estimator], [], context(None, FULL))
    architecture = archloom.Architecture(SMALL)
    costs = [
        measurer(architecture, 1, fidelity).cost["epochs"]
        for fidelity in (Fidelity(0.25), Fidelity(1.0, 0.25), FULL)
    ]
    assert costs == [1, 3, 4]


# -- a whole search ------------------------------------------------------------------------------------


def halving(**changes: Any) -> dict[str, Any]:
    return toys.config(
        space={"type": "blocks", "depth": 3, "width": 2},
        strategy={"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3},
        estimators=[{"type": "accuracy", "epochs": 4, "batch_size": 16}],
        objectives=["accuracy.trained"],
        budget={"trials": 7},
        **changes,
    )


def facts(folder: Any) -> list[Any]:
    events = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    found = [event for event in events if event["event"] == "result"]
    return [
        {**{k: v for k, v in one.items() if k not in ("active", "cost")}, "epochs": one["cost"]["epochs"]}
        for one in found
    ]


def test_a_search_by_halving_is_the_same_wherever_it_was_killed(tmp_path):
    host = toys.host()
    whole = archloom.search(halving(), tmp_path / "whole", host=host)
    assert [trial.fidelity for trial in whole.trials] == [0.25] * 4 + [0.5] * 2 + [1.0]
    assert [trial.cost["epochs"] for trial in whole.trials] == [1.0] * 4 + [1.0] * 2 + [2.0]
    assert whole.architecture == whole.trials[-1].architecture
    assert "fidelity 0.25" in (whole.folder / "report.html").read_text()
    lines = (whole.folder / "log.jsonl").read_text().splitlines(keepends=True)
    for cut in (3, 9, 14, 17, 19):
        for kept in (True, False):  # with the checkpoints of the trainings, and where they were lost
            folder = tmp_path / f"cut{cut}{kept}"
            shutil.copytree(tmp_path / "whole", folder)
            (folder / "log.jsonl").write_text("".join(lines[:cut]))
            if not kept:
                shutil.rmtree(folder / "continued", ignore_errors=True)
            archloom.resume(folder, host=host)
            assert facts(folder) == facts(whole.folder), cut


def test_halving_without_an_estimator_that_can_do_less_is_refused(tmp_path):
    config = toys.config(strategy="successive_halving")
    with pytest.raises(ConfigError, match=r"'successive_halving' measures most .*has 'epochs_at'"):
        archloom.search(config, tmp_path / "run", host=toys.host())


def test_halving_finds_more_for_its_epochs_than_random_search():
    """On a toy whose true order shows early, but for noise that shrinks as the training grows."""
    import random
    import statistics

    from archloom_baselines import RandomSearch, SuccessiveHalving

    space = toys.Digits(length=6, base=5)

    def measure(architecture: Any, seed: int, fidelity: Fidelity = FULL) -> Outcome:
        true = float(sum(architecture.values()))
        noise = random.Random(str(architecture) + str(fidelity.upto)).gauss(0, 2) * (1 - fidelity.upto)
        cost = {"seconds": 0.0, "epochs": 9 * (fidelity.upto - fidelity.since)}
        return Outcome("ok", {"sum": true + noise}, cost)

    def found(make: Any, seed: int) -> float:
        loop = Search(
            space,
            make(space, random.Random(seed)),
            Here(measure),
            [Objective("sum", "max")],
            Limits(epochs=9 * 20),
            seed=seed,
            log=Memory(),
        )
        loop.run()
        return sum(best(list(loop.trials.values())).architecture.values())

    halved = [found(SuccessiveHalving, seed) for seed in range(12)]
    drawn = [found(RandomSearch, seed) for seed in range(12)]
    error = ((statistics.variance(halved) + statistics.variance(drawn)) / 12) ** 0.5
    assert statistics.fmean(halved) - statistics.fmean(drawn) > 2 * error


@pytest.mark.slow
def test_two_processes_continue_each_other_s_trainings(tmp_path):
    """What one worker left another goes on from; the trials are those of a single process."""
    config = {
        "space": {"type": "fbnet", "stages": [[8, 2, 1]], "head_width": 8, "in_channels": 1},
        "task": {"type": "digits", "train_size": 96},
        "strategy": {"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3},
        "estimators": [{"type": "accuracy", "epochs": 4, "batch_size": 16}],
        "objectives": ["accuracy.trained"],
        "budget": {"trials": 7},
        "verdict": {"seeds": 0},
        "observers": [],
        "threads": 1,
        "window": 2,
    }
    alone = archloom.search(config, tmp_path / "alone")
    together = archloom.search(config | {"workers": 2}, tmp_path / "together")
    assert list(map(toys.comparable, together.trials)) == list(map(toys.comparable, alone.trials))
