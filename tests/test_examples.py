"""The third-party plugins of examples/: built as wheels, installed beside archloom, listed, used, resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import archloom
from archloom.plugins import Host

EXAMPLES = Path(__file__).parent.parent / "examples"
DISTRIBUTIONS = {
    "archloom-annealing": ("strategy", "annealing", "1.0.0"),
    "archloom-small-darts": ("strategy", "small_darts", "0.1.0"),
    "archloom-memory": ("estimator", "memory", "0.1.0"),
    "archloom-plainnet": ("space", "plainnet", "0.2.0"),
}
CONFIG = {
    "space": {"type": "plainnet", "channels": [8, 16], "depth": 3},
    "task": {"type": "digits", "train_size": 100},
    "strategy": {"type": "annealing", "temperature": 0.2},
    "estimators": ["memory", "macs"],
    "objectives": ["memory.peak", "macs"],
    "constraints": ["memory.kept <= 60000"],
    "verdict": {"seeds": 0},
    "observers": [],
    "budget": {"trials": 30},
    "seed": 3,
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder into which the three wheels are installed; archloom itself is the environment's."""
    folder = tmp_path_factory.mktemp("plugins")
    for name in DISTRIBUTIONS:
        # a build leaves files in the sources; they are not ours to litter
        shutil.copytree(
            EXAMPLES / name, folder / "src" / name, ignore=shutil.ignore_patterns("build", "*.egg-info")
        )
    sources = [str(folder / "src" / name) for name in DISTRIBUTIONS]
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"), *sources)
    wheels = sorted(map(str, (folder / "wheels").glob("*.whl")))
    assert len(wheels) == len(DISTRIBUTIONS)
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder / "installed"), *wheels)
    return folder / "installed"


@pytest.fixture(scope="module")
def whole(beside, tmp_path_factory):
    """The folder of a search that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with installed_here(beside):
        archloom.search(CONFIG, folder)
    return folder


@contextmanager
def installed_here(folder):
    """Within the block this process sees what is installed in `folder`, as a fresh one would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        modules = set(sys.modules)
        yield
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def environment(installed):
    return os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "ARCHLOOM_STRICT_PLUGINS": "1"}


def events(folder, kind):
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    whole_lines = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [event for event in whole_lines if event["event"] == kind]


def trials(folder):
    """What became of each trial, without what it took in seconds."""
    results = sorted(events(folder, "result"), key=lambda event: event["number"])
    return [{k: v for k, v in event.items() if k not in ("active", "cost")} for event in results]


def test_each_is_listed_with_its_distribution_and_version(beside):
    command = [sys.executable, "-m", "archloom", "plugins", "--json"]
    listed = subprocess.run(command, env=environment(beside), capture_output=True, text=True, timeout=120)
    assert listed.returncode == 0, listed.stderr
    listing = json.loads(listed.stdout)
    assert listing["broken"] == []
    for distribution, (kind, name, version) in DISTRIBUTIONS.items():
        entry = next(e for e in listing["plugins"] if (e["kind"], e["name"]) == (kind, name))
        assert (entry["distribution"], entry["version"]) == (distribution, version)
        assert entry["summary"]
        assert entry["options"]


def test_a_search_uses_all_three(whole):
    results = trials(whole)
    assert len({json.dumps(t["architecture"]) for t in results}) > 20
    assert {"ok", "infeasible"} == {trial["status"] for trial in results}
    for trial in results:
        assert trial["status"] == "ok" or trial["metrics"]["memory.kept"] > 60000
        if trial["status"] == "ok":
            assert trial["scores"] == [-trial["metrics"]["memory.peak"], -trial["metrics"]["macs"]]
    stored = yaml.safe_load((whole / "environment.json").read_text())["versions"]
    assert {name: stored[name] for name in DISTRIBUTIONS} == {n: v for n, (_, _, v) in DISTRIBUTIONS.items()}


def test_killed_in_the_middle_and_resumed_it_gives_the_same_trials(beside, whole, tmp_path):
    folder, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "archloom", "search", str(config), "--out", str(folder)]
    with subprocess.Popen(
        command, env=environment(beside), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 90
        while not (folder / "log.jsonl").exists() or len(events(folder, "observe")) < 6:
            assert process.poll() is None, "the search ended before it could be killed"
            assert time.monotonic() < deadline, "the search does not get under way"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 6 <= len(trials(folder)) < len(trials(whole))
    assert not events(folder, "end")
    with installed_here(beside):
        archloom.resume(folder)
    assert trials(folder) == trials(whole)


def test_the_strategy_is_a_module_of_at_most_30_lines_of_code():
    text = (EXAMPLES / "archloom-annealing" / "archloom_annealing.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 30


def test_they_use_nothing_that_is_not_public():
    for name in DISTRIBUTIONS:
        for path in (EXAMPLES / name).glob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.startswith(("import", "from"))]
            private = re.compile(r"archloom_|\b_(?!_)")
            assert not [line for line in imports if private.search(line)]


def test_a_method_of_the_house_trains_the_strangers_space(tmp_path):
    files = [
        EXAMPLES / "archloom-plainnet/archloom_plainnet.py",
        EXAMPLES / "archloom-annealing/archloom_annealing.py",
    ]
    config = {
        **CONFIG,
        "space": {"type": "plainnet", "channels": [4, 8], "depth": 1},
        "method": {"type": "fbnet", "epochs": 1, "warmup_epochs": 0, "batch_size": 32, "cost": "macs"},
        "estimators": ["macs", {"type": "inherited_accuracy", "batches": 1, "recalibration": 1}],
        "objectives": ["accuracy.inherited"],
        "constraints": [],
        "budget": {"trials": 4},
    }
    result = archloom.search(config, tmp_path / "run", host=Host(files))
    assert len([t for t in result.trials if t.status == "ok"]) >= 4
    assert result.architecture is not None
    assert (tmp_path / "run" / "inherited.safetensors").exists()


def test_each_passes_its_own_tests_as_it_was_installed(beside):
    folders = [str(beside.parent / "src" / name / "tests") for name in DISTRIBUTIONS]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *folders]
    done = subprocess.run(
        command, cwd=beside, env=environment(beside), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed", done.stdout)
