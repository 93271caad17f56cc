"""Whole searches in spaces whose shared networks are not chains: trained, searched, kept, gone on with, built again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import yaml

import archloom
from archloom.architecture import Architecture
from archloom.errors import ConfigError
from archloom.session import resume, search
from archloom.space import check
from toys import comparable, config, host
from wired import Auxiliary, Cells, Elastic


class Wired:
    """Registers the spaces of `wired`."""

    @archloom.hookimpl
    def register_search_spaces(self, register: Any) -> None:
        register("cells", Cells)
        register("elastic", Elastic)
        register("auxiliary", Auxiliary)


CREAM = {"type": "cream", "epochs": 2, "batch_size": 16, "start_epoch": 0, "board": 2, "recalibration": 1}
FBNET = {"type": "fbnet", "epochs": 2, "warmup_epochs": 1, "batch_size": 16, "cost": "macs", "samples": 3}


def configured(space: str, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return config(
        space=space,
        method=method,
        strategy=None,
        estimators=["macs", {"type": "inherited_accuracy", "batches": 1, "recalibration": 1}, "synflow"],
        objectives=["accuracy.inherited"],
        budget={"trials": 2},
        **changes,
    )


@pytest.mark.parametrize(
    ("space", "method"), [("elastic", CREAM), ("auxiliary", CREAM), ("cells", CREAM), ("cells", FBNET)]
)
def test_a_search_trains_the_shared_network_and_inherits_from_it(space, method, tmp_path):
    found = search(configured(space, method), tmp_path / "run", host=host(Wired()))
    assert [trial.status for trial in found.trials] == ["ok", "ok"]
    again = resume(tmp_path / "run", host=host(Wired()))
    assert [comparable(t) for t in again.trials] == [comparable(t) for t in found.trials]
    made = {"cells": Cells, "elastic": Elastic, "auxiliary": Auxiliary}[space]()
    check(
        made,
        Architecture.from_json(
            json.loads((tmp_path / "run" / "architecture.json").read_text())["architecture"]
        ),
    )
    network = archloom.build(tmp_path / "run", host=host(Wired())).eval()
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_killed_search_over_slices_goes_on_to_the_same_trials(tmp_path):
    given = configured("elastic", CREAM)
    whole = search(given, tmp_path / "whole", host=host(Wired()))
    search(given | {"budget": {"epochs": 1, "trials": 2}}, tmp_path / "cut", host=host(Wired()))
    cut = resume(tmp_path / "cut", host=host(Wired()), overrides=("budget.epochs=99",))
    assert [comparable(t) for t in cut.trials] == [comparable(t) for t in whole.trials]


def test_a_run_of_networks_with_their_own_head_keeps_neither_neck_nor_head(tmp_path):
    search(config(space="elastic"), tmp_path / "run", host=host(Wired()))
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (kept["model"]["neck"], kept["model"]["head"]) == (None, None)


@pytest.mark.parametrize(
    "part", [{"neck": "GlobalAverage"}, {"head": {"type": "LinearHead", "dropout": 0.1}}]
)
def test_a_neck_or_a_head_for_networks_that_own_theirs_is_refused(part):
    with pytest.raises(
        ConfigError, match=f"space 'elastic' own their head; leave {next(iter(part))} out of model"
    ):
        search(config(space="elastic", model=part), host=host(Wired()))


@pytest.mark.parametrize(
    ("space", "method", "told"),
    [
        ("elastic", FBNET, "needs a space that can be mixed"),
        ("digit_space", CREAM, "needs a space that shares weights"),
    ],
)
def test_a_method_in_a_space_that_does_not_offer_what_it_needs_is_refused(space, method, told):
    with pytest.raises(ConfigError, match=told):
        search(configured(space, method), host=host(Wired()))
