"""`canonical: true`: architectures that are the same network are measured once in a search."""

from __future__ import annotations

import json
import random
from concurrent.futures import Future

import pytest

import archloom
from archloom.architecture import Architecture
from archloom.config import parse_config
from archloom.engine import Limits
from archloom.errors import ConfigError, RunError, SpaceError
from archloom.measuring import Outcome
from archloom.run import Memory
from archloom.space import canonical, everything
from archloom.strategy import Proposal
from archloom_baselines import RandomSearch, SuccessiveHalving
from archloom_tabular import MacroSpace
from toys import Digits, Listed, config, digits, host, search


class Sorted(Digits):
    """The order of its digits makes no difference."""

    def canonical(self, architecture: Architecture) -> Architecture:
        return Architecture(dict(zip(architecture, sorted(architecture.values()), strict=True)))


class Counted:
    """Measures the sum of the digits, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Architecture] = []

    def __call__(self, architecture, seed, *fidelity):
        self.asked.append(architecture)
        return Outcome("ok", {"sum": float(sum(architecture.values()))}, {"seconds": 1.0, "epochs": 2.0})


ORDERS = [digits(0, 1, 2), digits(3, 3, 3), digits(2, 1, 0), digits(1, 0, 2), digits(0, 1, 2)]


def test_equal_networks_get_one_result_at_no_cost_and_keep_what_was_proposed():
    measure, strategy = Counted(), Listed(list(ORDERS))
    loop, _ = search(strategy, space=Sorted(), measure=measure, equal_once=True)
    assert measure.asked == ORDERS[:2]
    trials = [loop.trials[n] for n in range(5)]
    assert [trial.architecture for trial in trials] == ORDERS
    assert [trial.source for trial in trials] == [None, None, 0, 0, 0]
    assert [trial.cost["epochs"] for trial in trials] == [2.0, 2.0, 0.0, 0.0, 0.0]
    assert [trial.metrics["sum"] for trial in trials] == [3.0, 9.0, 3.0, 3.0, 3.0]
    assert strategy.observed == trials


def test_without_the_option_each_architecture_is_measured_for_itself():
    measure = Counted()
    loop, _ = search(Listed(list(ORDERS)), space=Sorted(), measure=measure)
    assert measure.asked == ORDERS[:4]
    assert [loop.trials[n].source for n in range(5)] == [None, None, None, None, 0]


def test_an_equal_network_that_is_still_being_measured_is_waited_for():
    class Slow:
        """Gives nothing before all have been asked."""

        def __init__(self):
            self.futures = []

        def submit(self, architecture, seed):
            future: Future[Outcome] = Future()
            self.futures.append((architecture, future))
            if len(self.futures) == 2:
                for asked, waiting in self.futures:
                    waiting.set_result(Outcome("ok", {"sum": float(sum(asked.values()))}, {"epochs": 1.0}))
            return future

    slow = Slow()
    loop, _ = search(
        Listed([digits(0, 1, 2), digits(2, 1, 0), digits(3, 3, 3)]),
        space=Sorted(),
        executor=slow,
        window=3,
        order="completion",
        equal_once=True,
    )
    assert [asked for asked, _ in slow.futures] == [digits(0, 1, 2), digits(3, 3, 3)]
    assert loop.trials[1].source == 0
    assert loop.trials[1].architecture == digits(2, 1, 0)


def test_what_failed_is_measured_again_for_an_equal_network():
    asked = []

    def measure(architecture, seed):
        asked.append(architecture)
        if len(asked) == 1:
            return Outcome("failed", {}, {}, "out of memory")
        return Outcome("ok", {"sum": 1.0}, {})

    loop, _ = search(
        Listed([digits(0, 1, 2), digits(2, 1, 0)]), space=Sorted(), measure=measure, equal_once=True
    )
    assert asked == [digits(0, 1, 2), digits(2, 1, 0)]
    assert [loop.trials[n].status for n in range(2)] == ["failed", "ok"]


def test_an_equal_network_trained_longer_is_no_repeat():
    measure = Counted()
    asked = [Proposal(digits(0, 1, 2), 0.5), Proposal(digits(2, 1, 0), 0.5), Proposal(digits(2, 1, 0), 1.0)]
    loop, _ = search(Listed(asked), space=Sorted(), measure=measure, equal_once=True)
    assert [loop.trials[n].source for n in range(3)] == [None, 0, None]
    assert measure.asked == [digits(0, 1, 2), digits(2, 1, 0)]


def test_the_search_ends_when_all_architectures_were_proposed_however_few_were_measured():
    space, measure = Sorted(), Counted()
    loop, reason = search(Listed(list(everything(space))), space=space, measure=measure, equal_once=True)
    assert reason == "all 64 architectures of the space were proposed"
    assert len(measure.asked) == len({canonical(space, one) for one in everything(space)}) == 20
    assert len(loop.trials) == 64


@pytest.mark.parametrize("order", ["submitted", "completion"])
@pytest.mark.parametrize(
    "make", [RandomSearch, lambda *given: SuccessiveHalving(*given, width=9, eta=3, rungs=2)]
)
def test_a_search_killed_anywhere_goes_on_to_the_same_trials(make, order):
    whole, options = Memory(), {"window": 2, "order": order, "limits": Limits(trials=12), "equal_once": True}
    loop, _ = search(
        make(Sorted(), random.Random(0)), space=Sorted(), measure=Counted(), log=whole, **options
    )
    assert any(
        trial.source is not None and loop.trials[trial.source].architecture != trial.architecture
        for trial in loop.trials.values()
    )
    for kept in range(len(whole.events)):
        log = Memory(whole.events[:kept])
        again, _ = search(
            make(Sorted(), random.Random(0)), space=Sorted(), measure=Counted(), log=log, **options
        )
        assert again.trials == loop.trials


def test_a_canonical_form_outside_of_the_space_stops_the_search_with_its_name():
    space = Sorted()
    space.canonical = lambda architecture: Architecture({"d0": 0})
    with pytest.raises(SpaceError, match=r"Sorted\.canonical does not give an architecture: .*lacks"):
        search(Listed([digits(0, 1, 2)]), space=space, equal_once=True)


# -- with a configuration -------------------------------------------------------------------------------

MACRO = {
    "space": "nasbench_macro",
    "task": {"type": "fake", "height": 32, "width": 32},
    "strategy": {"type": "evolution", "population": 10, "tournament": 3},
    "estimators": ["macro_table"],
    "objectives": ["accuracy.table"],
    "budget": {"trials": 60},
    "verdict": {"seeds": 0},
    "observers": [],
}


class Killed(BaseException):
    """As a signal ends a process."""


def test_a_run_with_the_option_is_killed_and_resumed_to_the_same_log(tmp_path):
    equating = parse_config({**MACRO, "canonical": True})
    whole = archloom.search(equating, tmp_path / "whole", host=host())
    repeats = [trial for trial in whole.trials if trial.source is not None]
    space, by_number = MacroSpace(), {trial.number: trial for trial in whole.trials}
    equal = [trial for trial in repeats if by_number[trial.source].architecture != trial.architecture]
    assert equal
    for trial in equal:
        source = by_number[trial.source]
        assert canonical(space, trial.architecture) == canonical(space, source.architecture)
        assert trial.metrics == source.metrics
        assert trial.cost == {"seconds": 0.0, "epochs": 0.0}

    def kill(event):
        if event["event"] == "observe" and event["number"] == equal[0].number:
            raise Killed

    with pytest.raises(Killed):
        archloom.search(equating, tmp_path / "killed", host=host(), notify=kill)
    resumed = archloom.resume(tmp_path / "killed", host=host())
    told = lambda result: [(t.architecture, t.metrics, t.source, t.seed, t.status) for t in result.trials]
    assert told(resumed) == told(whole)


def test_the_option_is_part_of_a_runs_identity_only_where_it_is_on(tmp_path):
    off, on = parse_config(MACRO), parse_config({**MACRO, "canonical": True})
    assert "canonical" not in off.identity()
    assert on.identity() == off.identity() | {"canonical": True}
    archloom.search(off, tmp_path / "run", host=host())
    assert (
        "canonical"
        not in json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["identity"]
    )
    with pytest.raises(RunError, match="canonical: then off, now on"):
        archloom.resume(tmp_path / "run", overrides=("canonical=true",), host=host())
    archloom.search({**on.model_dump(mode="json"), "budget": {"trials": 3}}, tmp_path / "other", host=host())
    with pytest.raises(RunError, match="canonical: then on, now off"):
        archloom.resume(tmp_path / "other", overrides=("canonical=false",), host=host())


def test_the_option_is_refused_where_the_space_knows_no_equal_networks(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'digit_space' has no canonical\(architecture\). Leave the key out"
    ):
        archloom.search(config(canonical=True), tmp_path, host=host())


def test_nas_bench_macro_has_3969_networks_and_its_canonical_form_names_each():
    space = MacroSpace()
    assert len({canonical(space, architecture) for architecture in everything(space)}) == 3969 == 9 * 21 * 21
