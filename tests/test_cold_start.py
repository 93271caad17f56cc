"""What a command imports before it has anything to do with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "torchvision",
    "torchmetrics",
    "scipy",
    "sklearn",
    "plotly",
    "tensorboard",
    "pandas",
    "matplotlib",
    "triton",
    "timm",
    "onnx",
    "optuna",
]
"""Each takes from a fifth of a second to two seconds to import."""

SEARCH = "space: fbnet\ntask: digits\nstrategy: random\nestimators: [macs]\nobjectives: [macs]\nbudget: {trials: 1}\n"
FILES = {
    "key.yaml": "space: fbnet\ntask: digits\nstrategy: random\nbudgett: 3\n",
    "option.yaml": SEARCH + "recipe: {type: default, epoch: 2}\n",
    "metric.yaml": SEARCH.replace("objectives: [macs]", "objectives: [macks]"),
    "compare.yaml": "space: fbnet\nseedz: 3\n",
    "rank.yaml": "space: fbnet\ntruht: 3\n",
}
COMMANDS = {
    "plugins": (0, "evolution"),
    "search key.yaml": (2, "budgett"),
    "search option.yaml": (2, "has no option 'epoch'"),
    "search metric.yaml": (2, "unknown metric 'macks'"),
    "compare compare.yaml": (2, "seedz"),
    "rank rank.yaml": (2, "truht"),
    "evaluate no_such_network": (2, "no_such_network"),
    "info fbnet_z": (2, "fbnet_z"),
}

SCRIPT = """
import io, json, sys
from archloom import cli, console
heavy, found, commands = set(json.loads(sys.argv[2])), {}, json.loads(sys.argv[1])
for command in commands:
    sys.argv = ["archloom", *command.split()]
    told = io.StringIO()
    console.out.file = console.err.file = told
    code = 0
    try:
        cli.main()
    except SystemExit as leaving:
        code = leaving.code or 0
    found[command] = [code, told.getvalue(), sorted(heavy & sys.modules.keys())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """Of each command, typed one after the other into one process: exit code, output, and what was imported."""
    folder: Path = tmp_path_factory.mktemp("typed")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(COMMANDS)), json.dumps(HEAVY)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_listing_or_a_mistake_is_told_before_any_library_that_is_not_needed_for_it(typed, command):
    code, told, imported = typed[command]
    assert (code, imported) == (COMMANDS[command][0], []), told
    assert COMMANDS[command][1] in told
