"""Constraints that nothing can keep are refused before a supernet is trained; others can be loosened after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archloom
from archloom.architecture import Architecture, Choice
from archloom.config import parse_config
from archloom.errors import RunError, SearchError
from archloom.estimator import STATIC, Metric
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom.resolve import resolve
from archloom.session import verdict
from archloom.session.feasibility import check_constraints
from archloom.space import everything
from toys import config, host


def searched(*constraints: str, **changes: Any) -> dict[str, Any]:
    """A supernet over two layers of a kernel of 1 or 3, trained for two epochs of FBNet."""
    settings = {
        "space": "blocks",
        "strategy": None,
        "method": {"type": "fbnet", "epochs": 2, "warmup_epochs": 1, "batch_size": 64, "cost": "macs"},
        "estimators": ["macs", "params", "inherited_accuracy"],
        "objectives": ["accuracy.inherited"],
        "budget": {"trials": 2},
    }
    return config(**settings | {"constraints": list(constraints)} | changes)


def events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text().splitlines()]


# macs of k1 k1 on 8x8 images: a stem of 1*9*4, two layers of 4*4 and their head of 4*10, as counted
LOWEST = (9 * 4 + 2 * 16) * 64 + 40


def test_a_constraint_below_the_cheapest_network_is_refused_before_the_supernet_is_trained(tmp_path):
    told = f"keeps the constraint 'macs <= 100': the nearest seen was {LOWEST}, the lowest macs"
    with pytest.raises(SearchError, match=told):
        archloom.search(searched("macs <= 100"), tmp_path / "r", host=host())
    assert events(tmp_path / "r") == ["start"]
    with pytest.raises(SearchError, match=r"'macs >= 1000000000': the nearest seen was .*, the highest macs"):
        archloom.search(searched("macs >= 1e9"), tmp_path / "h", host=host())


def test_a_refused_constraint_may_be_loosened_in_the_same_run(tmp_path):
    with pytest.raises(SearchError, match=r"archloom resume .* --set 'constraints="):
        archloom.search(searched(f"macs < {LOWEST}"), tmp_path, host=host())
    result = archloom.resume(tmp_path, overrides=(f"constraints=['macs <= {LOWEST}']",), host=host())
    assert {trial.status for trial in result.trials} == {"ok", "infeasible"}
    assert set(result.architecture.values()) == {"k1"}


def test_a_constraint_that_only_training_decides_is_loosened_without_training_again(tmp_path):
    with pytest.raises(
        SearchError, match=r"accuracy.inherited > 100: the nearest seen was .* --set 'constra"
    ):
        archloom.search(searched("accuracy.inherited > 100"), tmp_path, host=host())
    fits, trained = events(tmp_path).count("fit"), (tmp_path / "checkpoint.pt").read_bytes()
    result = archloom.resume(tmp_path, overrides=("constraints=['accuracy.inherited > 0']",), host=host())
    assert [trial.number for trial in result.trials] == list(range(len(result.trials)))
    assert result.architecture is not None
    assert (events(tmp_path).count("fit"), (tmp_path / "checkpoint.pt").read_bytes()) == (fits, trained)
    page = (tmp_path / "report.html").read_text()
    assert "This run is unfinished" not in page
    # as if they had been there from the start
    plain = archloom.search(searched("accuracy.inherited > 0"), tmp_path / "plain", host=host())
    assert [(t.architecture, dict(t.metrics), t.seed) for t in result.trials] == [
        (t.architecture, dict(t.metrics), t.seed) for t in plain.trials
    ]
    again = archloom.resume(tmp_path, overrides=("budget.trials=3",), host=host())
    assert [t.architecture for t in again.trials[: len(result.trials)]] == [
        t.architecture for t in result.trials
    ]
    with pytest.raises(RunError, match=r"measured under other constraints: then .*archloom resume"):
        verdict(tmp_path, overrides=("constraints=[]",), host=host())


class Rough:
    """Not a sum: the lowest lies where single decisions do not lead."""

    metrics = (Metric("rough", "1", "min"),)
    expense, needs = STATIC, ()

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        decided = list(architecture.values())
        if decided == [3, 3, 3]:
            return {"rough": 1.0}
        if decided[0] == 1:
            raise ValueError("cannot be built")
        return {"rough": 10.0 + sum(decided)}


class Drawn:
    """Depends on a trial's seed, as what is measured with untrained weights does."""

    metrics = (Metric("drawn", "1", "max"),)
    expense, needs = STATIC, ()

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        return {"drawn": float(context.seed % 7)}


class Plugin:
    @archloom.hookimpl
    def register_estimators(self, register: Any) -> None:
        register("rough", Rough)
        register("drawn", Drawn)


def asked(constraint: str, made: Host, **changes: Any) -> None:
    r = resolve(parse_config(config(constraints=[constraint], **changes)), made)
    check_constraints(r, r.context(Ranks(), lambda name, measure: measure()).measuring())


def test_where_the_extreme_is_not_certain_nothing_is_refused():
    made = host(Plugin())
    asked("rough <= 1", made, estimators=["additive", "rough"])
    asked("drawn >= 100", made, estimators=["additive", "drawn"])
    asked("rough <= 10", made, estimators=["additive", "rough"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    st.sampled_from(["<=", "<", ">=", ">"]),
    st.integers(-40, 40),
)
def test_a_sum_is_refused_exactly_where_no_network_keeps_the_bound(options, sign, bound):
    class Sums:
        def __init__(self) -> None:
            self.choices = [Choice(f"d{i}", tuple(values)) for i, values in enumerate(options)]

    r = resolve(parse_config(config(constraints=[f"sum {sign} {bound}"])), _HOST)
    space = Sums()
    object.__setattr__(r, "space", space)
    least, most = sum(map(min, options)), sum(map(max, options))
    kept = {"<=": least <= bound, "<": least < bound, ">=": most >= bound, ">": most > bound}[sign]
    context = r.context(Ranks(), lambda name, measure: measure()).measuring()
    if kept:
        check_constraints(r, context)
        return
    extreme = least if sign in ("<=", "<") else most
    with pytest.raises(SearchError, match=f"the nearest seen was {extreme}, the"):
        check_constraints(r, context)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=4, max_size=4, unique=True), st.integers(-20, 20))
def test_no_bound_that_a_network_of_a_conditional_space_keeps_is_refused(values, bound):
    class Deepening:
        def __init__(self) -> None:
            self.choices = [
                Choice("d0", (1, 2, 3), ordered=True),
                Choice("d1", tuple(values)),
                Choice("d2", tuple(values[1:]), when={"d0": (2, 3)}),
                Choice("d3", tuple(values[2:]), when={"d0": (3,), "d2": tuple(values[2:])}),
            ]

    r = resolve(parse_config(config(constraints=[f"sum <= {bound}"])), _HOST)
    object.__setattr__(r, "space", Deepening())
    least = min(sum(one.values()) for one in everything(Deepening()))
    try:
        check_constraints(r, r.context(Ranks(), lambda name, measure: measure()).measuring())
    except SearchError:
        assert least > bound


_HOST = host()
