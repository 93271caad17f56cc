"""Whatever is done to a run, in whatever order, it ends as one that was left alone, or says why it does not go on."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import archloom
from archloom import eventlog, locking
from archloom.errors import RunError
from test_run_folders import Reading, files
from toys import comparable, config, host

PLUGINS = host(Reading())
DEAD = {"host": "here", "pid": 2**22 + 1, "since": "2026-01-01 00:00:00", "born": "1", "token": "t"}


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(write: int, share: float) -> Iterator[None]:
    """End the process in the given write to the log or to its checksums, of which that share gets through."""
    real, left = eventlog._write, [write]

    def end(file: Any, data: bytes) -> None:
        left[0] -= 1
        if left[0] > 0:
            real(file, data)
            return
        file.write(data[: round(share * len(data))])
        raise Killed

    with mock.patch.object(eventlog, "_write", end), suppress(Killed):
        yield


class Runs(RuleBasedStateMachine):
    """One run folder, and what befalls it."""

    @initialize(strategy=st.sampled_from(["random", "evolution"]))
    def start(self, strategy: str) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.folder, self.sheet = self.home / "run", self.home / "sheet.txt"
        self.sheet.write_text("1.5")
        part = (
            {"type": "evolution", "population": 2, "tournament": 1} if strategy == "evolution" else strategy
        )
        self.config = config(
            strategy=part,
            estimators=[{"type": "sheet", "path": str(self.sheet)}],
            objectives=["sheet"],
            budget={"trials": 4},
        )
        self.whole = self.search(self.home / "whole")

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)

    def search(self, folder: Path) -> list[dict[str, Any]]:
        return [comparable(trial) for trial in archloom.search(self.config, folder, host=PLUGINS).trials]

    @property
    def begun(self) -> bool:
        log = self.folder / "log.jsonl"
        return log.exists() and b"\n" in log.read_bytes()

    def act(self, go: Callable[[], Any]) -> None:
        """Begin the run or go on with it, as a user does who does not know how far it came."""
        found = go()
        assert [comparable(trial) for trial in found.trials] == self.whole

    def refused(self, go: Callable[[], Any], match: str) -> None:
        before = {name: data for name, data in files(self.folder).items() if name != "log.txt"}
        with pytest.raises(RunError, match=match):
            go()
        after = {name: data for name, data in files(self.folder).items() if name != "log.txt"}
        assert {k: v for k, v in after.items() if k in before} == {k: before[k] for k in after if k in before}

    @precondition(lambda self: self.sheet.read_text() == "1.5")
    @rule(write=st.integers(1, 32), share=st.sampled_from([0.0, 0.3, 1.0]), dead=st.booleans())
    def work_and_die(self, write: int, share: float, dead: bool) -> None:
        with killed_at(write, share):
            self.resume_or_search()
        if dead:  # a process that is killed at once gives nothing back
            self.folder.mkdir(exist_ok=True)
            record = {**DEAD, "machine": locking._machine(), "processes": locking._process_names()}
            (self.folder / ".lock").write_text(json.dumps(record))
            (self.folder / f".config.yaml.{DEAD['pid']}").write_text("half of")

    def resume_or_search(self) -> Any:
        if self.begun:
            return archloom.resume(self.folder, host=PLUGINS)
        return archloom.search(self.config, self.folder, host=PLUGINS)

    @precondition(lambda self: self.sheet.read_text() == "1.5")
    @rule()
    def work_to_the_end(self) -> None:
        self.act(self.resume_or_search)
        assert not list(self.folder.glob(".*"))

    @precondition(lambda self: self.begun)
    @rule(cut=st.integers(1, 400))
    def lose_the_end_of_the_log(self, cut: int) -> None:
        log = self.folder / "log.jsonl"
        first = log.read_bytes().index(b"\n") + 1
        data = log.read_bytes()
        log.write_bytes(data[: max(first, len(data) - cut)])

    @precondition(lambda self: (self.folder / "log.sums").exists())
    @rule(kept=st.integers(0, 200))
    def lose_checksums(self, kept: int) -> None:
        sums = self.folder / "log.sums"
        sums.write_bytes(sums.read_bytes()[:kept])

    @rule(scale=st.sampled_from(["1.5", "2.5"]))
    def change_the_file(self, scale: str) -> None:
        self.sheet.write_text(scale)

    @precondition(lambda self: self.begun)
    @rule(how=st.sampled_from(["file", "setting", "start", "line"]), line=st.integers(0, 12))
    def be_refused(self, how: str, line: int) -> None:
        same = self.sheet.read_text() == "1.5"
        resume = lambda *words: archloom.resume(self.folder, overrides=words, host=PLUGINS)
        if how == "start":
            self.refused(
                lambda: archloom.search(self.config, self.folder, host=PLUGINS), "already holds a run"
            )
        elif how == "line" and same:
            self.be_refused_a_doubled_line(line)
        elif how == "setting" and same:
            self.refused(lambda: resume("seed=1"), "holds another run.*seed: then 0, now 1")
        elif not same:
            self.refused(resume, "had another content")

    def be_refused_a_doubled_line(self, line: int) -> None:
        log = self.folder / "log.jsonl"
        sound, sums = log.read_bytes(), (self.folder / "log.sums").read_bytes()
        lines = [one for one in sound.splitlines(keepends=True) if one.endswith(b"\n")]
        line %= len(lines)
        if any(word in lines[line] for word in (b'"start"', b'"end"', b'"number": null')):
            return  # these may come twice
        log.write_bytes(b"".join([*lines[: line + 1], *lines[line:]]))
        self.refused(lambda: archloom.resume(self.folder, host=PLUGINS), rf"log\.jsonl, line {line + 2}, ")
        log.write_bytes(sound)
        (self.folder / "log.sums").write_bytes(sums)

    @invariant()
    def what_the_log_has_is_of_the_undisturbed_run(self) -> None:
        if not hasattr(self, "whole") or not self.begun:
            return
        complete = (self.folder / "log.jsonl").read_bytes().split(b"\n")[:-1]
        for event in map(json.loads, complete):
            if event["event"] == "result":
                mine = self.whole[event["number"]]
                assert (event["architecture"], event["metrics"]) == (mine["architecture"], mine["metrics"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page and the commit are other tests' matter, and slow."""
    monkeypatch.setattr("archloom.session.finishing.write_report", lambda folder: None)
    monkeypatch.setattr("archloom.environment.commit", lambda: None)


def test_a_run_survives_any_sequence_of_searches_kills_changes_and_resumes():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=15,
            stateful_step_count=10,
            phases=[Phase.generate],
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
