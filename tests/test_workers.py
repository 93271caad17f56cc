"""Measuring in other processes: what a worker's death, its slowness or its exceptions leave of a search."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import archloom
import toys
from archloom.config import parse_config
from archloom.errors import ConfigError, PluginError
from archloom.plugins import Host
from archloom.processes import RemoteError

PLUGIN = """
import os, signal, time
import archloom, toys
from archloom.estimator import STATIC, Metric


class Cannot(Exception):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} was {number}")


class Rough:
    '''The sum of the digits, on a machine that some architectures do not agree with.'''

    metrics, expense, needs = (Metric("sum", "1", "max"),), STATIC, ()

    def __init__(self, *, log: str = "", kills: int = -1, hangs: int = -1, odd: int = -1) -> None:
        self.log, self.kills, self.hangs, self.odd = log, kills, hangs, odd

    def estimate(self, architecture, context):
        total = sum(architecture.values())
        with open(self.log, "a", encoding="utf-8") as file:
            print(total, file=file)
        if total == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if total == self.hangs:
            time.sleep(60)
        if total == self.odd:
            raise Cannot("momentum", 7)
        return {"sum": float(total)}


@archloom.hookimpl
def register_search_spaces(register):
    register("digit_space", toys.Digits)


@archloom.hookimpl
def register_estimators(register):
    register("rough", Rough)
"""


@pytest.fixture
def rough(tmp_path):
    """Configurations of a grid over four architectures, of the sums 0 to 3, measured by `Rough`."""
    plugin = tmp_path / "rough.py"
    plugin.write_text(PLUGIN, encoding="utf-8")

    def configured(options: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return toys.config(
            space={"type": "digit_space", "length": 1},
            strategy="grid",
            estimators=[{"type": "rough", "log": str(tmp_path / "measured"), **options}],
            budget={},
            threads=1,
            plugins=[str(plugin)],
            **changes,
        )

    return configured


def outcomes(result: archloom.Result) -> dict[int, str]:
    return {sum(trial.architecture.values()): trial.status for trial in result.trials}


def test_a_search_ends_with_the_others_where_one_kills_its_worker_and_one_never_ends(rough, tmp_path, capfd):
    result = archloom.search(rough({"odd": 0, "kills": 1, "hangs": 2, "timeout": 1}), tmp_path / "run")
    assert outcomes(result) == {0: "failed", 1: "failed", 2: "failed", 3: "ok"}
    assert result.architecture == toys.digits(3)
    raised, killed, late = (trial for trial in result.trials if trial.status == "failed")
    assert raised.error == "rough: Cannot: momentum was 7"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("Cannot: momentum was 7") == log.count("Traceback") == 1
    assert "Traceback" not in "".join(capfd.readouterr())
    assert "was killed by SIGKILL" in str(killed.error)
    assert "estimator 'rough', in each of two tries" in str(killed.error)
    assert late.error == "estimator 'rough' took longer than its timeout of 1 seconds"
    assert late.cost["seconds"] >= 1
    measured = (tmp_path / "measured").read_text().split()
    assert sorted(measured) == ["0", "1", "1", "2", "3"], "two tries of what kills, one of what is late"
    resumed = archloom.resume(tmp_path / "run", overrides=("estimators.0.timeout=30",))
    assert [trial.to_json() for trial in resumed.trials] == [trial.to_json() for trial in result.trials]
    assert (tmp_path / "measured").read_text().split() == measured, "a resumed run measured something again"


def test_a_strict_search_ends_with_the_worker_s_own_exception(rough, tmp_path):
    with pytest.raises(RemoteError, match="Cannot: momentum was 7"):
        archloom.search(rough({"odd": 1}, workers=2, strict=True), tmp_path / "run")


def test_timeouts_are_checked_where_they_are_given(rough, tmp_path):
    for timeout in (0, -1, "soon", float("inf")):
        with pytest.raises(ConfigError, match="timeout"):
            archloom.search(rough({"timeout": timeout}), tmp_path / "run")
    shared = toys.config(
        space="blocks",
        method={"type": "fbnet", "epochs": 1},
        strategy="random",
        estimators=[{"type": "inherited_accuracy", "timeout": 5}],
        objectives=["accuracy.inherited"],
    )
    with pytest.raises(ConfigError, match="uses this process's supernet; leave every timeout out"):
        archloom.search(shared, tmp_path / "run", host=toys.host())
    assert not (tmp_path / "run").exists()


def test_a_timeout_is_no_option_and_no_part_of_a_run_s_identity():
    with_one = parse_config(toys.config(estimators=[{"type": "additive", "timeout": 20}]))
    without = parse_config(toys.config())
    assert (with_one.estimators[0].timeout, with_one.estimators[0].options) == (20, {})
    assert with_one.model_dump(mode="json")["estimators"] == [{"type": "additive", "timeout": 20}]
    assert with_one.identity() == without.identity()


def test_an_option_cannot_bear_the_name_of_a_configuration_s_own_key():
    class Plugin:
        @archloom.hookimpl
        def register_estimators(self, register: Any) -> None:
            register("patient", lambda *, timeout: None)

    with pytest.raises(PluginError, match="an option cannot be called 'timeout'"):
        Host().add(Plugin(), "patient", "someone", "1.0")


PLAIN = {
    "space": {"type": "fbnet", "stages": [[8, 2, 1]], "in_channels": 1},
    "strategy": "random",
    "objectives": ["macs"],
    "budget": {"trials": 4},
    "verdict": {"seeds": 0},
    "observers": [],
    "workers": 2,
}


def test_a_script_without_a_main_guard_starts_one_run_and_is_told_of_the_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import archloom\n\narchloom.search({PLAIN!r})\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert done.stderr.count("Traceback") == 1, "a worker printed a stack of its own"
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    assert len(list((tmp_path / "runs").iterdir())) == 1
