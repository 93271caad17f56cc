from __future__ import annotations

import itertools
import json
import math
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archloom
import toys
from archloom.errors import ConfigError
from archloom.hypervolume import history, hypervolume
from archloom.objective import Objective, front
from archloom.trial import Trial


def by_inclusion_and_exclusion(points: list[Any], reference: Any) -> float:
    """The volume of a union of boxes, from those of all intersections."""
    boxes = [[max(x - r, 0.0) for x, r in zip(point, reference, strict=True)] for point in points]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for some in itertools.combinations(boxes, size):
            total -= (-1) ** size * math.prod(min(sides) for sides in zip(*some, strict=True))
    return total


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([], (0, 0), 0),
        ([(1, 3), (2, 2), (3, 1)], (0, 0), 6),
        ([(1, 3), (2, 2), (3, 1), (1, 1), (2, 2)], (0, 0), 6),
        ([(1, 3), (3, 1)], (1, 0), 2),
        ([(-1, 5), (0, 9)], (0, 0), 0),
        ([(1, 1, 1)], (0, 0, 0), 1),
        ([(2, 1, 1), (1, 2, 1), (1, 1, 2)], (0, 0, 0), 4),
        ([(3, 2, 1), (1, 2, 3)], (0, 0, 0), 10),
        ([(2,), (5,)], (1,), 4),
    ],
)
def test_small_fronts_have_the_volume_counted_by_hand(points, reference, volume):
    assert hypervolume(points, reference) == volume


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_is_the_union_of_the_boxes(dimensions, data):
    coordinate = st.integers(-2, 6).map(float)
    points = data.draw(st.lists(st.tuples(*[coordinate] * dimensions), max_size=8))
    reference = data.draw(st.tuples(*[st.integers(-3, 2).map(float)] * dimensions))
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_it_agrees_with_random_points_thrown_at_it(dimensions):
    rng = random.Random(0)
    points = [tuple(rng.random() for _ in range(dimensions)) for _ in range(40)]
    thrown = [[rng.random() for _ in range(dimensions)] for _ in range(20_000)]
    hit = sum(any(all(x <= p for x, p in zip(one, point, strict=True)) for point in points) for one in thrown)
    assert hypervolume(points, [0.0] * dimensions) == pytest.approx(hit / len(thrown), abs=0.015)


def on_a_sphere(number: int, dimensions: int) -> list[Trial]:
    """Trials that no other one dominates, scores above 0."""
    rng = random.Random(number)
    drawn = [[abs(rng.gauss(0, 1)) for _ in range(dimensions)] for _ in range(number)]
    points = [tuple(x / math.hypot(*one) for x in one) for one in drawn]
    return [
        Trial(n, toys.digits(n), "ok", {f"m{k}": x for k, x in enumerate(point)}, point)
        for n, point in enumerate(points)
    ]


@pytest.mark.parametrize(("number", "dimensions"), [(3000, 2), (400, 3), (180, 5)])
def test_a_front_of_all_trials_takes_no_minutes_after_the_search(number, dimensions):
    trials = on_a_sphere(number, dimensions)
    objectives = [Objective(f"m{k}", "max") for k in range(dimensions)]
    started = time.process_time()
    assert len(front(trials)) == number
    found = history(trials, objectives, {f"m{k}": 0.0 for k in range(dimensions)})
    assert time.process_time() - started < 2.0
    whole = hypervolume([one.scores for one in trials], [0.0] * dimensions)
    assert found.values[-1] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3, 4, 5])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_each_value_of_the_history_is_the_volume_of_the_trials_so_far(dimensions, data):
    coordinate = st.integers(-1, 4).map(float)
    points = data.draw(st.lists(st.tuples(*[coordinate] * dimensions), min_size=1, max_size=7))
    objectives = [Objective(f"m{k}", "max") for k in range(dimensions)]
    trials = [Trial(n, toys.digits(n), "ok", {}, point) for n, point in enumerate(points)]
    found = history(trials, objectives, {f"m{k}": 0.0 for k in range(dimensions)})
    for n, value in enumerate(found.values):
        assert value == pytest.approx(by_inclusion_and_exclusion(points[: n + 1], [0.0] * dimensions))


BOTH = (Objective("accuracy", "max"), Objective("macs", "min"))


def trial(number: int, accuracy: float, macs: float, **more: Any) -> Trial:
    metrics = {"accuracy": accuracy, "macs": macs}
    return Trial(number, toys.digits(number), "ok", metrics, (accuracy, -macs), **more)


def test_the_history_has_a_value_for_every_trial():
    trials = [
        trial(0, 60.0, 10.0),
        Trial(1, toys.digits(1), "failed"),
        trial(2, 50.0, 12.0),
        trial(3, 70.0, 11.0),
        trial(4, 99.0, 1.0, fidelity=0.5),
    ]
    found = history(trials, BOTH, {"accuracy": 50.0, "macs": 12.0})
    assert found.numbers == [0, 1, 2, 3, 4]
    assert found.values == [20.0, 20.0, 20.0, 30.0, 30.0]  # 10 x 2, and then 20 x 1 of which 10 x 1 is new
    assert found.given
    without = history(trials, BOTH)
    assert (without.reference, without.given) == ({"accuracy": 50.0, "macs": 12.0}, False)
    assert without.values == found.values
    assert history(trials, BOTH[:1]) is None
    assert history(trials[1:2], BOTH) is None


def test_the_last_value_is_that_of_the_front():
    rng = random.Random(3)
    trials = [trial(n, rng.random(), rng.random()) for n in range(60)]
    found = history(trials, BOTH, {"accuracy": 0.0, "macs": 1.0})
    for upto in (1, 7, 60):
        points = [one.scores for one in front(trials[:upto])]
        assert found.values[upto - 1] == pytest.approx(hypervolume(points, (0.0, -1.0)))
    assert found.values == sorted(found.values)


def two(**changes: Any) -> dict[str, Any]:
    return toys.config(
        estimators=["additive", "params"], objectives=["sum", "params"], budget={"trials": 12}, **changes
    )


def test_a_search_of_several_objectives_leaves_it_in_result_and_report(tmp_path):
    result = archloom.search(two(), tmp_path / "run", host=toys.host())
    found = json.loads((tmp_path / "run" / "result.json").read_text())["hypervolume"]
    assert found["trials"] == [one.number for one in result.trials]
    worst = {
        "sum": min(t.metrics["sum"] for t in result.trials),
        "params": max(t.metrics["params"] for t in result.trials),
    }
    assert found["reference"] == worst
    points = [one.scores for one in result.front]
    assert found["values"][-1] == hypervolume(points, (worst["sum"], -worst["params"]))
    html = (tmp_path / "run" / "report.html").read_text()
    assert "Hypervolume of the front" in html
    assert "the worst of each objective in this run" in html
    stated = archloom.resume(
        tmp_path / "run", overrides=("reference={sum: 0, params: 100}", "budget.trials=14"), host=toys.host()
    )
    found = json.loads((tmp_path / "run" / "result.json").read_text())["hypervolume"]
    assert found["reference"] == {"sum": 0, "params": 100}
    assert len(found["values"]) == len(stated.trials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": {"sum": 0}}, "must name each objective once, sum, params; 'params' is not there"),
        ({"reference": {"sum": 0, "params": 1, "macs": 2}}, "'macs' is none of them"),
        ({"reference": {"sum": 0}, "objectives": ["sum"]}, "one objective has none"),
        ({"reference": {"sum": float("inf"), "params": 1}}, "has sum inf; a volume"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        archloom.search(two() | changes, tmp_path / "run", host=toys.host())
