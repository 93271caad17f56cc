"""What a verdict says, and what it may not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.architecture import Architecture
from archloom.columns import ACCURACY, judged_by
from archloom.groups import Failure, Group, Summary, groups, judge, sentences
from archloom.verdict import Contestant, draw_contestants, unlike_in_cost
from toys import Digits, digits


def group(
    role: str = "random, same cost",
    networks: int = 3,
    trainings: int = 9,
    accuracy: float = 90.0,
    spread: float | None = 0.5,
    macs: float = 1e6,
    between: float | None = None,
) -> Group:
    metrics = {
        "test.accuracy": Summary(accuracy, "%", spread, between),
        "macs": Summary(macs),
        "params": Summary(1e3),
        "latency.measured": Summary(1.0, "ms"),
    }
    return Group(role, networks, trainings, metrics)


def found(**changes: Any) -> Group:
    return group("found", **{"networks": 1, "trainings": 3, **changes})


def test_one_training_has_no_standard_error_and_beats_nobody():
    said = judge(
        found(trainings=1, spread=None, accuracy=10.03, macs=0.53e6),
        group(networks=1, trainings=1, spread=None, accuracy=10.03),
    )
    assert "is not distinguishable in accuracy from random, same cost (a single network), and cheaper" in said
    assert "+0.00 points of test accuracy (standard error unknown: one training of each)" in said
    assert "at 53 % of the MACs" in said
    assert "beats" not in said


@pytest.mark.parametrize(
    ("mine", "theirs", "why"),
    [
        ({"trainings": 1, "spread": None}, {}, "one training of the found network"),
        ({}, {"networks": 1, "trainings": 1, "spread": None}, "one training of random, same cost"),
        ({"spread": 0.0}, {}, "all trainings of the found network gave the same accuracy"),
        ({}, {"spread": 0.0}, "all trainings of random, same cost gave the same accuracy"),
        ({}, {"between": 0.0}, "all trainings of random, same cost gave the same accuracy"),
    ],
)
def test_an_unknown_standard_error_is_said_with_its_reason_however_large_the_gap(mine, theirs, why):
    said = judge(found(accuracy=99.0, **mine), group(**theirs))
    assert f"(standard error unknown: {why})" in said
    assert "not distinguishable" in said


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ({"accuracy": 95.0}, "beats random, same cost:"),
        ({"accuracy": 95.0, "macs": 2e6}, "is more accurate but more expensive than random, same cost:"),
        ({"accuracy": 85.0, "macs": 3e5}, "is less accurate but cheaper than random, same cost:"),
        ({"accuracy": 85.0}, "does not beat random, same cost; it is less accurate:"),
        ({"accuracy": 90.5}, "is not distinguishable in accuracy from random, same cost:"),
        ({"accuracy": 89.5, "macs": 3e5}, "from random, same cost, and cheaper:"),
        ({"accuracy": 90.5, "macs": 3e6}, "from random, same cost, and more expensive:"),
        (
            {"accuracy": 89.98, "spread": 0.05, "macs": 3e5},
            "is as accurate as random, same cost at 30 % of the MACs:",
        ),
        ({"accuracy": 89.98, "spread": 0.05}, "does not beat random, same cost; it is as accurate:"),
    ],
)
def test_each_sentence_says_no_more_than_the_trainings_show(mine, words):
    theirs = group(spread=0.05 if mine.get("spread") else 0.5)
    assert words in judge(found(**mine), theirs)


def test_networks_are_counted_and_not_their_trainings():
    """Three random networks of 88, 90 and 92 %, each trained three times with hardly any spread."""
    trainings = [
        {
            "role": role,
            "index": index,
            "metrics": {"test.accuracy": mean + noise, "macs": 1e6, "params": 1e3, "latency.measured": 1.0},
        }
        for role, means in (("found", [92.5]), ("random, any cost", [88.0, 90.0, 92.0]))
        for index, mean in enumerate(means)
        for noise in (-0.1, 0.0, 0.1)
    ]
    mine, theirs = groups(trainings)
    assert (theirs.networks, theirs.trainings) == (3, 9)
    assert theirs.metrics["test.accuracy"].between == pytest.approx(2.0)
    assert theirs.error("test.accuracy") == pytest.approx(2.0 / 3**0.5)
    assert mine.error("test.accuracy") == pytest.approx(0.1 / 3**0.5)
    assert "not distinguishable" in judge(
        mine, theirs
    )  # t of two degrees of freedom is 4.3, and 2.5 / 1.155 is 2.2
    assert theirs.to_json()["error"] == theirs.error("test.accuracy")


def test_few_networks_need_a_wider_gap_than_many():
    """Student's t: 2.2 standard errors are enough with many networks and not with three."""
    gap = 2.2 * (1.0 / 3 + 1e-6) ** 0.5
    few, many = group(between=1.0), group(networks=100, trainings=300, between=(100 / 3) ** 0.5)
    surely = found(accuracy=90.0 + gap, spread=1e-3)
    assert "not distinguishable" in judge(surely, few)
    assert "beats" in judge(surely, many)


def failure(role: str, index: int = 0) -> Failure:
    return Failure(f"{role}-{index}", role, index, 0, digits(index), "ValueError: no such kernel")


def test_what_failed_is_part_of_the_verdict():
    told = [found(accuracy=95.0), group()]
    said = sentences(told, [failure("random, same cost", 1), failure("random, any cost")])
    assert said[0].endswith("; 1 of its trainings failed and is left out")
    assert said[1] == (
        "there is no comparison with random, any cost: every training failed, the first with ValueError: no such kernel"
    )
    lost = sentences([group()], [failure("found")])
    assert lost == (
        "the found network could not be trained, so nothing is said of it: ValueError: no such kernel",
    )
    assert Failure.from_json(failure("found").to_json()) == failure("found")


ACCURACIES = st.lists(st.lists(st.integers(700, 999), min_size=3, max_size=3), min_size=2, max_size=5)


def trainings(accuracies: list[list[int]], *, added: float = 0.0, unit: float = 1.0) -> list[dict[str, Any]]:
    """Of the found network, the first, and of random ones, in tenths of a percent."""
    return [
        {
            "role": "random, any cost" if index else "found",
            "index": max(index - 1, 0),
            "metrics": {
                "test.accuracy": value / 10 + added,
                "macs": (index + 1) * unit,
                "params": (index + 1) * unit,
                "latency.measured": unit,
            },
        }
        for index, values in enumerate(accuracies)
        for value in values
    ]


@given(ACCURACIES, st.sampled_from([-60.0, -12.5, 0.1]), st.sampled_from([1e-9, 1e9]), st.randoms())
def test_neither_order_nor_units_nor_an_added_constant_changes_the_verdict(accuracies, added, unit, rng):
    """A constant that is added may take a gap over the border by its rounding alone, so whole tenths are compared."""
    plain = judge(*groups(trainings(accuracies)))
    events = trainings(accuracies, unit=unit)
    # the roles' order is that of the first of each
    found, random = events[:3], events[3:]
    rng.shuffle(found)
    rng.shuffle(random)
    assert judge(*groups(found + random)) == plain
    shifted = judge(*groups(trainings(accuracies, added=added)))
    words = lambda said: said.split(":")[0]
    assert words(shifted) == words(plain)


@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e15])
def test_networks_of_the_same_cost_are_the_same_in_whatever_unit(unit):
    space = Digits(length=4)
    price = lambda architecture: unit * (1 + sum(architecture.values()))
    drawn = draw_contestants(space, digits(1, 2, 3, 0), price, number=3, seed=0)
    near = [one.architecture for one in drawn if one.role == "random, same cost"]
    assert [sum(one.values()) for one in near] == [6, 6, 6]


def test_a_network_whose_cost_cannot_be_had_is_not_of_the_same_cost():
    def price(architecture: Architecture) -> float:
        if architecture["d0"] == 3:
            raise ValueError("cannot be built")
        return 1.0 + sum(architecture.values())

    drawn = draw_contestants(Digits(length=4), digits(1, 2, 3, 0), price, number=20, seed=0)
    near = [one.architecture for one in drawn if one.role == "random, same cost"]
    assert len(near) == 20
    assert all(one["d0"] != 3 for one in near)


# -- what networks cost --------------------------------------------------------------------------------


def by_cost(name: str, unit: str = "1") -> Any:
    return judged_by("accuracy", "%", "max", {"name": name, "unit": unit})


def costing(one: Group, **costs: Summary) -> Group:
    return replace(one, metrics={**one.metrics, **{name.replace("_", "."): s for name, s in costs.items()}})


@pytest.mark.parametrize(
    ("cost", "words", "percent"),
    [
        ("macs", "is as accurate as random, same cost at 25 % of the MACs:", "25 % of the MACs"),
        ("params", "does not beat random, same cost; it is as accurate:", "100 % of the params"),
        (
            "latency.measured",
            "does not beat random, same cost; it is as accurate:",
            "200 % of the measured latency",
        ),
    ],
)
def test_a_verdict_goes_by_the_metric_that_cost_means(cost, words, percent):
    """A quarter of the MACs, as many params, twice the latency."""
    mine = costing(found(accuracy=89.98, spread=0.05, macs=2.5e5), latency_measured=Summary(2.0, "ms"))
    said = judge(mine, group(spread=0.05), by_cost(cost))
    assert words in said
    assert said.endswith(f"at {percent}")


def test_a_cost_that_an_estimator_alone_measures_is_named_and_may_be_negative():
    mine, theirs = found(accuracy=95.0), group()
    energy = by_cost("energy", "mJ")
    said = judge(costing(mine, energy=Summary(3.0)), costing(theirs, energy=Summary(2.0)), energy)
    assert "more accurate but more expensive" in said
    assert said.endswith("at 150 % of the energy")
    said = judge(costing(mine, energy=Summary(-3.0)), costing(theirs, energy=Summary(-2.0)), energy)
    assert "beats" in said
    assert said.endswith("at 50 % of the energy")


def test_where_not_all_have_the_cost_it_is_macs_and_says_so():
    energy = by_cost("energy")
    said = judge(costing(found(), energy=Summary(3.0)), group(), energy)
    assert said == judge(found(), group())
    assert said.endswith("of the MACs")


def test_macs_are_the_cost_where_nothing_is_said_and_events_stay_as_they_were():
    assert by_cost("macs", "MACs") == ACCURACY
    assert ACCURACY.to_json() == {"name": "accuracy", "unit": "%", "direction": "max"}
    assert judged_by(**by_cost("energy", "mJ").to_json()) == by_cost("energy", "mJ")


def drawn(*costs: float) -> list[Contestant]:
    """Of a found network of cost 100."""
    same = [Contestant("random, same cost", i, digits(i), cost) for i, cost in enumerate(costs)]
    return [Contestant("found", 0, digits(9), 100.0), *same]


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        (
            (100.0, 125.0, 300.0),
            "2 of the 3 networks called random, same cost are not within 10 % of the found one's params: none nearer "
            "was drawn from the space, and they are 25.0 % to 200.0 % off",
        ),
        (
            (44.0,),
            "the network called random, same cost is not within 10 % of the found one's params: none nearer was drawn "
            "from the space, and it is 56.0 % off",
        ),
        ((), "there is no random, same cost: no further network with known params was drawn from the space"),
    ],
)
def test_random_networks_of_another_cost_are_said_to_be_so(costs, said):
    assert unlike_in_cost(drawn(*costs), 3, by_cost("params").cost) == (said,)


def test_of_random_networks_of_the_same_cost_and_of_none_that_were_asked_for_nothing_is_said():
    assert unlike_in_cost(drawn(90.0, 110.0, 100.0), 3, ACCURACY.cost) == ()
    assert unlike_in_cost(drawn(), 0, ACCURACY.cost) == ()


def test_a_space_without_networks_of_that_cost_is_told_of():
    """Digits of one place, priced by powers of four: each other one costs a quarter at most, or four times."""
    price = lambda architecture: 4.0 ** sum(architecture.values())
    contestants = draw_contestants(Digits(length=1), digits(2), price, number=1, seed=0)
    (said,) = unlike_in_cost(contestants, 1, by_cost("energy").cost)
    nearest = min((one.cost for one in contestants[1:2]), key=lambda cost: abs(cost - 16))
    assert [one.cost for one in contestants if one.role == "random, same cost"] == [nearest]
    assert said.endswith(f"and it is {abs(nearest - 16) / 16:.1%} off".replace("%", " %"))
