from __future__ import annotations

import io
import json
import logging
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import archloom
from archloom import trust
from archloom.cli import app
from archloom.config_files import read_config
from archloom.errors import PluginError
from archloom.plugin_files import read_plugin
from archloom.plugins import Host
from archloom.session import resume, search
from archloom.source import open_source
from archloom.trained import open_trained
from archloom.trust import beside, keep

SPACE = """
import archloom
from archloom.architecture import Choice
from torch import nn

from sizes import WIDTHS


class Rungs:
    '''One convolution of some width.'''
    def __init__(self, *, channels: int = 1):
        self.choices, self.in_channels = [Choice("width", WIDTHS), Choice("kernel", (1, 3))], channels
    def build(self, architecture):
        kernel = architecture["kernel"]
        return nn.Conv2d(self.in_channels, architecture["width"], kernel, padding=kernel // 2)


@archloom.hookimpl
def register_search_spaces(register):
    register("rungs", Rungs)
"""
CONFIG = """
space: rungs
task: {type: digits, train_size: 64}
strategy: random
estimators: [params]
objectives: [params]
budget: {trials: 2}
verdict: {seeds: 0}
observers: []
plugins: [rungs.py]
"""


@pytest.fixture
def home(tmp_path):
    """A folder with a plugin file, its neighbour, and a configuration that names it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rungs.py").write_text(SPACE)
    (folder / "sizes.py").write_text("WIDTHS = (2, 4)\n")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def strangers_machine(tmp_path, monkeypatch):
    """From here on nothing ran on this machine yet."""

    def enter() -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
        monkeypatch.setattr(trust, "_known", set())

    return enter


def strategy(name: str) -> str:
    return (
        "import archloom, helper\n@archloom.hookimpl\ndef register_strategies(register):\n"
        f"    def {name}(space, rng, *, steps: int = helper.STEPS): return helper\n    register('{name}', {name})\n"
    )


# -- loading ------------------------------------------------------------------------------------------


def test_two_files_of_one_name_are_both_loaded_each_with_its_own_neighbour(tmp_path):
    for number, folder in enumerate(("a", "b"), 1):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin.py").write_text(strategy(f"walk_{folder}"))
        (tmp_path / folder / "helper.py").write_text(f"STEPS = {number}\n")
    host = Host([tmp_path / "a" / "plugin.py", tmp_path / "b" / "plugin.py"], entry_points=False)
    assert [host.get("strategy", f"walk_{n}").validate({}) for n in "ab"] == [{"steps": 1}, {"steps": 2}]
    assert host.get("strategy", "walk_a").distribution == f"file {tmp_path / 'a' / 'plugin.py'}"
    assert "helper" not in sys.modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_that_is_named_twice_is_loaded_once(tmp_path, monkeypatch):
    (tmp_path / "plugin.py").write_text(strategy("walk"))
    (tmp_path / "helper.py").write_text("STEPS = 1\n")
    monkeypatch.chdir(tmp_path)
    host = Host(["plugin.py", tmp_path / "plugin.py", "./plugin.py"], entry_points=False)
    assert host.files == (str(tmp_path / "plugin.py"),)


@pytest.mark.parametrize(
    "line",
    [
        "import helper",
        "import helper as other; helper = other",
        "from helper import STEPS",
        "from helper import *",
        "from . import helper",
        "from .helper import STEPS",
        "import pack.inner as helper",
        "from pack import inner as helper",
        "from pack.inner import STEPS",
        "import pack.inner; helper = pack.inner",
        "def late():\n    import helper\n    return helper.STEPS\nSTEPS = late()",
    ],
)
def test_neighbours_are_imported_as_a_script_or_a_package_imports_them(tmp_path, line):
    (tmp_path / "helper.py").write_text("import deeper\nSTEPS = deeper.STEPS\n")
    (tmp_path / "deeper.py").write_text("STEPS = 7\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text("from .more import STEPS\n")
    (tmp_path / "pack" / "more.py").write_text("STEPS = 7\n")
    steps = "STEPS" if "STEPS" in line or "*" in line else "helper.STEPS"
    (tmp_path / "my.plugin.py").write_text(
        f"import archloom\n{line}\n@archloom.hookimpl\ndef register_strategies(register):\n"
        f"    def walk(space, *, steps: int = {steps}): pass\n    register('walk', walk)\n"
    )
    plugin = read_plugin(tmp_path / "my.plugin.py")
    assert Host([plugin.path], entry_points=False).get("strategy", "walk").validate({}) == {"steps": 7}
    copied = tmp_path / "copied"
    (kept,) = keep(copied, [plugin])
    again = read_plugin(copied / kept)
    assert (again.files, again.digest) == (plugin.files, plugin.digest)
    assert Host([again.path], entry_points=False).get("strategy", "walk").validate({}) == {"steps": 7}


def test_neighbours_hide_neither_what_is_installed_nor_pythons_own_modules(tmp_path):
    for name in ("random", "types", "torch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a script of the user')\n")
    (tmp_path / "helper.py").write_text(
        "import random, types, torch\nSTEPS = random.Random(0).randrange(1, 2)\n"
    )
    (tmp_path / "plugin.py").write_text("import random, types, torch\n" + strategy("walk"))
    assert Host([tmp_path / "plugin.py"], entry_points=False).get("strategy", "walk").validate({}) == {
        "steps": 1
    }


def test_a_module_that_is_nowhere_is_named(tmp_path):
    (tmp_path / "plugin.py").write_text("import numpyy\n")
    with pytest.raises(PluginError, match=r"plugin.py failed: ModuleNotFoundError: No module named 'numpyy'"):
        Host([tmp_path / "plugin.py"])
    (tmp_path / "plugin.py").write_text("import helper\n")
    (tmp_path / "helper.py").write_text("import numpyy\n")
    with pytest.raises(PluginError, match="No module named 'numpyy'"):
        Host([tmp_path / "plugin.py"])


def test_a_file_that_was_changed_is_loaded_anew_and_one_that_was_not_stays_the_same_module(tmp_path):
    (tmp_path / "plugin.py").write_text(strategy("walk"))
    (tmp_path / "helper.py").write_text("STEPS = 1\nclass Thing: pass\n")
    first, second = (
        Host([tmp_path / "plugin.py"], entry_points=False).get("strategy", "walk") for _ in range(2)
    )
    assert first.factory.__globals__ is second.factory.__globals__
    thing = first.make({"steps": 1}, space=None, rng=None).Thing()
    assert type(pickle.loads(pickle.dumps(thing))) is type(thing)
    (tmp_path / "helper.py").write_text("STEPS = 2\n")
    assert Host([tmp_path / "plugin.py"], entry_points=False).get("strategy", "walk").validate({}) == {
        "steps": 2
    }


# -- runs ---------------------------------------------------------------------------------------------


def test_a_run_carries_its_plugin_files_and_opens_from_anywhere_when_it_was_moved(
    home, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the file lies beside the configuration, and not here
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    shutil.rmtree(home)
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    run.rename(moved)
    monkeypatch.chdir("/")
    assert archloom.build(moved, seed=1).backbone.out_channels in (2, 4)
    assert archloom.build(moved / "architecture.json").backbone.out_channels in (2, 4)
    assert open_source(moved, Host(beside(moved))).build().backbone.out_channels in (2, 4)
    assert open_trained(moved, untrained=True).plugins == tuple(beside(moved))
    result = resume(moved, overrides=("budget.trials=4",))
    assert len([trial for trial in result.trials if trial.source is None]) == 4
    (named,) = [Path(one) for one in beside(moved)]
    assert named.is_relative_to(moved)
    assert (named.parent / "sizes.py").read_text() == "WIDTHS = (2, 4)\n"


def test_a_strangers_run_runs_no_plugin_file_unless_it_is_trusted(home, tmp_path, strangers_machine):
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    strangers_machine()
    mark = tmp_path / "code ran"
    (kept,) = (run / "plugins").glob("*/sizes.py")
    kept.write_text(f"WIDTHS = (2, 4)\n__import__('pathlib').Path({str(mark)!r}).touch()\n")
    for opening in (
        lambda: archloom.build(run),
        lambda: archloom.build(run / "architecture.json"),
        lambda: beside(run),
        lambda: open_trained(run, untrained=True),
        lambda: resume(run, overrides=("budget.trials=3",)),
        lambda: archloom.retrain(run, tmp_path / "retrained"),
    ):
        with pytest.raises(PluginError, match=r"never ran on this machine.*Read it; .*--trust .*trust=True"):
            opening()
    assert not mark.exists()
    assert archloom.build(run, trust=True).backbone.out_channels in (2, 4)
    assert mark.exists()
    assert archloom.build(run).backbone.out_channels in (2, 4), "once trusted, it is known"


def test_a_file_that_is_named_takes_the_place_of_the_runs_own(home, tmp_path, strangers_machine):
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    (mine,) = beside(run, [home / "rungs.py"])
    assert mine == str(home / "rungs.py")
    assert Host([home / "rungs.py", *beside(run)]).files == (mine,), "the same file in two places is one"
    strangers_machine()
    assert open_trained(run, untrained=True, plugins=[home / "rungs.py"]).plugins == (mine,)


def test_a_file_that_was_changed_in_a_run_of_ones_own_is_a_strangers(home, tmp_path):
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    (kept,) = (run / "plugins").glob("*/rungs.py")
    kept.write_text(SPACE + "\n# changed\n")
    with pytest.raises(PluginError, match="never ran on this machine"):
        archloom.build(run)


def test_a_run_that_names_a_file_elsewhere_runs_it_only_if_it_is_known(home, tmp_path, strangers_machine):
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    strangers_machine()
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('it ran')\n")
    config = (run / "config.yaml").read_text().split("plugins:")[0]
    (run / "config.yaml").write_text(f"{config}plugins: [{evil}]\n")
    with pytest.raises(PluginError, match=r"evil\.py, which never ran"):
        archloom.build(run)


def test_where_nothing_can_be_written_down_what_ran_in_this_process_is_known(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))  # no folder can be made in a file
    monkeypatch.setattr(trust, "_known", set())
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    assert archloom.build(run)
    monkeypatch.setattr(trust, "_known", set())
    with pytest.raises(PluginError, match="never ran on this machine"):
        archloom.build(run)


def test_resuming_after_the_original_was_changed_goes_on_with_the_copy_and_says_so(
    home, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("archloom"), "propagate", True)
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    (home / "sizes.py").write_text("WIDTHS = (8, 16)\n")
    result = resume(run, overrides=("budget.trials=3",))
    assert {trial.architecture["width"] for trial in result.trials} <= {2, 4}
    assert f"{home / 'rungs.py'} was changed since; the copy in {run / 'plugins'}" in caplog.text


def test_a_command_says_once_that_the_original_was_changed(home, tmp_path, monkeypatch):
    logger, heard = logging.getLogger("archloom"), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logger, "propagate", False)  # as the command sets it
    run = search(read_config(home / "config.yaml"), tmp_path / "run").folder
    (home / "sizes.py").write_text("WIDTHS = (8, 16)\n")
    logger.addHandler(heard)
    try:
        done = CliRunner().invoke(app, ["export", str(run), "--format", "safetensors", "--untrained"])
    finally:
        logger.removeHandler(heard)
    assert done.exit_code == 0, done.output
    assert heard.stream.getvalue().count(f"{home / 'rungs.py'} was changed since") == 1


def test_what_ran_here_is_written_down_once_for_this_user(home):
    Host([home / "rungs.py"])
    Host([home / "rungs.py"])
    lines = (Path(os.environ["XDG_DATA_HOME"]) / "archloom" / "plugin-files.jsonl").read_text().splitlines()
    digest = read_plugin(home / "rungs.py").digest
    assert [json.loads(line)["sha256"] for line in lines].count(digest) == 1
