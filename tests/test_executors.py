"""Executors: named in the configuration, registered by whoever likes, and of no consequence for the trials."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest

import archloom
import toys
from archloom.config import parse_config
from archloom.defaults import executor_of
from archloom.errors import ConfigError, PluginError, RunError, SpaceError, UnknownName
from archloom.measuring import Here
from archloom.plugins import Host
from archloom.recording import Recorded, shared
from archloom.resolve import completed, resolve
from archloom.session.opening import read_stored

# -- the configuration ----------------------------------------------------------------------------------


HOST = toys.host()


def measured_by(**keys: Any) -> Any:
    return executor_of(parse_config(toys.config(**keys)), HOST).model_dump()


def test_without_an_executor_one_process_measures_here_and_several_are_workers():
    assert measured_by() == measured_by(workers=1) == measured_by(executor="here") == {"type": "here"}
    three = {"type": "processes", "workers": 3}
    assert measured_by(workers=3) == measured_by(executor=three) == three
    assert measured_by(workers=3, executor=three) == measured_by(workers=3, executor="processes") == three
    timed = measured_by(estimators=[{"type": "additive", "timeout": 5}])
    assert timed == {"type": "processes", "workers": 1}


def test_two_numbers_of_workers_are_refused_by_both_names():
    with pytest.raises(ConfigError, match=r"executor\.workers is 2 and workers is 3; keep one"):
        parse_config(toys.config(workers=3, executor={"type": "processes", "workers": 2}))


def test_the_executor_is_part_of_the_identity_by_its_workers_alone():
    plain, window = parse_config(toys.config()), parse_config(toys.config(window=3))
    three = [
        parse_config(toys.config(workers=3)),
        parse_config(toys.config(executor={"type": "processes", "workers": 3})),
        parse_config(toys.config(executor={"type": "processes", "workers": 3}, window=2)),
        parse_config(toys.config(executor={"type": "somebody's", "workers": 3})),
    ]
    assert {str(one.identity()) for one in three} == {str(window.identity())} != {str(plain.identity())}
    assert parse_config(toys.config(executor="processes")).identity() == plain.identity()


class Crowd:
    """Measures here, and says that it can do so four times at once."""

    def __init__(self, measure: Any, *, workers: int = 4) -> None:
        self.inner, self.workers = Here(measure), workers
        self.submit = self.inner.submit

    def close(self) -> None:
        pass


class Crowds:
    @archloom.hookimpl
    def register_executors(self, register: Any) -> None:
        register("crowd", Crowd)


def test_the_default_workers_of_an_executor_count_as_if_they_were_written():
    host = toys.host(Crowds())
    short = completed(parse_config(toys.config(executor="crowd")), host)
    assert short.executor is not None
    assert short.executor.options == {"workers": 4}
    assert short.open_trials == 4
    assert short.identity() == completed(parse_config(toys.config(window=4)), host).identity()


def test_a_run_is_stored_as_it_was_written_and_resumes_under_other_workers(tmp_path):
    config = toys.config(window=2, observers=[], budget={"trials": 3})
    first = archloom.search(config, tmp_path, host=toys.host())
    assert (read_stored(tmp_path)["workers"], read_stored(tmp_path)["executor"]) == (None, None)
    more = archloom.resume(
        tmp_path, overrides=("executor=crowd", "workers=2", "budget.trials=5"), host=toys.host(Crowds())
    )
    assert [t.to_json() for t in more.trials[:3]] == [t.to_json() for t in first.trials]
    assert len(more.trials) == 5
    with pytest.raises(RunError, match="window: then 2, now 4"):
        archloom.resume(tmp_path, overrides=("executor.workers=4", "workers=null"), host=toys.host(Crowds()))


def test_a_run_of_an_older_version_which_stored_its_one_worker_resumes(tmp_path):
    archloom.search(toys.config(observers=[], budget={"trials": 2}), tmp_path, host=toys.host())
    stored = tmp_path / "config.yaml"
    text = stored.read_text()
    assert text.count("executor: null\nworkers: null\n") == 1
    stored.write_text(text.replace("executor: null\nworkers: null\n", "workers: 1\n"))
    more = archloom.resume(tmp_path, overrides=("budget.trials=4",), host=toys.host())
    assert len(more.trials) == 4


# -- what is refused ------------------------------------------------------------------------------------


def test_an_unknown_executor_names_the_nearest():
    with pytest.raises(UnknownName, match=r"executor 'proceses'.*'processes'"):
        resolve(parse_config(toys.config(executor="proceses")), toys.host())
    with pytest.raises(ConfigError, match="has no option 'worker'; did you mean 'workers'"):
        resolve(parse_config(toys.config(executor={"type": "processes", "worker": 2})), toys.host())
    with pytest.raises(ConfigError, match=r"'workers' = 0: .*greater than or equal to 1"):
        resolve(parse_config(toys.config(executor={"type": "processes", "workers": 0})), toys.host())


SHARED = toys.config(
    space="blocks",
    method={"type": "fbnet", "epochs": 1},
    strategy="random",
    estimators=["inherited_accuracy"],
    objectives=["accuracy.inherited"],
    verdict={"seeds": 0},
)


@pytest.mark.parametrize(
    ("change", "way_out"),
    [
        ({"executor": {"type": "processes", "workers": 1}}, "measure in this process: executor 'here'"),
        ({"executor": "crowd"}, "measure in this process: executor 'here'"),
        ({"workers": 2}, "set workers to 1"),
    ],
)
def test_a_supernet_s_weights_are_used_where_they_are(change, way_out):
    with pytest.raises(ConfigError, match=f"'inherited_accuracy' uses this process's supernet; {way_out}"):
        resolve(parse_config(SHARED | change), toys.host(Crowds()))


def test_a_timeout_wants_an_executor_that_can_end_an_estimate():
    timed = toys.config(estimators=[{"type": "additive", "timeout": 5}], executor="here")
    with pytest.raises(ConfigError, match=r"'here' cannot end an estimate; .*executor 'processes'"):
        resolve(parse_config(timed), toys.host())


def test_a_word_that_no_executor_offers_is_refused_when_it_registers():
    class Plugin:
        @archloom.hookimpl
        def register_executors(self, register: Any) -> None:
            register("wide", type("Wide", (Crowd,), {"offers": ("supernets",)}))

    with pytest.raises(PluginError, match=r"offers 'supernets'.*did you mean 'supernet'"):
        toys.host(Plugin())


def test_an_executor_that_lacks_a_verb_is_refused_with_its_name(tmp_path):
    class Plugin:
        @archloom.hookimpl
        def register_executors(self, register: Any) -> None:
            register("mute", lambda measure: object())

    with pytest.raises(
        PluginError, match=r"executor 'mute' of .* lacks workers, submit, close; an executor has"
    ):
        archloom.search(toys.config(executor="mute"), tmp_path / "run", host=toys.host(Plugin()))


def test_more_workers_than_open_trials_are_warned_of(tmp_path, caplog):
    class Plugin:
        @archloom.hookimpl
        def register_executors(self, register: Any) -> None:
            register("crowd", lambda measure: Crowd(measure, workers=7))

    archloom.search(toys.config(executor="crowd", observers=[]), tmp_path / "run", host=toys.host(Plugin()))
    assert "7 measurements at once, and at most 1 trials are open" in caplog.text


# -- recorded values ------------------------------------------------------------------------------------


def ask(recorded: Recorded, folder: str, name: str, how: str) -> Any:
    """What another process does: it notes that it measures, and may die of it."""

    def measure() -> Any:
        with (Path(folder) / "measured").open("a") as file:
            print(name, file=file)
        time.sleep(0.2)
        if how == "dies":
            os._exit(9)
        if how == "raises":
            raise ValueError("no thermometer")
        return {"ms": [1.5, float("inf")], "by": how}

    return recorded(name, measure)


def asked(recorded: Recorded, folder: Path, *hows: str) -> list[Any]:
    """Several processes ask for one value at once."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=ask, args=(recorded, str(folder), "table", how), daemon=True) for how in hows
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_a_value_is_measured_once_whoever_asks_and_read_by_all(tmp_path):
    with shared(tmp_path) as recorded:
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(ask(recorded, str(tmp_path), "t", "well")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [{"ms": [1.5, float("inf")], "by": "well"}] * 4
    assert (tmp_path / "measured").read_text() == "t\n"
    with shared(tmp_path) as later:  # the run goes on
        assert later("t", lambda: 0) == found[0]
    with pytest.raises(RunError, match="nobody keeps the run's recorded values"):
        recorded("t", lambda: 0)


def test_where_a_process_dies_as_it_measures_the_next_one_measures(tmp_path):
    with shared(tmp_path) as recorded:
        assert asked(recorded, tmp_path, "dies", "dies") == [9, 9], "the second waited, and measured then"
        assert asked(recorded, tmp_path, "well") == [0]
        assert recorded("table", lambda: 0)["by"] == "well"
    assert (tmp_path / "measured").read_text() == "table\n" * 3


def test_where_measuring_raises_the_asker_has_the_exception_and_the_next_one_measures(tmp_path):
    with shared(tmp_path) as recorded:
        with pytest.raises(ValueError, match="no thermometer"):
            ask(recorded, str(tmp_path), "t", "raises")
        assert ask(recorded, str(tmp_path), "t", "well")["by"] == "well"


def test_a_moment_without_a_free_file_costs_whoever_asks_a_moment(tmp_path, monkeypatch):
    class Full(Listener):
        refused = 0

        def accept(self) -> Any:
            if self.refused == 0:
                self.refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr("archloom.recording.Listener", Full)
    with shared(tmp_path) as recorded:
        assert recorded("t", lambda: 4) == 4


def test_one_value_may_be_made_of_another(tmp_path):
    with shared(tmp_path) as recorded:
        assert recorded("sum", lambda: 1 + recorded("part", lambda: 2)) == 3


def test_a_damaged_value_is_said_to_whoever_asks(tmp_path):
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "t.json").write_text("{")
    with shared(tmp_path) as recorded, pytest.raises(RunError, match=r"t\.json is damaged; delete it"):
        recorded("t", lambda: 0)


# -- what a stranger gets wrong -------------------------------------------------------------------------

BROKEN = """
from concurrent.futures import Future

import archloom


class Pool:
    def __init__(self, measure, *, wrong: str = "") -> None:
        self.measure, self.workers, self.wrong = measure, 1, wrong
        if wrong == "constructor raises":
            raise RuntimeError("no cluster here")
        if wrong == "no workers":
            del self.workers
        elif wrong.startswith("workers = "):
            self.workers = eval(wrong.removeprefix("workers = "))

    def submit(self, architecture, seed):
        if self.wrong == "submit raises":
            raise OSError("the queue is full")
        outcome, future = self.measure(architecture, seed), Future()
        if self.wrong in ("none", "outcome"):
            return None if self.wrong == "none" else outcome
        if self.wrong == "cancelled":
            future.cancel()
        elif self.wrong == "future raises":
            future.set_exception(OSError("the node is gone"))
        else:
            future.set_result(None if self.wrong == "future of none" else outcome)
        return future

    def close(self):
        if self.wrong == "close raises":
            raise OSError("the queue does not answer")


@archloom.hookimpl
def register_executors(register):
    register("pool", Pool)
"""


def pooled(folder: Path, **changes: Any) -> tuple[dict[str, Any], Host]:
    """A configuration whose executor is the file's, and the plugins with that file."""
    plugin = folder / "pool.py"
    plugin.write_text(BROKEN, encoding="utf-8")
    host = Host([plugin])
    host.add(toys.ToyPlugin(), "toys", "the toys", "-")
    return toys.config(plugins=[str(plugin)], **changes), host


MUST = "it must give a concurrent.futures.Future of an archloom.Outcome"
SAID = {
    "none": f"gave a NoneType from submit; {MUST}",
    "outcome": f"gave an Outcome from submit; {MUST}",
    "future of none": f"gave a Future of a NoneType from submit; {MUST}",
    "cancelled": "cancelled a future that the search waits for",
    "submit raises": "raised OSError from submit: the queue is full",
    "future raises": "raised OSError in the future of a measurement: the node is gone",
    "constructor raises": "raised RuntimeError as it was made: no cluster here",
    "no workers": "lacks workers; an executor has workers, submit and close",
    "workers = 0": "has workers = 0; ",
    "workers = True": "has workers = True; ",
    "workers = 1.5": "has workers = 1.5; ",
}


@pytest.mark.parametrize("wrong", SAID)
def test_what_is_wrong_with_an_executor_is_said_with_its_name_and_the_run_goes_on_without_it(tmp_path, wrong):
    config, host = pooled(tmp_path, executor={"type": "pool", "wrong": wrong})
    run = tmp_path / "run"
    with pytest.raises(PluginError) as said:
        archloom.search(config, run, host=host)
    assert str(said.value).startswith(f"executor 'pool' of file pool.py {SAID[wrong]}")
    assert f"go on with: archloom resume {run}" in str(said.value)
    if wrong in ("future raises", "workers = 0"):
        assert len(archloom.resume(run, overrides=("executor=here",), host=host).trials) == 6


def test_what_is_no_future_is_refused_before_it_is_waited_for(tmp_path):
    config, host = pooled(tmp_path, executor={"type": "pool", "wrong": "none"}, order="completion", window=2)
    with pytest.raises(PluginError, match=r"executor 'pool' of file pool.py gave a NoneType from submit"):
        archloom.search(config, tmp_path / "run", host=host)


def test_an_executor_that_cannot_be_closed_costs_a_warning_and_no_result(tmp_path):
    config, host = pooled(tmp_path, executor={"type": "pool", "wrong": "close raises"})
    said = (
        "executor 'pool' of file pool.py raised OSError from close: the queue does not answer. What it measured is "
        "kept; it may have left processes"
    )
    with pytest.warns(UserWarning, match=re.escape(said)):
        result = archloom.search(config, tmp_path / "run", host=host)
    assert len(result.trials) == 6
    assert (tmp_path / "run" / "result.json").exists()
    assert said in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


class Explodes(toys.Additive):
    """Its estimates raise what they are told to."""

    raises: type[BaseException] = ValueError

    def estimate(self, architecture: Any, context: Any) -> Any:
        raise self.raises("no data")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_a_strict_estimator_raises_and_ctrl_c_pass_an_executor_as_they_are(tmp_path, kind):
    class Plugin:
        @archloom.hookimpl
        def register_estimators(self, register: Any) -> None:
            register("explodes", type("Explodes", (Explodes,), {"raises": kind}))

    config, host = pooled(tmp_path, executor="pool", estimators=["explodes"], strict=True)
    host.add(Plugin(), "explodes", "explodes", "-")
    with pytest.raises(kind, match="no data"):
        archloom.search(config, tmp_path / "run", host=host)


def test_what_a_space_s_rule_raises_is_the_space_s_and_not_the_executor_s(tmp_path):
    class Ruled(toys.Digits):
        def violations(self, architecture: Any) -> list[str]:
            if sum(architecture.values()):  # that of zeros is looked at before the search
                raise KeyError("d9")
            return []

    class Plugin:
        @archloom.hookimpl
        def register_search_spaces(self, register: Any) -> None:
            register("ruled", Ruled)

    config, host = pooled(tmp_path, executor="pool", space="ruled")
    host.add(Plugin(), "ruled", "ruled", "-")
    with pytest.raises(SpaceError, match=r"class Ruled raised KeyError from violations of .*: 'd9'"):
        archloom.search(config, tmp_path / "run", host=host)


def test_an_option_workers_of_any_executor_is_at_least_one(tmp_path):
    config = toys.config(executor={"type": "crowd", "workers": 0})
    with pytest.raises(
        ConfigError, match=r"executor 'crowd': option 'workers' = 0: .*greater than or equal to 1"
    ):
        archloom.search(config, tmp_path / "run", host=toys.host(Crowds()))
    assert not (tmp_path / "run").exists()


# -- a stranger's ---------------------------------------------------------------------------------------

STRANGER = """
import os, signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import archloom, toys
from archloom.estimator import FULL, STATIC, Metric
from archloom.processes import end_with_the_parent


class Pool:
    '''Python's own pool of processes; the search itself is killed at one of its submissions.'''

    def __init__(self, job, *, workers: int = 2, kill_at: int = -1) -> None:
        self.job, self.workers, self.kill_at, self.submitted = job, workers, kill_at, 0
        context = get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_the_parent)

    def submit(self, architecture, seed, fidelity=FULL):
        self.submitted += 1
        if self.submitted == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.pool.submit(self.job, architecture, seed, fidelity)

    def close(self):
        self.pool.shutdown(cancel_futures=True)


class Scaled:
    '''The sum of the digits and the trial's seed, times what is measured once in the run.'''

    metrics, expense, needs = (Metric("sum", "1", "max"),), STATIC, ()

    def estimate(self, architecture, context):
        scale = context.recorded("scale", lambda: self.measure(context.folder))
        return {"sum": scale * (sum(architecture.values()) + context.seed % 97)}

    def measure(self, folder):
        with (folder / "measured").open("a") as file:
            print(os.getpid(), file=file)
        return 3.5


@archloom.hookimpl
def register_search_spaces(register):
    register("digit_space", toys.Digits)


@archloom.hookimpl
def register_estimators(register):
    register("scaled", Scaled)


@archloom.hookimpl
def register_executors(register):
    register("pool", Pool)
"""


def test_a_stranger_s_executor_killed_and_resumed_finds_what_a_search_here_finds(tmp_path):
    plugin = tmp_path / "stranger.py"
    plugin.write_text(STRANGER, encoding="utf-8")
    config = toys.config(
        space={"type": "digit_space", "length": 4},
        strategy={"type": "evolution", "population": 3, "tournament": 2},
        estimators=["scaled"],
        objectives=["sum"],
        budget={"trials": 8},
        window=2,
        plugins=[str(plugin)],
        verdict={"seeds": 0},
        observers=[],
        threads=1,
    )
    here = archloom.search(config, tmp_path / "here")
    written = tmp_path / "config.json"  # JSON is YAML
    written.write_text(parse_config(config).model_dump_json(), encoding="utf-8")
    run = tmp_path / "elsewhere"

    paths = [str(Path(toys.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    killing = ["--folder", str(run), "--set", "executor={type: pool, workers: 2, kill_at: 5}"]
    killed = subprocess.run(
        [sys.executable, "-m", "archloom", "search", str(written), *killing],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = archloom.resume(run, overrides=("executor.kill_at=-1", "executor.workers=1"))

    def told(trial: Any) -> Any:
        return {key: value for key, value in trial.to_json().items() if key != "cost"}

    assert [told(trial) for trial in again.trials] == [told(trial) for trial in here.trials]
    assert len((run / "measured").read_text().split()) == 1, "what is measured once was measured again"
    assert int((run / "measured").read_text()) != os.getpid()
