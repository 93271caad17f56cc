"""A search without a task: decisions from the configuration, measured by a function of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import archloom
from archloom.architecture import Architecture
from archloom.cli import app
from archloom.config import parse_config
from archloom.config_files import read_config
from archloom.errors import ArchloomError, ConfigError, SpaceError
from archloom.plugins import Host
from archloom.resolve import resolve
from archloom.session import resume
from archloom.space import size

TRAIN = """
def evaluate(config, context):
    assert context.task is None
    return {"score": 100 * config["lr"] * config["depth"], "wait": 0.5 * config["depth"]}


def outline(config, context):
    context.outline(config)
"""
CONFIG: dict[str, Any] = {
    "space": {"type": "choices", "choices": {"lr": [0.1, 0.01], "depth": [2, 4, 8], "act": ["relu", "gelu"]}},
    "task": None,
    "strategy": "grid",
    "estimators": [
        {
            "type": "function",
            "path": "train.py:evaluate",
            "metrics": {"score": "max", "wait": {"direction": "min", "unit": "s"}},
        }
    ],
    "objectives": ["score"],
    "budget": {"trials": 20},
    "observers": [],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js */")
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def written(home: Path, **changes: Any) -> Path:
    (home / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return home / "config.yaml"


def refusal(home: Path, **changes: Any) -> str:
    config = read_config(written(home, **changes))
    with pytest.raises(ArchloomError) as caught:
        resolve(config, Host(config.plugins))
    return str(caught.value)


def test_a_search_without_a_task_ends_with_its_best_decisions_and_a_report(home):
    ran = CliRunner().invoke(app, ["search", str(written(home)), "--folder", str(home / "run")])
    assert ran.exit_code == 0, ran.output
    assert "12 trials, 12 measured; all 12 architectures of the space were proposed" in " ".join(
        ran.output.split()
    )
    assert "trained from scratch" not in ran.output
    document = json.loads((home / "run" / "architecture.json").read_text())
    best = {"lr": 0.1, "depth": 8, "act": "relu"}
    assert (document["architecture"], document["metrics"]) == (best, {"score": 80.0, "wait": 4.0})
    result = json.loads((home / "run" / "result.json").read_text())
    assert (result["groups"], result["verdict"], result["problems"], result["finished"]) == ([], [], [], True)
    page = (home / "run" / "report.html").read_text()
    assert "<h1>Strategy grid: space choices</h1>" in page
    assert "No network was trained from scratch: there is no task to train for." in page
    assert "unfinished" not in page.split("</style>")[1]
    assert "latency" not in page
    assert yaml.safe_load((home / "run" / "config.yaml").read_text())["task"] is None


def test_it_goes_on_to_the_bit_after_it_was_interrupted(home):
    def trials(folder: Path) -> list[Any]:
        events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [(e["architecture"], e["metrics"]) for e in events if e["event"] == "result"]

    random = {"strategy": "random", "budget": {"trials": 8}}
    whole = archloom.search(written(home, **random), home / "whole").folder
    part = archloom.search(written(home, **random | {"budget": {"trials": 3}}), home / "part").folder
    resume(part, overrides=("budget.trials=8",))
    assert trials(part) == trials(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": {"seeds": 1}}, "the verdict trains networks from scratch, and there are no data"),
        ({"strategy": {"type": "fbnet"}}, "shares weights"),
        (
            {"space": {"type": "fbnet", "stages": [[8, 1, 1]]}, "strategy": "fbnet"},
            "method 'fbnet' trains a supernet, and there are no data to train it on (task: null)",
        ),
        (
            {"estimators": ["params"]},
            "estimator 'params' measures networks on a task, and there is none (task: null)",
        ),
        ({"estimators": ["accuracy"]}, "estimator 'accuracy' measures networks on a task, and there is none"),
        ({"task": "digits"}, "space 'choices' has decisions and no networks. Write 'task: null'"),
    ],
)
def test_what_needs_a_task_is_refused_before_anything_runs(home, changes, message):
    if changes.get("estimators"):
        changes = {**changes, "objectives": ["params"]}
    assert message in refusal(home, **changes)


def test_estimators_that_are_left_out_are_asked_for(home):
    settings = {key: value for key, value in CONFIG.items() if key != "estimators"} | {"objectives": ["macs"]}
    with pytest.raises(ConfigError, match=r"estimators: \[\{type: function, path: train\.py:evaluate"):
        resolve(parse_config(settings), Host())


def test_a_network_that_is_asked_for_without_a_task_is_a_failed_trial_with_the_way_out(home):
    part = {"type": "function", "path": "train.py:outline", "metrics": "score"}
    with pytest.raises(ArchloomError):
        archloom.search(written(home, estimators=[part], max_failures=1), home / "run")
    assert "a network is asked for in a run without a task (task: null); name a task" in (
        (home / "run" / "log.jsonl").read_text()
    )


def test_its_decisions_are_no_network_to_build(home):
    folder = archloom.search(written(home), home / "run").folder
    with pytest.raises(ConfigError, match="comes from a search without a task"):
        archloom.build(folder)
    shown = CliRunner().invoke(app, ["info", str(folder)])
    assert "comes from a search without a task" in str(shown.exception)
    for words in (["retrain"], ["retrain", "--task", "digits"], ["evaluate"], ["export", "--format", "onnx"]):
        refused = CliRunner().invoke(app, [words[0], str(folder), *words[1:]])
        assert "architecture.json comes from a search without a task" in str(refused.exception), words


# -- the space ----------------------------------------------------------------------------------------


def space(choices: Any) -> Any:
    return resolve(parse_config({**CONFIG, "space": {"type": "choices", "choices": choices}}), HOST).space


HOST = Host([])


@pytest.fixture(autouse=True)
def _function(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HOST, "_functions", Host(["train.py:evaluate"])._functions)


def test_choices_may_be_ordered_and_conditional():
    made = space(
        {
            "kind": ["plain", "deep"],
            "depth": {"options": [2, 4, 8], "ordered": True, "when": {"kind": ["deep"]}},
        }
    )
    assert size(made) == 1 + 3
    assert made.choices[1].ordered
    assert not made.choices[1].active({"kind": "plain"})
    assert made.choices[1].active(Architecture({"kind": "deep"}))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "has none; write choices: "),
        ({"lr": ["1e-3", "1e-2"]}, "YAML reads 1e-3 as a text; as a number it needs a point: 1.0e-03"),
        ({"lr": {"option": [1]}}, "write a list of options, or"),
        ({"lr": {"options": [1, 2], "when": "kind"}}, "when is 'kind'"),
        ({"lr": 0.1}, "the options are a list"),
    ],
)
def test_choices_that_mean_nothing_are_refused(choices, message):
    with pytest.raises(SpaceError) as caught:
        space(choices)
    assert message in str(caught.value)
