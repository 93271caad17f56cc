"""What comes after a search that has ended well: nothing of it costs the search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import archloom
from archloom.architecture import Architecture, Choice
from archloom.errors import RunError
from archloom.estimator import Metric
from archloom.exporting.card import metrics_of_run
from archloom.plugins import Host
from archloom.report import write_report
from archloom.report.story import Story
from archloom.session import verdict
from toys import config, host


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


class Fragile:
    """Networks of which those with `d1` 3 cannot be built and those with `d1` 2 diverge."""

    def __init__(self) -> None:
        self.choices = [Choice("d0", (0, 1, 2, 3)), Choice("d1", (0, 1, 2, 3))]

    def build(self, architecture: Architecture) -> nn.Module:
        if architecture["d1"] == 3:
            raise ValueError("no kernel of that size")
        conv = nn.Conv2d(1, 2 + architecture["d0"], 3)
        return nn.Sequential(conv, NotANumber()) if architecture["d1"] == 2 else conv

    def family(self, architecture: Architecture) -> Mapping[str, Any]:
        raise ValueError("no family today")


class Sum:
    """High where d0 is, and where d1 is low: the best can be built."""

    metrics = (Metric("sum", "1", "max"),)
    expense, needs = 0, ()

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        return {"sum": float(architecture["d0"] - architecture["d1"])}


class Plugin:
    @archloom.hookimpl
    def register_search_spaces(self, register: Any) -> None:
        register("fragile", Fragile)

    @archloom.hookimpl
    def register_estimators(self, register: Any) -> None:
        register("difference", Sum)


def fragile() -> Host:
    return host(Plugin())


def searched(**changes: Any) -> dict[str, Any]:
    settings = {
        "space": "fragile",
        "strategy": "grid",
        "estimators": ["difference"],
        "budget": {},
        "verdict": {"seeds": 1, "random": 3, "cost": "sum"},
        "recipe": {"type": "default", "epochs": 1, "batch_size": 64},
    }
    return config(**settings | changes)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("run")
    return folder, archloom.search(searched(), folder, host=fragile())


def test_networks_that_cannot_be_built_or_diverge_are_rows_of_the_verdict(run):
    folder, result = run
    assert result.architecture == Architecture({"d0": 3, "d1": 0})
    broken = {3: "no kernel of that size", 2: "nan"}
    assert len(result.failures) >= 2
    for failure in result.failures:
        assert broken[failure.architecture["d1"]] in failure.error.lower()
    assert {f.architecture["d1"] for f in result.failures} == {2, 3}
    written = read(folder)
    assert [f["error"] for f in written["failures"]] == [f.error for f in result.failures]
    assert written["found"]["architecture"] == {"d0": 3, "d1": 0}
    assert written["finished"] is True
    reached = sum(group.trainings for group in result.groups)
    assert reached + len(result.failures) == 7
    assert any("failed" in sentence for sentence in result.verdict)


def test_a_family_that_fails_is_named_and_costs_nothing(run):
    folder, result = run
    assert result.problems == ("the family failed: ValueError: no family today",)
    assert read(folder)["problems"] == list(result.problems)


def test_the_report_shows_what_failed_and_why(run):
    page = (run[0] / "report.html").read_text()
    for failure in run[1].failures:
        assert f"{failure.role} {failure.index}, seed 0" in page
    assert "no kernel of that size" in page
    assert "The family failed: ValueError: no family today" in page
    assert "unfinished" not in page.split("</style>")[1]


def test_a_resume_keeps_failures_and_trains_nothing_again(run):
    folder, result = run
    again = archloom.resume(folder, host=fragile())
    assert (again.groups, again.failures, again.verdict) == (result.groups, result.failures, result.verdict)


def copy(run: tuple[Path, Any], to: Path) -> Path:
    for file in run[0].rglob("*"):
        if file.is_file() and not file.name.startswith(".lock"):
            target = to / file.relative_to(run[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to


def test_a_resume_lets_another_verdict_in(run, tmp_path):
    folder = copy(run, tmp_path / "r")
    result = archloom.resume(folder, overrides=("verdict.seeds=0",), host=fragile())
    assert (result.groups, result.failures) == ((), ())
    assert result.architecture == run[1].architecture
    assert "verdict.seeds is 0" in (folder / "report.html").read_text()


def test_a_verdict_is_made_anew_with_another_learning_rate(run, tmp_path):
    folder = copy(run, tmp_path / "r")
    trials = (folder / "log.jsonl").read_text().count('"event": "propose"')
    result = verdict(folder, overrides=("recipe.lr=0.001", "verdict.random=1"), host=fragile())
    finals = {path.name for path in (folder / "final").iterdir()}
    own = {name for name in finals if "-recipe-" in name}
    assert own
    assert finals - own
    assert result.groups[0].role == "found"
    assert read(folder)["groups"] == [group.to_json() for group in result.groups]
    story = Story.read(folder)
    assert story.finished
    assert {final["name"] for final in story.finals} <= own
    assert story.config["recipe"]["lr"] == 0.001
    text = (folder / "log.jsonl").read_text()
    assert text.count('"event": "propose"') == trials
    metrics = metrics_of_run(folder, {"d0": 3, "d1": 0})
    assert metrics["test.accuracy"] == next(
        f["metrics"]["test.accuracy"] for f in story.finals if f["role"] == "found"
    )
    assert metrics != metrics_of_run(run[0], {"d0": 3, "d1": 0})
    # and back again: what was trained then is still there
    back = verdict(folder, overrides=("recipe={type: default, epochs: 1, batch_size: 64}",), host=fragile())
    assert back.groups[0] == run[1].groups[0]


def test_a_verdict_needs_a_search_that_has_ended(tmp_path):
    with pytest.raises(RunError, match="no"):
        verdict(tmp_path, host=fragile())
    archloom.search(searched(verdict={"seeds": 0}), tmp_path / "r", host=fragile())
    log = tmp_path / "r" / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"event": "end"' not in line]
    log.write_text("\n".join(lines) + "\n")
    (tmp_path / "r" / "log.sums").unlink(missing_ok=True)
    with pytest.raises(RunError, match="has not ended; go on with: archloom resume"):
        verdict(tmp_path / "r", host=fragile())


def test_the_result_is_there_before_the_verdict_is_held(tmp_path, monkeypatch):
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("archloom.session.finals.train_and_test", killed)
    with pytest.raises(KeyboardInterrupt):
        archloom.search(searched(), tmp_path, host=fragile())
    written = read(tmp_path)
    assert written["found"]["architecture"] == {"d0": 3, "d1": 0}
    assert written["finished"] is False
    document = json.loads((tmp_path / "architecture.json").read_text())
    assert document["architecture"] == {"d0": 3, "d1": 0}
    page = write_report(tmp_path).read_text()
    assert "This run is unfinished:</b> the search has ended" in page


def test_a_report_that_fails_loses_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: 1 / 0)
    result = archloom.search(
        searched(verdict={"seeds": 0}, space="digit_space", estimators=["additive"]), tmp_path, host=fragile()
    )
    assert result.problems == ("the report failed: ZeroDivisionError: division by zero",)
    assert read(tmp_path)["problems"] == list(result.problems)
    assert result.architecture is not None


def test_strict_raises_what_fails_and_keeps_the_result(tmp_path):
    with pytest.raises(ValueError, match="no family today"):
        archloom.search(searched(strict=True), tmp_path, host=fragile())
    assert read(tmp_path)["found"]["architecture"] == {"d0": 3, "d1": 0}


def test_what_failed_is_tried_again_by_the_command_and_not_by_a_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:

        def full(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("the device is full")

        patched.setattr("archloom.session.finals.train_and_test", full)
        settings = {
            "verdict": {"seeds": 1, "random": 1, "cost": "sum"},
            "recipe": {"type": "default", "epochs": 1},
        }
        first = archloom.search(config(**settings), tmp_path, host=host())
    assert [failure.error for failure in first.failures] == ["OutOfMemoryError: the device is full"] * 3
    assert "the found network could not be trained, so nothing is said of it" in first.verdict[0]
    assert not (tmp_path / "weights.safetensors").exists()
    assert archloom.resume(tmp_path, host=host()).failures == first.failures
    again = verdict(tmp_path, host=host())
    assert (again.failures, len(again.groups)) == ((), 3)
    assert (tmp_path / "weights.safetensors").exists()
    assert again.architecture == first.architecture
    assert "failed" not in json.dumps(read(tmp_path)["verdict"])
