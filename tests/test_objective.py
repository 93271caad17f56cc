from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.errors import ConfigError
from archloom.objective import Constraint, Objective, Picking, best, dominates, exact, front
from archloom.trial import Trial
from toys import digits


def trial(number: int, *scores: float, **metrics: float) -> Trial:
    return Trial(number, digits(number), "ok", metrics, scores)


def failed(number: int) -> Trial:
    return Trial(number, digits(number), "failed")


score = st.integers(0, 5).map(float)
populations = st.lists(st.tuples(score, score), max_size=12).map(
    lambda pairs: [trial(number, *pair) for number, pair in enumerate(pairs)]
)


@given(populations)
def test_the_front_is_what_nothing_dominates_with_each_scores_once(trials):
    found = front(trials)
    for one in trials:
        beaten = any(dominates(other.scores, one.scores) for other in trials)
        twin = any(other.scores == one.scores and other.number < one.number for other in trials)
        assert (one in found) == (not beaten and not twin)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[score] * n), max_size=12)))
def test_the_front_of_any_number_of_objectives_is_what_nothing_dominates(points):
    trials = [trial(number, *point) for number, point in enumerate(points)]
    undominated = [one for one in trials if not any(dominates(other.scores, one.scores) for other in trials)]
    first = {one.scores: one for one in reversed(undominated)}
    assert front(trials) == [one for one in undominated if first[one.scores] is one]


@given(populations, st.randoms())
def test_the_front_does_not_depend_on_the_order_of_the_trials(trials, rng):
    shuffled = list(trials)
    rng.shuffle(shuffled)
    assert front(shuffled) == front(trials)


def test_the_best_of_one_objective_is_the_highest_score_and_of_ties_the_lowest_number():
    trials = [failed(0), trial(3, 2.0), trial(1, 2.0), trial(2, 1.0)]
    assert best(trials).number == 1
    assert best([failed(0)]) is None
    assert best([]) is None


def test_several_objectives_give_no_best_without_a_pick():
    trials = [trial(0, 1.0, 0.0), trial(1, 0.0, 1.0)]
    assert best(trials) is None


def test_a_pick_takes_the_best_among_those_within_a_margin():
    trials = [
        trial(0, 90.0, -300.0, accuracy=90, macs=300),
        trial(1, 89.6, -200.0, accuracy=89.6, macs=200),
        trial(2, 80.0, -100.0, accuracy=80, macs=100),
    ]
    smallest = Objective("macs", "min")
    near = Picking(smallest, [(Objective("accuracy", "max"), 0.5)])
    assert best(trials, near).number == 1
    assert best(trials, Picking(smallest)).number == 2
    tie = Picking(Objective("accuracy", "max"))
    assert best([trial(5, 1.0, 2.0, accuracy=1), trial(4, 2.0, 1.0, accuracy=1)], tie).number == 4


@pytest.mark.parametrize(
    ("text", "holds", "breaks"),
    [
        ("macs <= 300e6", 3e8, 3.1e8),
        ("macs<300_000", 299_999, 300_000),
        (" accuracy.trained >= 90.5 ", 90.5, 90.4),
        ("params > -1", 0, -1),
    ],
)
def test_a_constraint_is_read_as_people_write_it(text, holds, breaks):
    constraint = Constraint.parse(text)
    assert constraint.holds(holds)
    assert not constraint.holds(breaks)
    assert not constraint.holds(float("nan"))


@pytest.mark.parametrize(
    "text", ["", "macs", "macs == 3", "macs <=", "<= 3", "macs <= many", "macs <= nan", "a b < 3"]
)
def test_what_is_no_constraint_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"is no constraint; .*'macs <= 300e6'"):
        Constraint.parse(text)


@given(st.text(max_size=15))
def test_any_text_is_a_constraint_or_a_config_error(text):
    with suppress(ConfigError):
        assert Constraint.parse(text).bound == Constraint.parse(text).bound


def test_a_constraint_is_printed_as_it_can_be_read_again():
    assert Constraint.parse(str(Constraint.parse("macs<=3e8"))) == Constraint("macs", "<=", 3e8)


@pytest.mark.parametrize(
    ("bound", "value", "told"),
    [
        (1e6, 1_000_001.0, ("1000000", "1000001")),
        (300e6, 300_000_000.5, ("300000000", "300000000.5")),
        (0.92277, 0.92277001, ("0.92277", "0.92277001")),
        (-1e-11, -1.0000001e-11, ("-1e-11", "-1.0000001e-11")),
        (1e300, float("inf"), ("1e+300", "inf")),
    ],
)
def test_numbers_in_messages_are_those_that_were_compared(bound, value, told):
    assert (exact(bound), exact(value)) == told
    assert str(Constraint("c", "<=", bound)) == f"c <= {told[0]}"


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_different_numbers_are_written_differently(one, other):
    assert (exact(one) == exact(other)) == (one == other)


def test_a_trial_survives_json_and_is_frozen():
    one = Trial(3, digits(1, 2), "ok", {"a": 1.0}, (1.0,), {"seconds": 2.0}, 7, 1, None)
    assert Trial.from_json(one.to_json()) == one
    with pytest.raises(AttributeError):
        one.status = "failed"
    assert failed(0).score is None
