"""The shipped table of digits: complete, of the space that it says, and refused to any other."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from archloom.architecture import Architecture
from archloom.config import Part
from archloom.cost import count
from archloom.errors import ConfigError, SpaceError
from archloom.estimator import Context
from archloom.model import ModelParts, assemble
from archloom.plugins import Host
from archloom.resolve import make
from archloom_tabular import DigitsTable

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def table() -> DigitsTable:
    return DigitsTable()


def space_of(table: DigitsTable, **changes: Any) -> Any:
    written = dict(table.document["space"])
    return make(Host(), "space", Part(type=written.pop("type"), options={**written, **changes}))


def context(space: Any) -> Context:
    task = make(Host(), "task", Part(type="digits"))
    return Context(
        space, task, ModelParts(), 0, torch.device("cpu"), "float32", lambda name, measure: measure()
    )


def test_it_has_every_network_of_its_space_three_times(table):
    known = table.known(space_of(table))
    assert len(set(known)) == len(table.rows) == 4**4
    assert table.document["seeds"] == [0, 1, 2]
    assert all(len(row["test"]) == len(row["validation"]) == 3 for row in table.rows.values())


def test_networks_differ_more_than_their_trainings(table):
    """What the table is for: the ratio that it states is at least 2, and is recomputed here."""
    test = [row["test"] for row in table.rows.values()]
    between = statistics.stdev(map(statistics.fmean, test))
    within = statistics.fmean(map(statistics.stdev, test))
    told = table.document["spread of test accuracy in %"]["all"]
    assert told["ratio"] == pytest.approx(between / within)
    assert told["ratio"] >= 2


def test_its_params_and_macs_are_what_archloom_counts(table):
    space, task = space_of(table), make(Host(), "task", Part(type="digits"))
    for architecture in table.known(space)[::37]:
        cost = count(assemble(space, architecture, task, ModelParts(), seed=0), (1, 8, 8))
        told = table.figures(architecture)
        assert (told["params.table"], told["macs.table"]) == (cost.params, cost.macs)


def test_an_estimate_is_the_mean_of_the_trainings(table):
    space = space_of(table)
    architecture = table.known(space)[100]
    told = table.estimate(architecture, context(space))
    assert told["accuracy.table"] == pytest.approx(sum(told[f"accuracy.table.seed{n}"] for n in range(3)) / 3)
    assert set(told) == {metric.name for metric in table.metrics}


def test_another_space_is_refused_and_told_which_is_meant(table):
    with pytest.raises(ConfigError, match=r"parameters before its classifier.*head_width"):
        table.known(space_of(table, head_width=64))
    with pytest.raises(ConfigError, match="has no network 'skip skip skip'"):
        table.known(space_of(table, stages=[[8, 2, 2], [16, 1, 2]]))
    with pytest.raises(SpaceError, match="no row"):
        table.figures(Architecture({"layer0": "skip"}))


def test_the_example_ranks_the_tables_space(table):
    written = yaml.safe_load((ROOT / "examples" / "rank_digits.yaml").read_text())
    assert written["space"] == table.document["space"]


def spoiled(tmp_path: Path, table: DigitsTable, spoil: Any) -> str:
    document = json.loads(json.dumps(table.document))
    spoil(document)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.update(format="2"), "not of the format"),
        (lambda d: d.pop("seeds"), "lacks 'seeds'"),
        (
            lambda d: d["rows"]["skip skip skip skip"]["test"].pop(),
            "'skip skip skip skip' has not 3 accuracies",
        ),
        (lambda d: d["rows"]["skip skip skip skip"].update(macs=None), "'skip skip skip skip' has not"),
    ],
)
def test_a_damaged_file_is_refused(table, tmp_path, spoil, words):
    with pytest.raises(ConfigError, match=words):
        DigitsTable(path=spoiled(tmp_path, table, spoil))


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.json"):
        DigitsTable(path="nowhere.json")
