"""A training function of the user's own, named in a configuration."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from archloom import trust
from archloom.comparing import compare
from archloom.comparing.config import read_comparison
from archloom.config import parse_config
from archloom.config_files import read_config
from archloom.errors import ArchloomError, ConfigError, PluginError, RunError, SearchError
from archloom.plugins import Host
from archloom.resolve import resolve
from archloom.session import resume, search

TRAIN = """
from scales import SCALE

calls = []


def evaluate(architecture, context):
    calls.append(architecture)
    return {"score": SCALE * architecture["a"] - architecture["b"] ** 2, "wait": 0.5 + context.seed % 7}


def alone(architecture):
    return architecture["a"]


def slow(architecture):
    import time

    time.sleep(600 if architecture["a"] == 2 and architecture["b"] == 0 else 0)
    return architecture["a"]
"""
SPACE = """
import archloom
from archloom.architecture import Choice
from torch import nn


class Pair:
    '''Two numbers.'''
    def __init__(self):
        self.choices = [Choice("a", (1, 2, 3, 4)), Choice("b", (0, 1, 2))]
    def build(self, architecture):
        return nn.Conv2d(1, architecture["a"], 1)


@archloom.hookimpl
def register_search_spaces(register):
    register("pair", Pair)
"""
CONFIG: dict[str, Any] = {
    "space": "pair",
    "task": {"type": "digits", "train_size": 64},
    "strategy": "grid",
    "estimators": [
        {
            "type": "function",
            "path": "train.py:evaluate",
            "metrics": {"score": "max", "wait": {"direction": "min", "unit": "s"}},
        }
    ],
    "objectives": ["score"],
    "budget": {"trials": 6},
    "verdict": {"seeds": 0},
    "observers": [],
    "plugins": ["pair.py"],
}


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "pair.py").write_text(SPACE)
    (folder / "train.py").write_text(TRAIN)
    (folder / "scales.py").write_text("SCALE = 10\n")
    return folder


def written(home: Path, **changes: Any) -> Path:
    (home / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return home / "config.yaml"


def function(path: str, **options: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "path": path, "metrics": "score", **options}]


def trials_of(folder: Path) -> list[tuple[Any, Any]]:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(e["architecture"], e["metrics"]) for e in events if e["event"] == "result"]


# -- a run with it ------------------------------------------------------------------------------------


def test_a_function_measures_each_architecture_and_its_file_goes_with_the_run(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file lies beside the configuration, and not here
    result = search(written(home), tmp_path / "run")
    assert len(result.trials) == 6
    for trial in result.trials:
        assert trial.metrics["score"] == 10 * trial.architecture["a"] - trial.architecture["b"] ** 2
        assert 0.5 <= trial.metrics["wait"] <= 6.5
    assert result.units["wait"] == "s"
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["estimators"][0]["path"] == "train.py:evaluate"
    (kept,) = [one for one in stored["plugins"] if one.endswith(":evaluate")]
    file = tmp_path / "run" / kept.partition(":")[0]
    assert file.read_text() == TRAIN
    assert (file.parent / "scales.py").read_text() == "SCALE = 10\n"


def test_a_run_goes_on_with_its_own_copy_from_anywhere_to_the_bit(home, tmp_path, monkeypatch):
    whole = search(written(home), tmp_path / "whole").folder
    run = search(written(home, budget={"trials": 3}), tmp_path / "run").folder
    moved = tmp_path / "moved"
    run.rename(moved)
    for file in home.iterdir():
        file.unlink()
    monkeypatch.chdir("/")
    resume(moved, overrides=("budget.trials=6",))
    assert trials_of(moved) == trials_of(whole)


def test_another_process_calls_it_too_and_ends_it_when_its_time_is_up(home, tmp_path):
    part = function("train.py:slow", timeout=3)
    result = search(written(home, estimators=part, budget={"trials": 4}), tmp_path / "run")
    reached = {trial.architecture["a"]: trial for trial in result.trials if trial.architecture["b"] == 0}
    assert reached[1].metrics["score"] == 1
    assert reached[2].status == "failed"
    assert re.search(r"estimator 'function' took longer than .* 3", reached[2].error)


def test_strategies_are_compared_by_it(home, tmp_path):
    told = {
        "space": "pair",
        "task": CONFIG["task"],
        "strategies": ["grid"],
        "estimators": function("train.py:alone", expense="counted"),
        "select": "score",
        "score": "score",
        "seeds": 2,
        "budget": {"trials": 12},
        "processes": 1,
        "plugins": ["pair.py"],
    }
    (home / "compare.yaml").write_text(yaml.safe_dump(told))
    comparison = read_comparison(home / "compare.yaml")
    result = compare(comparison, tmp_path / "compared", host=Host(comparison.shared.plugins))
    runs = [json.loads(line) for line in (tmp_path / "compared" / "runs.jsonl").read_text().splitlines()]
    ends = [run["incumbents"][-1]["metrics"] for run in runs if run.get("event") == "run"]
    assert ends == 4 * [{"score": 4.0}], result


# -- it is code ---------------------------------------------------------------------------------------


@pytest.fixture
def strangers_machine(tmp_path, monkeypatch):
    def enter() -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
        monkeypatch.setattr(trust, "_known", set())

    return enter


def test_a_strangers_function_runs_only_when_it_is_trusted(home, tmp_path, strangers_machine):
    run = search(written(home), tmp_path / "run").folder
    strangers_machine()
    with pytest.raises(PluginError, match=r"never ran on this machine.*--trust"):
        resume(run, overrides=("budget.trials=8",))
    assert len(resume(run, overrides=("budget.trials=8",), trust=True).trials) >= 8


@pytest.mark.parametrize("plugins", ["[]", "absent"])
def test_a_folder_cannot_name_a_function_past_its_plugin_files(home, tmp_path, strangers_machine, plugins):
    run = search(written(home), tmp_path / "run").folder
    strangers_machine()
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('it ran')\n")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["estimators"][0]["path"] = f"{evil}:evaluate"
    stored["plugins"] = []
    if plugins == "absent":
        del stored["plugins"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(PluginError, match=r"evil\.py.*never ran"):
        resume(run)


def test_a_function_that_was_changed_in_the_run_is_refused(home, tmp_path):
    run = search(written(home), tmp_path / "run").folder
    (kept,) = (run / "plugins").glob("*/scales.py")
    kept.write_text("SCALE = 11\n")
    with pytest.raises(PluginError, match="never ran on this machine"):
        resume(run)
    with pytest.raises(RunError, match=r"the plugin file train\.py:evaluate had another content"):
        resume(run, trust=True)


def test_a_change_of_the_original_is_said_and_the_copy_is_used(home, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("archloom"), "propagate", True)
    run = search(written(home, budget={"trials": 2}), tmp_path / "run").folder
    (home / "scales.py").write_text("SCALE = 11\n")
    result = resume(run, overrides=("budget.trials=4",))
    assert f"{home / 'train.py'} was changed since; the copy in" in caplog.text
    for trial in result.trials:
        assert trial.metrics["score"] == 10 * trial.architecture["a"] - trial.architecture["b"] ** 2


def test_a_plugin_file_that_is_named_on_resume_leaves_the_run_its_function(home, tmp_path):
    run = search(written(home, budget={"trials": 2}), tmp_path / "run").folder
    overrides = (f'plugins=["{home / "pair.py"}"]', "budget.trials=3")
    assert len(resume(run, overrides=overrides).trials) == 3


# -- errors that teach --------------------------------------------------------------------------------


def made(text: str, home: Path, **options: Any) -> Any:
    (home / "own.py").write_text(text)
    config = read_config(written(home, estimators=function("own.py:f", **options)))
    return resolve(config, Host(config.plugins))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def g(architecture): ...\ndef ff(a): ...",
            r"own\.py has no function 'f'; did you mean 'ff'\? It has: g, ff",
        ),
        ("f = 3", r"'f' in .*own\.py is a int, no function"),
        ("def f(): ...", r"'own\.py:f' takes \(nothing\); it is called as function\(architecture, context\)"),
        ("def f(a, b, c): ...", r"'own\.py:f' takes \(a, b, c\)"),
        ("def f(a, *, lr): ...", r"'own\.py:f' takes \(a, lr\)"),
        ("import no_such_thing", r"own\.py failed: ModuleNotFoundError: .*'no_such_thing' \(.*own\.py:1\)"),
    ],
)
def test_a_file_without_such_a_function_is_refused_before_anything_runs(home, text, message):
    with pytest.raises(ArchloomError, match=message):
        made(text, home)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.py:f", r"there is no file .*mine/gone\.py, whose function 'f' is asked for"),
        ("train.py", r"'train\.py' names no function; write file\.py:function or package\.module:function"),
        (
            "statistics:fmean",
            r"an installed package, which may be any; name it .*plugins: \['statistics:fmean'\]",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(home, path, message):
    config = written(home, estimators=function(path))
    with pytest.raises(ArchloomError, match=message):
        search(config, home / "run")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("no_such_package.train:f", "there is no module no_such_package, of which a function is asked for"),
        ("json.no_such:f", r"there is no module json\.no_such"),
        ("itertools:chain", "itertools is not written in Python"),
        ("statistics:no_such", r"statistics\.py has no function 'no_such'"),
    ],
)
def test_an_installed_function_that_is_not_there_is_refused(entry, message):
    with pytest.raises(PluginError, match=message):
        Host([entry])


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "house_of_mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "train.py").write_text("def f(a):\n    return a['a']\n\n\ndef g(a):\n    return -a['a']\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield folder
    for name in ("house_of_mine.train", "house_of_mine"):
        sys.modules.pop(name, None)


def test_a_function_of_an_installed_package_is_named_among_the_plugins_and_not_copied(
    home, package, tmp_path, strangers_machine
):
    entry = "house_of_mine.train:f"
    changes = {"estimators": function(entry), "plugins": ["pair.py", entry]}
    run = search(written(home, **changes), tmp_path / "run").folder
    assert entry in yaml.safe_load((run / "config.yaml").read_text())["plugins"]
    assert len(list((run / "plugins").glob("*/*.py"))) == 1
    assert len(resume(run, overrides=("budget.trials=7",)).trials) == 7
    (package / "train.py").write_text("def f(a):\n    return 2 * a['a']\n")
    with pytest.raises(RunError, match=r"the plugin file house_of_mine\.train:f had another content"):
        resume(run, trust=True)


def test_a_strangers_run_calls_no_other_function_of_what_is_installed_or_known(home, package, tmp_path):
    run = search(written(home), tmp_path / "run").folder
    for path in ("subprocess:run", "house_of_mine.train:g"):
        stored = yaml.safe_load((run / "config.yaml").read_text())
        stored["estimators"][0]["path"] = path
        stored["plugins"] = [one for one in stored["plugins"] if "pair" in one]
        (run / "config.yaml").write_text(yaml.safe_dump(stored))
        with pytest.raises(ConfigError, match="name it among the plugins too"):
            resume(run)
        stored["plugins"].append(path)
        (run / "config.yaml").write_text(yaml.safe_dump(stored))
        with pytest.raises(PluginError, match="never ran on this machine"):
            resume(run)
    assert "house_of_mine" not in sys.modules, "it was not even imported"


def test_two_files_of_one_name_are_refused():
    parts = [*function("a/own.py:f"), *function("b/own.py:f", metrics="other")]
    with pytest.raises(ConfigError, match=r"'a/own\.py:f' and 'b/own\.py:f' are two files of one name"):
        parse_config({**CONFIG, "estimators": parts})


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("def f(a): return 'high'", {}, r"own\.py:f returned 'high', not a number for score"),
        ("def f(a): return None", {}, r"own\.py:f returned None, not a number for score"),
        ("def f(a): return 1", {"metrics": ["score", "loss"]}, r"returned 1, not a mapping with score, loss"),
        ("def f(a): return {'scores': 1}", {}, r"returned scores, and not score \('scores' is there\)"),
        ("def f(a): return {'score': 'high'}", {}, r"returned 'high' for score, not a number"),
        ("def f(a): return {'score': float('nan')}", {}, r"score is nan, not a number to compare"),
        ("def f(a): raise ValueError('no')", {}, r"function: ValueError: no"),
    ],
)
def test_what_it_returns_must_be_what_was_declared(home, tmp_path, text, options, message):
    (home / "own.py").write_text(text)
    config = written(home, estimators=function("own.py:f", **options), max_failures=1)
    with pytest.raises(SearchError):
        search(config, tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (error,) = [event["error"] for event in events if event["event"] == "result"]
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("metrics", "declared"),
    [
        ("score", [("score", "1", "max")]),
        (["score", "f1"], [("score", "1", "max"), ("f1", "1", "max")]),
        ({"score": "maximize", "loss": "minimize"}, [("score", "1", "max"), ("loss", "1", "min")]),
        ({"score": {"direction": "min", "unit": "ms"}}, [("score", "ms", "min")]),
        ({"score": {"unit": "%"}}, [("score", "%", "max")]),
    ],
)
def test_metrics_are_written_as_briefly_as_they_can_be(home, metrics, declared):
    resolved = made("def f(a): ...", home, metrics=metrics)
    assert [(m.name, m.unit, m.direction) for m in resolved.metrics.values()] == declared


def test_the_shortest_form_measures_one_number_called_as_the_function_is(home, tmp_path):
    (home / "own.py").write_text("def evaluate(architecture):\n    return architecture['a']\n")
    parts = [{"type": "function", "path": "own.py:evaluate"}]
    result = search(written(home, estimators=parts, objectives=["evaluate"]), tmp_path / "run")
    assert result.architecture is not None
    assert result.architecture["a"] == max(trial.metrics["evaluate"] for trial in result.trials)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"score": "up"}, "the direction of 'score' is 'up'; write max or min"),
        ({"score": 3}, "metric 'score' is 3; write max, min, or"),
        ({"score": {"units": "ms"}}, "write max, min, or"),
        ({}, "needs its metrics"),
    ],
)
def test_metrics_that_mean_nothing_are_refused(home, metrics, message):
    with pytest.raises(ConfigError, match=message):
        made("def f(a): ...", home, metrics=metrics)


def test_a_number_may_be_numpys_or_pytorchs(home, tmp_path):
    text = "import torch, numpy\ndef f(a): return torch.tensor(2.5) if a['a'] > 2 else numpy.float32(2.5)"
    (home / "own.py").write_text(text)
    result = search(written(home, estimators=function("own.py:f")), tmp_path / "run")
    assert {trial.metrics["score"] for trial in result.trials} == {2.5}


def takes(text: str, home: Path) -> bool:
    (estimator,) = made(text, home).estimators
    return bool(estimator._takes_context)


@pytest.mark.parametrize(
    ("signature", "context"),
    [("a", False), ("a, c", True), ("a, context=None", True), ("a, lr=0.1", False), ("a, *, lr=0.1", False)],
)
def test_the_context_is_given_to_those_who_ask_for_it(home, signature, context):
    assert takes(f"def f({signature}): ...", home) is context


def test_a_counted_function_decides_a_constraint_and_a_trained_one_spends_epochs(home, tmp_path):
    (home / "own.py").write_text("def size(a): return {'size': a['a']}\ndef f(a): return {'score': a['b']}\n")
    counted = function("own.py:size", metrics={"size": "min"}, expense="counted")
    trained = function("own.py:f", epochs=3)
    config = written(home, estimators=[*trained, *counted], constraints=["size <= 2"], budget={"epochs": 9})
    result = search(config, tmp_path / "run")
    measured = [trial for trial in result.trials if trial.source is None and trial.status == "ok"]
    assert sum(trial.cost["epochs"] for trial in measured) == 9.0
    for trial in result.trials:
        assert (trial.status == "infeasible") == (trial.architecture["a"] > 2)
