"""The public face: what plugins import, in one place. Provisional until version 1.0, and pinned here."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import archloom

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text()

PINNED = """
    Architecture ArchloomError Around Chain CheckpointError Choice ConfigError Constraint Context Estimator
    Executor FULL Features Fidelity GlobalAverage Here Host INHERITED ImageTask Job LinearHead Measurer Metric
    Model ModelParts NamedArchitecture Objective Option Outcome PluginError Policy Progress Proposal Ranks
    Recipe Recorded Register Result RunContext STATIC Scoring SearchError SearchSpace SeriesAverage SharedChoice
    SharedNetwork SpaceError Split Strategy Supernet TRAINING Task TaskError Trial UnknownName WeightFormat
    WeightSharing WeightsError assemble_shared batches build build_chain build_model build_wired check count
    decide deepest derive_seed find forked_rng hookimpl input_shape known_parts layout_of load_weights make
    mutate nearest own_rng python_rng resume retrain sample search size stratified_split supernet topk_accuracy
    torch_rng version violations
"""
"""What plugins may rely on. A name that goes from here needs a line in the changelog, and its old path stays."""


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table that has this heading in docs/plugins.md."""
    rows = re.search(rf"^\| {re.escape(heading)} \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", PAGE, re.M)
    assert rows, f"docs/plugins.md has no table {heading}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def public_modules() -> dict[str, set[str]]:
    """module -> names, of the modules beside `archloom` that plugins may import from."""
    found = {}
    for module, _, listed in table("module | for | names"):
        name = module.strip("`")
        whole = "all of its" in listed
        found[name] = set(importlib.import_module(name).__all__ if whole else names(listed))
    return found


def test_the_face_is_what_is_pinned():
    assert set(archloom.__all__) == set(PINNED.split())


def test_each_name_of_the_face_is_there_and_documented_once():
    documented = [name for _, cell in table("for | names of `archloom`") for name in names(cell)]
    assert sorted(documented) == sorted(archloom.__all__)
    for name in archloom.__all__:
        assert getattr(archloom, name) is not None


def test_each_public_module_has_the_names_that_the_page_lists():
    for module, listed in public_modules().items():
        for name in listed:
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_a_type_checker_sees_the_same_face_as_a_program():
    tree = ast.parse((ROOT / "core" / "archloom" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == archloom._LAZY
    assert set(archloom.__all__) == {*seen, "hookimpl", "version"}


def test_nothing_of_the_face_is_a_module_too():
    modules = {path.stem for path in (ROOT / "core" / "archloom").iterdir()}
    assert not modules & set(archloom.__all__)


@pytest.mark.parametrize(
    "name", ["Choice", "Register", "ConfigError", "Host", "Trial", "Objective", "python_rng"]
)
def test_what_needs_no_torch_imports_none(name):
    code = f"import sys, archloom; archloom.{name}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_part_is_made_by_its_name():
    host = archloom.Host()
    assert archloom.make(host, "task", "digits").name == "digits"
    task = archloom.make(host, "task", {"type": "digits", "train_size": 100})
    assert len(task.dataset("weights", "architecture")) == 100
    with pytest.raises(archloom.ConfigError, match="did you mean 'train_size'"):
        archloom.make(host, "task", {"type": "digits", "train_sizes": 100})
    with pytest.raises(archloom.ConfigError, match="task: it needs the key 'type'"):
        archloom.make(host, "task", {"train_size": 100})
