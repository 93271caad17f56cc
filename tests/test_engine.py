"""The one loop: what it proposes, repeats, refuses, and how it goes on after a kill."""

from __future__ import annotations

import itertools
import random
import re
import sys
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from archloom.architecture import Architecture
from archloom.engine import Limits
from archloom.errors import RunError, SearchError, SpaceError
from archloom.estimator import STATIC, Context, Metric
from archloom.measuring import Here, Measurer, Outcome
from archloom.model import ModelParts
from archloom.objective import Constraint, Objective
from archloom.run import Log, Memory
from archloom.space import mutate, sample
from archloom.strategy import Proposal
from archloom_baselines import RandomSearch, RegularizedEvolution
from toys import Additive, Dear, Digits, Listed, by_sum, comparable, digits, search


class Annealing:
    """Simulated annealing, as a stranger would write it."""

    def __init__(self, space: Any, rng: random.Random) -> None:
        self.space, self.rng, self.here, self.temperature = space, rng, None, 2.0

    def propose(self):
        return (
            sample(self.space, self.rng)
            if self.here is None
            else mutate(self.space, self.here.architecture, self.rng)
        )

    def observe(self, trial):
        self.temperature *= 0.9
        if trial.score is not None and (
            self.here is None or trial.score >= self.here.score or self.rng.random() < self.temperature / 4
        ):
            self.here = trial


class Halting:
    """Asks for two at a time and says None until both are there, as a generation-wise strategy does."""

    def __init__(self, space: Any, rng: random.Random) -> None:
        self.space, self.rng, self.open, self.generations = space, rng, 0, 0

    def propose(self):
        if self.open == 2 or self.generations == 6:
            return None
        self.open += 1
        return sample(self.space, self.rng)

    def observe(self, trial):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen % 2 == 0:
            self.open, self.generations = 0, self.generations + 1


STRATEGIES = {
    "random": lambda space: RandomSearch(space, random.Random(1)),
    "evolution": lambda space: RegularizedEvolution(space, random.Random(1), population=4, tournament=2),
    "annealing": lambda space: Annealing(space, random.Random(1)),
    "halting": lambda space: Halting(space, random.Random(1)),
}


def moody(architecture: Architecture, seed: int) -> Outcome:
    """Ok, infeasible or failed, by the architecture and sometimes by the trial's seed."""
    total = sum(architecture.values())
    cost = {"seconds": 0.0, "epochs": 1.0}
    if architecture["d0"] == 3:
        return Outcome("infeasible", {"sum": total}, cost, "too large")
    if architecture["d1"] == 2 and seed % 3:
        return Outcome("failed", {}, cost, "bad luck")
    return Outcome("ok", {"sum": total + (seed % 7) / 10}, cost)


# -- duplicates, failures, rejections ---------------------------------------------------------------------


def test_a_duplicate_repeats_the_metrics_at_no_cost_and_is_observed():
    measured = []

    def measure(architecture, seed):
        measured.append(architecture)
        return by_sum(architecture, seed)

    strategy = Listed([digits(1, 0, 0), digits(2, 0, 0), digits(1, 0, 0)])
    loop, _ = search(strategy, measure=measure)
    assert measured == [digits(1, 0, 0), digits(2, 0, 0)]
    first, _, again = strategy.observed
    assert (again.source, again.metrics, again.scores, again.number) == (0, first.metrics, first.scores, 2)
    assert again.cost == {"seconds": 0.0, "epochs": 0.0}
    assert first.source is None
    assert loop.trials[2] == again


def test_a_duplicate_of_an_open_trial_waits_for_it():
    calls = Counter()

    def measure(architecture, seed):
        calls[architecture] += 1
        return by_sum(architecture, seed)

    strategy = Listed([digits(1, 0, 0), digits(1, 0, 0), digits(1, 0, 0)])
    search(strategy, measure=measure, window=3)
    assert [trial.source for trial in strategy.observed] == [None, 0, 0]
    assert calls[digits(1, 0, 0)] == 1


def test_an_infeasible_trial_is_cached_and_a_failed_one_is_measured_again():
    luck = iter([Outcome("failed", {}, {}, "bad luck"), Outcome("ok", {"sum": 1.0}, {})])

    def measure(architecture, seed):
        return Outcome("infeasible", {}, {}, "no") if architecture["d0"] else next(luck)

    strategy = Listed([digits(0, 0, 0), digits(0, 0, 0), digits(1, 0, 0), digits(1, 0, 0)])
    search(strategy, measure=measure)
    assert [(t.status, t.source, t.scores) for t in strategy.observed] == [
        ("failed", None, None),
        ("ok", None, (1.0,)),
        ("infeasible", None, None),
        ("infeasible", 2, None),
    ]


def test_duplicates_that_waited_for_a_failure_are_measured_once_for_all():
    luck = iter([Outcome("failed", {}, {}, "bad luck"), Outcome("ok", {"sum": 1.0}, {})])
    strategy = Listed([digits(0, 0, 0)] * 4)
    search(strategy, measure=lambda architecture, seed: next(luck), window=4)
    assert [(t.status, t.source) for t in strategy.observed] == [
        ("failed", None),
        ("ok", None),
        ("ok", 1),
        ("ok", 1),
    ]


def test_every_trial_has_a_seed_of_its_own():
    strategy = Listed([digits(0, 0, n) for n in range(4)])
    search(strategy)
    assert len({trial.seed for trial in strategy.observed}) == 4


def test_the_strategy_is_handed_scores_that_rise_and_metrics_as_measured():
    strategy = Listed([digits(1, 1, 1)])
    objectives = (Objective("sum", "min"), Objective("sum", "max"))
    search(strategy, objectives=objectives)
    assert strategy.observed[0].scores == (-3.0, 3.0)
    assert strategy.observed[0].metrics == {"sum": 3.0}


def test_an_architecture_of_another_space_stops_the_search():
    with pytest.raises(SpaceError, match="does not belong to this space"):
        search(Listed([Architecture({"elsewhere": 1})]))
    with pytest.raises(SpaceError, match="choice 'd0' has no option 9"):
        search(Listed([digits(9, 0, 0)]))


# -- when it stops ------------------------------------------------------------------------------------


def endless(space: Any = None) -> Any:
    return STRATEGIES["random"](space or Digits(length=6))


def test_the_budget_counts_measured_trials_ok_or_failed_and_neither_repeats_nor_rejections():
    loop, reason = search(endless(Digits()), measure=moody, limits=Limits(trials=12))
    statuses = Counter((t.status, t.source is None) for t in loop.trials.values())
    assert statuses["ok", True] + statuses["failed", True] == 12
    assert statuses["infeasible", True] > 0
    assert sum(count for (_, fresh), count in statuses.items() if not fresh) > 0
    assert reason == "the budget of 12 trials is spent"


def test_the_budget_is_kept_with_a_window_full_of_duplicates_of_failures():
    def measure(architecture, seed):
        return Outcome("failed", {}, {}, "no") if architecture["d0"] == 0 else by_sum(architecture, seed)

    proposals = [digits(0, 0, 0)] * 3 + [digits(1, 0, n % 4) for n in range(5)]
    loop, _ = search(Listed(proposals), measure=measure, limits=Limits(trials=4), window=3)
    assert sum(trial.source is None for trial in loop.trials.values()) == 4


def test_the_budget_of_epochs_ends_the_search():
    loop, reason = search(endless(), space=Digits(length=6), limits=Limits(epochs=5.0))
    assert len(loop.trials) == 5
    assert reason == "the budget of 5 epochs is spent"
    loop, _ = search(endless(), space=Digits(length=6), limits=Limits(epochs=5.0), spent_epochs=3.0)
    assert len(loop.trials) == 2


def test_the_budget_of_seconds_counts_active_time_of_earlier_starts():
    loop, reason = search(
        endless(), space=Digits(length=6), limits=Limits(seconds=100.0), spent_seconds=99.9999
    )
    assert reason == "the budget of 100 seconds is spent"
    assert 1 <= len(loop.trials) < 1000


def test_the_whole_space_proposed_ends_the_search():
    space = Digits(length=2, base=3)
    loop, reason = search(endless(space), space=space)
    assert reason == "all 9 architectures of the space were proposed"
    assert len({trial.architecture for trial in loop.trials.values()}) == 9


def test_too_many_repeats_in_a_row_end_the_search():
    _, reason = search(Listed([digits(0, 0, 0)] * 50), limits=Limits(max_repeats=7))
    assert reason == "the last 7 proposals were all repeats"


def test_impossible_constraints_end_the_search_and_name_the_nearest_value():
    constraint = Constraint.parse("sum > 100")

    def measure(architecture, seed):
        return Outcome("infeasible", {"sum": float(sum(architecture.values()))}, {}, "sum > 100 broken")

    with pytest.raises(
        SearchError, match=r"last 40 proposals were all infeasible\). sum > 100: the nearest seen was 1\d\."
    ):
        search(
            endless(),
            space=Digits(length=6),
            measure=measure,
            constraints=[constraint],
            limits=Limits(max_rejected=40),
        )


@pytest.mark.parametrize("value", [1_000_001.0, 1_000_000.25, 123_456_789_012.5])
def test_a_constraint_that_is_broken_by_one_in_a_million_is_told_in_numbers_that_differ(value):
    class Cost:
        metrics, expense, needs = (Metric("c", "1", "min"),), STATIC, ()

        def estimate(self, architecture, context):
            return {"c": value}

    constraint = Constraint.parse("c <= 1e6")
    measurer = Measurer(Digits(length=6), [Cost()], [constraint], Context(*[None] * 7))
    told = str(int(value)) if value == int(value) else str(value)
    with pytest.raises(SearchError, match=rf"c <= 1000000: the nearest seen was {re.escape(told)}\."):
        search(
            endless(),
            executor=Here(measurer),
            space=Digits(length=6),
            constraints=[constraint],
            limits=Limits(max_rejected=3),
        )
    assert measurer(digits(0, 0, 0, 0, 0, 0), 0).error == f"c <= 1000000 broken: {told}"


def test_failures_in_a_row_end_the_search_with_the_last_error():
    with pytest.raises(
        SearchError, match=r"the last 3 estimates all failed\). The last error: out of memory"
    ):
        search(
            endless(),
            space=Digits(length=6),
            measure=lambda a, s: Outcome("failed", {}, {}, "out of memory"),
            limits=Limits(max_failures=3),
        )


def test_failures_are_counted_from_the_last_start():
    healthy = False

    def measure(architecture, seed):
        return by_sum(architecture, seed) if healthy else Outcome("failed", {}, {}, "driver gone")

    log, limits = Memory(), Limits(max_failures=3, trials=8)
    with pytest.raises(SearchError):
        search(endless(), space=Digits(length=6), measure=measure, log=log, limits=limits)
    healthy = True
    loop, reason = search(endless(), space=Digits(length=6), measure=measure, log=log, limits=limits)
    assert reason == "the budget of 8 trials is spent"
    assert [t.status for t in loop.trials.values()] == ["failed"] * 3 + ["ok"] * 5


def test_none_ends_the_search_when_nothing_is_open_and_is_asked_again_after_an_observe():
    asked = []

    class Waits(Listed):
        def propose(self):
            asked.append(len(self.observed))
            return super().propose()

    strategy = Waits([digits(0, 0, 0), digits(0, 0, 1), None, digits(0, 0, 2), None])
    _, reason = search(strategy, window=5)
    assert reason == "the strategy has nothing more to propose"
    assert len(strategy.observed) == 3
    assert asked == [0, 0, 0, 1, 1, 2, 3], "after None it waits for one observe, no more and no less"


def test_a_strategy_that_proposes_nothing_at_all_is_an_error():
    with pytest.raises(SearchError, match="proposed nothing at all"):
        search(Listed([]))


# -- measuring ------------------------------------------------------------------------------------------


def measurer(
    *estimators: Any, constraints: tuple[str, ...] = (), strict: bool = False, space: Any = None
) -> Measurer:
    space = space or Digits()
    context = Context(space, None, ModelParts(), 0, None, "float32", lambda name, measure: measure())
    return Measurer(space, estimators, [Constraint.parse(text) for text in constraints], context, strict)


class Raises:
    metrics = (Metric("accuracy", "%", "max"),)
    expense, needs = 2, ()

    def __init__(self, result: Any = None) -> None:
        self.result = result

    def estimate(self, architecture, context):
        if self.result is None:
            raise ValueError("no data")
        return self.result


def test_cheap_estimators_run_first_and_a_broken_constraint_spares_the_dear_ones():
    dear = Dear()
    measure = measurer(dear, Additive(), constraints=("sum <= 3",))
    infeasible = measure(digits(3, 3, 0), 0)
    assert (infeasible.status, infeasible.error) == ("infeasible", "sum <= 3 broken: 6")
    assert infeasible.metrics == {"sum": 6.0}
    assert infeasible.cost["epochs"] == 0
    assert dear.calls == []
    fine = measure(digits(1, 1, 0), 0)
    assert fine.status == "ok"
    assert fine.metrics == {"sum": 2.0, "dear": 1.0}
    assert fine.cost["epochs"] == 2
    assert dear.calls == [digits(1, 1, 0)]


def test_a_spaces_own_rule_spares_every_estimator():
    space, dear = Digits(), Dear()
    space.violations = lambda architecture: ["d0 must be even"]
    outcome = measurer(dear, space=space)(digits(1, 1, 0), 0)
    assert (outcome.status, outcome.error, outcome.metrics, dear.calls) == (
        "infeasible",
        "d0 must be even",
        {},
        [],
    )


def test_an_estimator_that_raises_is_a_failed_trial_and_with_strict_an_error(caplog):
    outcome = measurer(Additive(), Raises())(digits(1, 1, 0), 0)
    assert (outcome.status, outcome.error) == ("failed", "Raises: ValueError: no data")
    assert "Traceback" in caplog.text
    with pytest.raises(ValueError, match="no data"):
        measurer(Raises(), strict=True)(digits(1, 1, 0), 0)


def test_an_estimator_that_exits_is_a_failed_trial_as_one_that_raises():
    class Exits(Additive):
        def estimate(self, architecture: Any, context: Any) -> dict[str, float]:
            sys.exit("no licence")

    outcome = measurer(Exits())(digits(1, 1, 0), 0)
    assert (outcome.status, outcome.error) == ("failed", "Exits: SystemExit: no licence")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_no_number_fails_the_trial_before_constraints_and_dearer_estimators(value):
    static, dear = Raises({"accuracy": value}), Dear()
    static.expense = 0
    outcome = measurer(static, dear, constraints=("accuracy > 50",))(digits(1, 1, 0), 0)
    assert outcome.status == "failed"
    assert f"accuracy is {value}" in outcome.error
    assert outcome.metrics == {}
    assert dear.calls == []


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "Raises: SearchError: it gave nothing, but not accuracy"),
        ({"speed": 1.0}, "Raises: SearchError: it gave speed, but not accuracy"),
        ({"accuracy": "high"}, "ValueError"),
        ([1], "Raises: SearchError: it gave [1], not a mapping"),
    ],
)
def test_an_estimate_that_is_not_what_was_promised_fails_the_trial(result, message):
    outcome = measurer(Raises(result))(digits(1, 1, 0), 0)
    assert outcome.status == "failed"
    assert message in outcome.error


# -- window and order -----------------------------------------------------------------------------------


class Threads:
    """Measures in threads; each measurement waits until it is released."""

    def __init__(self, measure: Any, workers: int) -> None:
        self.measure, self.workers, self.pool = measure, workers, ThreadPoolExecutor(workers)
        self.running = self.most = 0
        self.lock = threading.Lock()

    def submit(self, architecture: Architecture, seed: int) -> Future[Outcome]:
        def work() -> Outcome:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                return self.measure(architecture, seed)
            finally:
                with self.lock:
                    self.running -= 1

        return self.pool.submit(work)


def test_in_submitted_order_trials_do_not_depend_on_which_measurement_is_first():
    def slow(architecture, seed):
        threading.Event().wait(0.002 * (seed % 5))
        return moody(architecture, seed)

    space = Digits(length=4)
    logs = []
    for executor in (None, Threads(slow, 3)):
        log = Memory()
        strategy = STRATEGIES["evolution"](space)
        loop, _ = search(
            strategy,
            space=space,
            measure=moody,
            executor=executor,
            log=log,
            window=3,
            limits=Limits(trials=25),
        )
        logs.append(([comparable(loop.trials[n]) for n in sorted(loop.trials)], deliveries(log)))
    assert logs[0] == logs[1]
    assert executor.most > 1


def test_in_order_of_completion_a_fast_trial_overtakes_a_slow_one():
    release = threading.Event()

    def measure(architecture, seed):
        if architecture["d0"] == 1:
            release.wait(10)
        return by_sum(architecture, seed)

    class Releases(Listed):
        def observe(self, trial):
            super().observe(trial)
            if len(self.observed) == 3:
                release.set()

    strategy = Releases([digits(1, 0, 0), digits(0, 0, 0), digits(0, 0, 1), digits(0, 0, 2)])
    search(strategy, executor=Threads(measure, 2), window=2, order="completion")
    assert [trial.number for trial in strategy.observed] == [1, 2, 3, 0]


def test_no_more_than_the_window_is_open_at_once():
    class Watches(Listed):
        open = most = 0

        def propose(self):
            self.open += 1
            self.most = max(self.most, self.open)
            return super().propose()

        def observe(self, trial):
            self.open -= 1

    strategy = Watches([digits(0, a, b) for a, b in itertools.product(range(4), range(4))])
    search(strategy, window=3)
    assert strategy.most == 3


# -- resume -----------------------------------------------------------------------------------------------


def deliveries(log: Any) -> list[int]:
    return [event["number"] for event in log.events if event["event"] == "observe"]


def whole_run(name: str, window: int, space: Any, trials: int) -> tuple[list[dict[str, Any]], Memory]:
    log = Memory()
    limits = Limits(trials=trials, max_failures=1000)
    loop, _ = search(
        STRATEGIES[name](space), space=space, measure=moody, log=log, limits=limits, window=window
    )
    return [comparable(loop.trials[n]) for n in sorted(loop.trials)], log


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_cut_after_any_event_resumes_to_the_same_trials(name, window):
    space = Digits(length=3)
    trials, log = whole_run(name, window, space, 14)
    statuses = Counter(trial["status"] for trial in trials)
    assert statuses["ok"] > 1
    assert statuses["failed"] + statuses["infeasible"] > 1
    for cut in range(len(log.events) + 1):
        part = Memory([dict(event) for event in log.events[:cut]])
        loop, _ = search(
            STRATEGIES[name](space),
            space=space,
            measure=moody,
            log=part,
            limits=Limits(trials=14, max_failures=1000),
            window=window,
        )
        assert [comparable(loop.trials[n]) for n in sorted(loop.trials)] == trials, f"cut after event {cut}"
        assert deliveries(part) == deliveries(log)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_larger_budget_goes_on_exactly_as_one_long_run(name, window):
    space = Digits(length=3)
    trials, log = whole_run(name, window, space, 14)
    part = Memory()
    for budget in (1, 2, 5, 9, 14):
        loop, _ = search(
            STRATEGIES[name](space),
            space=space,
            measure=moody,
            log=part,
            limits=Limits(trials=budget, max_failures=1000),
            window=window,
        )
    assert [comparable(loop.trials[n]) for n in sorted(loop.trials)] == trials
    assert deliveries(part) == deliveries(log)


def test_a_log_file_cut_at_any_byte_resumes_to_the_same_trials(tmp_path):
    space, limits = Digits(length=3), Limits(trials=4, max_failures=1000)

    def run(path):
        log = Log(path)
        loop, _ = search(STRATEGIES["evolution"](space), space=space, measure=moody, log=log, limits=limits)
        log.close()
        return [comparable(loop.trials[n]) for n in sorted(loop.trials)]

    trials = run(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    ends = [0, *(n + 1 for n, byte in enumerate(content) if byte == 10)]
    torn = [end + 3 for end in ends[:-1]] + [end - 1 for end in ends[1:]]
    for cut in sorted({*ends, *torn}):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(content[:cut])
        assert run(path) == trials, f"cut after byte {cut}"
        assert path.read_bytes().startswith(content[: max(end for end in ends if end <= cut)])


def test_a_result_is_never_measured_again():
    space, calls = Digits(length=3), Counter()

    def measure(architecture, seed):
        calls[seed] += 1
        return moody(architecture, seed)

    _, log = whole_run("random", 3, space, 14)
    first_delivery = [event["event"] for event in log.events].index("observe")
    part = Memory(log.events[:first_delivery])
    known = [event["seed"] for event in part.events if event["event"] == "result"]
    search(
        STRATEGIES["random"](space),
        space=space,
        measure=measure,
        log=part,
        limits=Limits(trials=14),
        window=3,
    )
    assert known
    assert not [seed for seed in known if calls[seed]]


def test_a_proposal_without_result_is_measured_again_under_its_number_and_seed():
    space = Digits(length=3)
    trials, log = whole_run("random", 1, space, 6)
    part = Memory(log.events[:1])
    loop, _ = search(
        STRATEGIES["random"](space), space=space, measure=moody, log=part, limits=Limits(trials=6)
    )
    assert comparable(loop.trials[0]) == trials[0]
    assert [event["number"] for event in part.events if event["event"] == "propose"] == list(
        range(len(trials))
    )


def test_a_strategy_that_proposes_something_else_on_resume_is_refused_with_both():
    log = Memory()
    search(Listed([digits(0, 0, 0), digits(1, 0, 0)]), log=log)
    with pytest.raises(RunError, match=r"at trial 1: now 2 0 0, then 1 0 0.*start a new run"):
        search(Listed([digits(0, 0, 0), digits(2, 0, 0)]), log=Memory(log.events))
    with pytest.raises(RunError, match=r"at trial 1: now None, then 1 0 0"):
        search(Listed([digits(0, 0, 0)]), log=Memory(log.events))
    with pytest.raises(RunError, match=r"at trial 2: now 3 0 0, then None"):
        search(Listed([digits(0, 0, 0), digits(1, 0, 0), digits(3, 0, 0)]), log=Memory(log.events))


def test_a_delivery_without_a_result_is_refused():
    log = Memory()
    search(Listed([digits(0, 0, 0)]), log=log)
    forged = Memory([event for event in log.events if event["event"] != "result"])
    with pytest.raises(RunError, match="delivers trial 0 without a result"):
        search(Listed([digits(0, 0, 0)]), log=forged)


def test_every_event_of_the_log_is_also_told_to_observers():
    log, told = Memory(), []
    search(Listed([digits(0, 0, 0), digits(0, 0, 0)]), log=log, notify=told.append)
    assert told == log.events
    kinds = [event["event"] for event in told]
    assert kinds == ["propose", "result", "observe"] * 2 + ["propose", "end"]


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        (
            digits(9, 0, 0),
            r"proposed what is not in the space: choice 'd0' has no option 9.* It has: 0, 1, 2, 3",
        ),
        (Architecture({"d0": 1}), r"proposed what is not in the space: .*lacks \['d1', 'd2'\]"),
        ("k3", "proposed 'k3', which is no Architecture"),
        ({"d0": 1}, r"proposed \{'d0': 1\}, which is no Architecture"),
        (Proposal(digits(0, 0, 0), 2.0), "proposed a fidelity of 2.0; it is a share"),
    ],
)
def test_a_proposal_that_cannot_be_meant_names_the_strategy_that_made_it(proposed, message):
    with pytest.raises((SpaceError, SearchError), match=f"^class Listed {message}"):
        search(Listed([proposed]))
    named = Listed([proposed])
    named.registered_as = "strategy 'listed'"  # as the host writes on what it makes
    with pytest.raises((SpaceError, SearchError), match=f"^strategy 'listed' {message}"):
        search(named)
