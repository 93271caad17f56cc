"""The folder that a run leaves: atomic, checked, and intact after whatever happens to the machine."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
import yaml

import archloom
from archloom.errors import CheckpointError, ConfigError, PluginError, RunError
from archloom.estimator import Metric
from archloom.run import (
    Log,
    Run,
    load_checkpoint,
    previous,
    recorded,
    save_checkpoint,
    write_atomically,
    write_json,
)
from archloom.session.opening import read_stored
from toys import Listed, config, digits, host

# -- files ----------------------------------------------------------------------------------------------


def test_a_write_leaves_the_new_content_and_no_other_file(tmp_path):
    write_atomically(tmp_path / "deep" / "file", b"old")
    write_atomically(tmp_path / "deep" / "file", b"new")
    assert (tmp_path / "deep" / "file").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_content_and_says_what_to_do(tmp_path, monkeypatch, broken):
    write_json(tmp_path / "file", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(broken, full)
    with pytest.raises(
        RunError, match=r"cannot write .*file: No space left.*intact; make room.*archloom resume"
    ):
        write_json(tmp_path / "file", 2)
    assert json.loads((tmp_path / "file").read_text()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- checkpoints ----------------------------------------------------------------------------------------


def saved(path, *numbers):
    for number in numbers:
        save_checkpoint(path, {"number": number, "tensor": torch.full((50,), float(number))})
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:30],
        lambda data: b"",
        lambda data: data[:200] + b"X" + data[201:],
    ],
)
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_said(tmp_path, damage):
    path = saved(tmp_path / "checkpoint.pt", 1, 2)
    assert load_checkpoint(path)["number"] == 2
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(
        UserWarning, match=r"checkpoint\.pt is damaged.*going on from the one before, checkpoint.pt.previous"
    ):
        state = load_checkpoint(path)
    assert torch.equal(state["tensor"], torch.ones(50))


def test_two_damaged_checkpoints_are_an_error_that_names_both(tmp_path):
    path = saved(tmp_path / "checkpoint.pt", 1, 2)
    for file in (path, previous(path)):
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(
        RunError, match=r"checkpoint\.pt is damaged.*previous is damaged.*start the run again in a new"
    ):
        load_checkpoint(path)


def test_a_checkpoint_of_other_work_is_not_used(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"number": 1}, "mine")
    assert load_checkpoint(path, "mine") == load_checkpoint(path) == {"number": 1}
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.pt belongs to other work.*No sound checkpoint is left"
    ):
        load_checkpoint(path, "yours")
    save_checkpoint(path, {"number": 2}, "yours")
    with pytest.warns(UserWarning, match="belongs to other work than this; going on from the one before"):
        assert load_checkpoint(path, "mine") == {"number": 1}
    data = path.read_bytes()
    path.write_bytes(data.replace(b" yours\n", b" mine\n"))  # the checksum is of the owner as well
    with pytest.warns(UserWarning, match="is damaged"):
        load_checkpoint(path, "mine")


def test_a_checkpoint_of_an_older_version_says_not_whose_it_is_and_is_taken(tmp_path):
    buffer = io.BytesIO()
    torch.save({"number": 1}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    (tmp_path / "c.pt").write_bytes(b"archloom checkpoint 1\n" + digest + b"\n" + buffer.getvalue())
    assert load_checkpoint(tmp_path / "c.pt", "mine") == {"number": 1}


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.pt.new", "checkpoint.pt.previous"])
def test_a_folder_in_the_place_of_a_checkpoint_is_said(tmp_path, name):
    if name != "checkpoint.pt":
        saved(tmp_path / "checkpoint.pt", 1)
        (tmp_path / "checkpoint.pt").write_bytes(b"")
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="is a folder where a checkpoint belongs; move it away"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    if name != "checkpoint.pt.previous":
        return
    (tmp_path / "checkpoint.pt").unlink()
    saved(tmp_path / "checkpoint.pt", 1)
    with pytest.raises(RunError, match=r"cannot write .*move away what is in the way"):
        saved(tmp_path / "checkpoint.pt", 2)


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.pt") is None


def test_a_kill_between_any_two_steps_of_saving_leaves_a_sound_checkpoint(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real = {name: getattr(os, name) for name in ("replace", "fsync")}
    for step in range(8):
        path = saved(tmp_path / f"{step}.pt", 1, 2)
        done = 0

        def count(name, allowed=step):
            def call(*arguments):
                nonlocal done
                if done == allowed:
                    raise Killed
                done += 1
                return real[name](*arguments)

            return call

        for name in real:
            monkeypatch.setattr(os, name, count(name))
        with suppress(Killed):
            saved(path, 3)
        monkeypatch.undo()
        assert load_checkpoint(path)["number"] in (2, 3)
        assert load_checkpoint(saved(path, 4))["number"] == 4


class Evil:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(
        PluginError, match=r"the state for c\.pt holds posix\.mkdir, which cannot be read back as data"
    ):
        save_checkpoint(tmp_path / "c.pt", {"evil": Evil(tmp_path / "executed")})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_read_as_data_never_as_code(tmp_path):
    buffer = io.BytesIO()
    torch.save({"evil": Evil(tmp_path / "executed")}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    (tmp_path / "c.pt").write_bytes(b"archloom checkpoint 1\n" + digest + b"\n" + buffer.getvalue())
    with pytest.raises(RunError, match=r"c\.pt holds more than data"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()


# -- the log --------------------------------------------------------------------------------------------


def opened(path):
    return closing(Log(path))


def events(path):
    with opened(path) as log:
        return log.events


def test_a_torn_last_line_is_cut_off_and_the_next_event_follows_cleanly(tmp_path):
    with opened(tmp_path / "log") as log:
        log.append({"event": "a"})
    with (tmp_path / "log").open("a") as file:
        file.write('{"event": "b", "val')
    with opened(tmp_path / "log") as log:
        assert log.events == [{"event": "a"}]
        log.append({"event": "c"})
    assert events(tmp_path / "log") == [{"event": "a"}, {"event": "c"}]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    (tmp_path / "log").write_text('{"event": "a"}\n{"eve\n{"event": "c"}\n')
    with pytest.raises(RunError, match="line 2, is not JSON"):
        Log(tmp_path / "log")


@pytest.mark.parametrize("broken", ["write", "part", "fsync"])
def test_a_full_disk_loses_no_event_and_leaves_no_torn_line(tmp_path, monkeypatch, broken):
    log = Log(tmp_path / "log")
    log.append({"event": "a"})
    real = log._file

    class Full:
        def __getattr__(self, name):
            return getattr(real, name)

        def write(self, line):
            if broken == "write":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real.write(line[:5] if broken == "part" else line)

    log._file = Full()
    with monkeypatch.context() as patched:
        if broken == "fsync":
            patched.setattr(
                os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
            )
        for _ in range(2):
            with pytest.raises(
                RunError, match=r"cannot write .*log: .*intact; make room, then: archloom resume"
            ):
                log.append({"event": "b"})
    log._file = real
    log.append({"event": "c"})
    log.close()
    assert events(tmp_path / "log") == [{"event": "a"}, {"event": "c"}] == log.events


def elsewhere(tmp_path: Path, code: str, *arguments: object) -> str:
    """Run code in a fresh process that finds the toys but not the folders of tests; what it printed."""
    shutil.copy(Path(__file__).with_name("toys.py"), tmp_path)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_that_fills_up_for_real_stops_the_search_clearly_and_resume_completes_it(tmp_path):
    """The system's limit of a file's size stands for the disk: writes beyond it are cut short, then refused."""
    code = """
        import resource, sys
        from toys import config, host
        import archloom
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        try:
            archloom.search(config(budget={"trials": 40}), sys.argv[1], host=host())
        except archloom.errors.RunError as error:
            print(error)
    """
    folder = tmp_path / "run"
    told = elsewhere(tmp_path, code, folder)
    assert "What was written before is intact; make room, then: archloom resume" in told
    before = (folder / "log.jsonl").read_bytes()
    assert before.endswith(b"\n")
    resumed = archloom.resume(folder, host=host())
    assert (folder / "log.jsonl").read_bytes().startswith(before)
    whole = archloom.search(config(budget={"trials": 40}), tmp_path / "whole", host=host())
    assert [trial.architecture for trial in resumed.trials] == [trial.architecture for trial in whole.trials]


def test_a_folder_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot open the run folder .*file"):
        Run(tmp_path / "file" / "run")


# -- recorded -------------------------------------------------------------------------------------------


def test_what_is_recorded_is_measured_once_in_the_runs_life(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"ms": [1.5, len(calls)]}

    for _ in range(2):
        with closing(Run(tmp_path)) as run:
            assert run.recorded("table", measure) == {"ms": [1.5, 1]}
    assert len(calls) == 1
    (tmp_path / "recorded" / "table.json").write_text("{")
    with pytest.raises(RunError, match=r"table\.json is damaged; delete it"):
        recorded(tmp_path, "table", measure)


def test_of_two_that_ask_at_once_one_measures(tmp_path):
    calls, found = [], []

    def measure():
        calls.append(1)
        threading.Event().wait(0.05)
        return len(calls)

    threads = [
        threading.Thread(target=lambda: found.append(recorded(tmp_path, "t", measure))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, found) == ([1], [1, 1, 1, 1])


# -- sessions -------------------------------------------------------------------------------------------


def test_a_search_leaves_a_folder_that_tells_everything(tmp_path):
    result = archloom.search(config(), tmp_path / "run", host=host())
    with closing(Run(tmp_path / "run")) as run:
        kinds = [event["event"] for event in run.log.events]
    assert {
        "config.yaml",
        "environment.json",
        "log.jsonl",
        "log.txt",
        "result.json",
        "architecture.json",
    } <= {path.name for path in run.folder.iterdir()}
    assert run.read_json("result.json")["found"]["architecture"] == result.architecture.to_json()
    assert run.read_json("environment.json")["seed"] == 0
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert read_stored(run.folder)["budget"]["trials"] == 6
    best = max(result.trials, key=lambda trial: trial.score)
    assert result.architecture == best.architecture


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path):
    def run(name, seed):
        result = archloom.search(config(seed=seed), tmp_path / name, host=host())
        return [(trial.architecture, trial.seed) for trial in result.trials]

    assert run("a", 0) == run("b", 0) != run("c", 1)


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    archloom.search(config(), tmp_path, host=host())
    with pytest.raises(RunError, match=r"already holds a run. Go on with it: archloom resume"):
        archloom.search(config(), tmp_path, host=host())


def test_a_search_killed_before_its_first_event_can_be_started_again(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(RunError, match=r"is no run folder: it has no config.yaml"):
        archloom.resume(tmp_path, host=host())
    assert len(archloom.search(config(), tmp_path, host=host()).trials) == 6


def test_a_finished_run_goes_on_under_a_larger_budget_as_one_long_run(tmp_path):
    archloom.search(config(), tmp_path / "short", host=host())
    more = archloom.resume(tmp_path / "short", overrides=("budget.trials=12",), host=host())
    long = archloom.search(config(budget={"trials": 12}), tmp_path / "long", host=host())
    assert [(t.architecture, t.seed) for t in more.trials] == [(t.architecture, t.seed) for t in long.trials]
    assert read_stored(tmp_path / "short")["budget"]["trials"] == 12


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=1", "seed: then 0, now 1"),
        ("space.base=5", r"space: then .*'length': 3, 'base': 4\}, now .*'length': 3, 'base': 5\}"),
        ("strategy=evolution", "strategy: then {'type': 'random'}, now {'type': 'evolution', 'population': "),
        ("constraints=['sum < 9']", r"constraints: then \[\], now \['sum < 9'\]"),
        ("workers=2", "window: then 1, now 2"),
    ],
)
def test_a_resume_under_another_identity_is_refused_and_changes_nothing(tmp_path, override, told):
    archloom.search(config(), tmp_path, host=host())
    before = {
        path.name: path.read_bytes()
        for path in tmp_path.iterdir()
        if path.is_file() and path.name != "log.txt"
    }
    with pytest.raises(RunError, match=told):
        archloom.resume(tmp_path, overrides=(override,), host=host())
    after = {
        path.name: path.read_bytes()
        for path in tmp_path.iterdir()
        if path.is_file() and path.name != "log.txt"
    }
    assert after == before


def test_a_changed_version_is_warned_of(tmp_path, caplog):
    archloom.search(config(), tmp_path, host=host())
    first, rest = (tmp_path / "log.jsonl").read_text().split("\n", 1)
    start = json.loads(first)
    start["versions"]["toy-distribution-0"] = "0.9"
    (tmp_path / "log.jsonl").write_text(json.dumps(start) + "\n" + rest)
    archloom.resume(tmp_path, host=host())
    assert (
        "toy-distribution-0 was 0.9 when the run began and is 1.0 now" in (tmp_path / "log.txt").read_text()
    )


def test_resuming_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        archloom.resume(tmp_path / "nowhere", host=host())
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(RunError, match="holds no configuration"):
        archloom.resume(tmp_path, host=host())


def test_an_estimator_may_have_something_measured_once_for_all_resumes(tmp_path):
    calls = []

    class Calibrated:
        metrics = (Metric("calibrated", "1", "max"),)
        expense, needs = 0, ()

        def estimate(self, architecture, context):
            scale = context.recorded("scale", lambda: calls.append(1) or 3.0)
            return {"calibrated": scale * sum(architecture.values())}

    class Plugin:
        @archloom.hookimpl
        def register_estimators(self, register):
            register("calibrated", Calibrated)

    given = config(estimators=["calibrated"], objectives=["calibrated"])
    archloom.search(given, tmp_path, host=host(Plugin()))
    archloom.resume(tmp_path, overrides=("budget.trials=9",), host=host(Plugin()))
    assert len(calls) == 1


def test_several_objectives_give_a_front_and_a_pick_gives_one(tmp_path):
    class Smallness:
        metrics = (Metric("smallness", "1", "max"),)
        expense, needs = 0, ()

        def estimate(self, architecture, context):
            return {"smallness": -float(sum(architecture.values()))}

    class Plugin:
        @archloom.hookimpl
        def register_estimators(self, register):
            register("smallness", Smallness)

    given = config(
        space={"type": "digit_space", "length": 1},
        estimators=["additive", "smallness"],
        objectives=["sum", "smallness"],
        budget={},
    )
    result = archloom.search(given, tmp_path / "front", host=host(Plugin()))
    assert result.reason == "all 4 architectures of the space were proposed"
    assert result.architecture is None
    assert {trial.architecture for trial in result.front} == {digits(n) for n in range(4)}
    assert not (tmp_path / "front" / "architecture.json").exists()
    picked = archloom.search(
        given | {"pick": {"best": "smallness", "within": {"sum": 1}}}, tmp_path / "pick", host=host(Plugin())
    )
    assert picked.architecture == digits(2)


def test_a_configuration_whose_parts_do_not_fit_is_refused_before_a_folder_is_made(tmp_path):
    for change, message in [
        ({"strategy": None}, "names neither a 'strategy' nor a 'method'"),
        ({"method": "random"}, "'random' trains no supernet"),
        ({"strategy": "fbnet", "method": "fbnet"}, "'fbnet' trains a supernet; make it the 'method'"),
        ({"strategy": "fbnet"}, "strategy 'fbnet' needs a space that .* space 'digit_space' does not"),
        ({"objectives": ["smu"]}, "unknown metric 'smu'; did you mean 'sum'"),
        ({"constraints": ["macs < 3"]}, "unknown metric 'macs'.*The constraint 'macs < 3'"),
        ({"estimators": ["additive", "inherited_accuracy"]}, "uses a supernet's weights, and no 'method'"),
        ({"estimators": ["additive", "additive"]}, "two estimators measure 'sum'"),
        ({"verdict": {"seeds": 1}}, "verdict.cost is 'macs', which no estimator here measures"),
        ({"device": "gpu"}, "'gpu' is no device"),
        ({"task": {"type": "fake", "size": 64, "channels": 3}}, "does not fit task 'fake'.*3x32x32"),
        ({"model": {"neck": "GlobalAvrage"}}, r"unknown neck 'GlobalAvrage'; did you mean 'GlobalAverage'\?"),
        (
            {"model": {"head": {"type": "LinearHead", "dropot": 1}}},
            r"no option 'dropot'; did you mean 'dropout'\?",
        ),
        ({"observers": ["tensorbord"]}, r"unknown observer 'tensorbord'; did you mean 'tensorboard'\?"),
        ({"recipe": {"type": "default", "epochs": 0}}, "epochs must be positive"),
        ({"objectives": ["sum", "sum"]}, "'objectives' names 'sum' twice"),
        ({"constraints": ["sum <= 2", "sum >= 3"]}, "'sum >= 3' and 'sum <= 2' leave no value between them"),
        ({"constraints": ["sum < 2", "sum >= 2"]}, "'sum >= 2' and 'sum < 2' leave no value"),
        (
            {"estimators": ["additive", "accuracy"], "verdict": {"seeds": 1, "cost": "accuracy.trained"}},
            "verdict.cost is 'accuracy.trained', which takes training",
        ),
        ({"budget": {"epochs": 3}}, "the budget counts epochs, and nothing here trains"),
    ]:
        with pytest.raises(ConfigError, match=message):
            archloom.search(config(**change), tmp_path / "run", host=host())
        assert not (tmp_path / "run").exists()


def test_two_worker_processes_in_submitted_order_give_the_trials_of_one(tmp_path):
    plugin = tmp_path / "toy_plugin.py"
    plugin.write_text(
        "import archloom, toys\n"
        "@archloom.hookimpl\ndef register_search_spaces(register): register('digit_space', toys.Digits)\n"
        "@archloom.hookimpl\ndef register_estimators(register): register('additive', toys.Additive)\n"
    )
    code = """
        import json, sys
        from toys import config
        import archloom

        if __name__ == "__main__":
            given = config(strategy={"type": "evolution", "population": 3, "tournament": 2}, plugins=[sys.argv[1]])
            for name, change in ("one", {"window": 2}), ("two", {"workers": 2}):
                found = archloom.search(given | change, name).trials
                print(json.dumps([[str(t.architecture), t.metrics, t.seed, t.source] for t in found]))
    """
    alone, together = elsewhere(tmp_path, code, plugin).splitlines()
    assert len(json.loads(alone)) >= 6
    assert alone == together


def test_a_runs_configuration_has_every_option_of_every_part_so_that_later_defaults_change_nothing(tmp_path):
    class Changing:
        """A strategy whose default is another in each version."""

        def __init__(self, default):
            def walk(space, rng, *, steps: int = default):
                return Listed([digits(steps, 0, 0)])

            self.walk = walk

        @archloom.hookimpl
        def register_strategies(self, register):
            register("walk", self.walk)

    given = config(strategy="walk", model={"head": "LinearHead"})
    archloom.search(given, tmp_path, host=host(Changing(1)))
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["strategy"] == {"type": "walk", "steps": 1}
    assert stored["space"] == {"type": "digit_space", "length": 3, "base": 4}
    assert stored["model"]["head"] == {"type": "LinearHead", "dropout": 0.0}
    assert stored["recipe"]["epochs"] == 30
    result = archloom.resume(tmp_path, overrides=("budget.trials=9",), host=host(Changing(2)))
    assert {trial.architecture["d0"] for trial in result.trials} == {1}
    document = json.loads((tmp_path / "architecture.json").read_text())
    assert document["space"] == stored["space"]
