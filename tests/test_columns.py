"""A column of the verdict's tables is one line in one place."""

from __future__ import annotations

import json
from typing import Any

import pytest

import archloom
from archloom import columns
from archloom.columns import ACCURACY, Column, judged_by
from archloom.commands.searching import _print_result
from archloom.console import out
from archloom.groups import Group, Summary, groups, judge
from test_report import Page, simple
from toys import config, host

ENERGY = Column("energy", "energy mJ", "mJ", measure=lambda network: {"energy": 2e-3 * network.cost.macs})


@pytest.fixture
def page_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js */")


def shown(result: Any) -> str:
    with out.capture() as captured:
        _print_result(result)
    return captured.get()


def test_a_column_that_is_added_stands_in_the_terminal_in_the_report_and_in_result_json(
    tmp_path, monkeypatch, page_without_plotly
):
    monkeypatch.setattr(columns, "COSTS", (*columns.COSTS, ENERGY))
    recipe = {"type": "default", "epochs": 1, "batch_size": 64}
    result = archloom.search(
        config(verdict={"seeds": 1, "random": 1, "cost": "sum"}, recipe=recipe), tmp_path, host=host()
    )
    (found,) = [group for group in result.groups if group.role == "found"]
    # a pointwise convolution on 8 x 8 pixels, global average, and a linear layer to ten classes
    channels = 1 + sum(result.architecture.values())
    energy = 2e-3 * (64 * channels + 10 * channels)
    assert found.metrics["energy"] == Summary(pytest.approx(energy), "mJ")
    entry = json.loads((tmp_path / "result.json").read_text())["groups"][0]
    assert entry["metrics"]["energy"]["value"] == pytest.approx(energy)
    assert set(entry) >= {"accuracy", "spread", "macs", "params", "latency", "between", "error"}
    assert "energy" not in entry
    page = Page((tmp_path / "report.html").read_text())
    for row in (page.row("found"), page.row("found 0")):
        assert f"{energy:.2f}" in row
    assert sum("energy mJ" in row for row in page.rows) == 2
    monkeypatch.setattr(out, "width", 160)
    lines = shown(result).splitlines()
    assert any("latency ms" in line and "energy mJ" in line for line in lines)
    assert any("found" in line and f"{energy:.2f}" in line for line in lines)


def test_the_metric_that_cost_means_rules_the_sentences_and_has_a_column(
    tmp_path, monkeypatch, page_without_plotly
):
    recipe = {"type": "default", "epochs": 1, "batch_size": 64}
    chosen = {"seeds": 1, "random": 1, "cost": "sum"}
    result = archloom.search(config(verdict=chosen, recipe=recipe), tmp_path, host=host())
    mine, theirs, anywhere = (group.metrics["sum"].value for group in result.groups)
    assert mine == sum(result.architecture.values())
    for said, cost in zip(result.verdict, (theirs, anywhere), strict=False):
        assert said.endswith(f"at {100 * mine / cost:.0f} % of the sum")
    assert any("within 10 %" in said for said in result.verdict) == (abs(theirs - mine) > 0.1 * mine)
    page = Page((tmp_path / "report.html").read_text())
    assert page.row("found")[-1] == f"{mine:.4f}"
    monkeypatch.setattr(out, "width", 200)
    assert f"{anywhere:.4f}" in shown(result)
    again = archloom.resume(tmp_path, host=host())
    assert (again.verdict, again.groups) == (result.verdict, result.groups)
    said = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (event,) = [one for one in said if one["event"] == "verdict"]
    assert event["metric"]["cost"] == {"name": "sum", "unit": "1"}


def test_networks_that_were_trained_before_a_column_was_added_have_none_in_it(
    tmp_path, monkeypatch, page_without_plotly
):
    folder = simple(tmp_path)
    folder.end()
    folder.found({})
    folder.final("found", 0, 0, 88.0, 1_000_000)
    folder.result([group.to_json() for group in groups(list(folder.run.log.of("final")))])
    monkeypatch.setattr(columns, "COSTS", (*columns.COSTS, ENERGY))
    page = folder.report()
    assert page.row("found")[-1] == "-"
    assert page.row("found 0")[-2] == "-"


RMSE = judged_by("rmse", "m", "min")


def reached(role: str, rmse: float, **changes: Any) -> Group:
    metrics = {"test.rmse": Summary(rmse, "m", changes.get("spread", 0.01)), "macs": Summary(1e6)}
    return Group(role, 1, 3, metrics)


@pytest.mark.parametrize(
    ("rmse", "words"),
    [
        (0.5, "beats random, any cost (a single network): -0.5000 m of test rmse (standard error"),
        (
            1.5,
            "does not beat random, any cost (a single network); it is worse in rmse: +0.5000 m of test rmse",
        ),
        (1.01, "is not distinguishable in rmse from random, any cost (a single network): +0.0100 m of"),
    ],
)
def test_a_metric_of_which_less_is_better_is_judged_the_other_way_round(rmse, words):
    assert words in judge(reached("found", rmse), reached("random, any cost", 1.0), RMSE)


def test_values_are_alike_within_a_hundredth_where_the_metric_has_no_margin_of_its_own():
    mine, theirs = reached("found", 1.001, spread=1e-4), reached("random, any cost", 1.0, spread=1e-4)
    assert "does not beat random, any cost (a single network); it is as good in rmse:" not in judge(
        reached("found", 1.02, spread=1e-4), theirs, RMSE
    )
    # it is surely worse, by a thousandth: said as what it is
    assert "it is worse in rmse" in judge(mine, theirs, RMSE)
    equal = reached("found", 1.0, spread=1e-4)
    assert "it is as good in rmse" in judge(equal, theirs, RMSE)


def test_the_report_goes_by_the_metric_that_the_log_names(tmp_path, page_without_plotly):
    folder = simple(tmp_path)
    folder.end()
    folder.found({})
    event = {"event": "final", "name": "found-0", "role": "found", "index": 0, "seed": 0}
    metrics = {"test.rmse": 0.25, "macs": 10, "params": 5, "latency.measured": 1.0}
    metrics |= {"latency.measured.low": 1.0, "latency.measured.high": 1.0}
    folder.event(event="verdict", names=["found-0"], metric=RMSE.to_json())
    folder.event(**event, architecture={"stem": "k3", "body": "k5"}, metrics=metrics)
    group = {"role": "found", "networks": 1, "trainings": 1, "spread": None, "between": None, "error": None}
    folder.result([{**group, "metrics": {"test.rmse": {"value": 0.25, "unit": "m"}, "macs": {"value": 10}}}])
    page = folder.report()
    assert "mean test rmse m" in page.text
    assert page.row("found 0")[1:4] == ["0.2500", "-", "0.2500"]
    assert page.row("found")[3] == "0.2500"
    assert page.figures[0]["layout"]["yaxis"]["title"]["text"] == "test rmse, m"


def test_accuracy_in_percent_is_what_it_always_was():
    assert judged_by("accuracy", "%", "max") is ACCURACY
    assert judged_by(**RMSE.to_json()) == RMSE
