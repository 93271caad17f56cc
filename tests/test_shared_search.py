"""Whole searches in spaces whose shared networks are not chains: trained, searched, kept, gone on with, built again."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import yaml

import archloom
from archloom.architecture import Architecture
from archloom.errors import ArchloomError, ConfigError, SpaceError
from archloom.model import ModelParts, assemble
from archloom.session import resume, search
from archloom.shared import Supernet
from archloom.space import check
from archloom.testing import tiny_task
from archloom.training import Recipe, train
from archloom_fbnet.space import FBNetSpace
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


# -- by name ----------------------------------------------------------------------------------------------------


def test_the_shared_network_of_a_space_is_had_by_its_name():
    network = archloom.supernet("elastic", 7, host=host(Wired()))
    assert network(torch.zeros(2, 1, 8, 8), Architecture({"width": 4})).shape == (2, 7)
    small = {"form": "small", "in_channels": 1, "stages": [[8, 2, 2]], "candidates": ["ir_k3_e1", "skip"]}
    chain = archloom.supernet("fbnet", seed=3, **small)
    same = Supernet(FBNetSpace(**small), 3)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in chain.state_dict().items())


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("digit_space", {}, "space 'digit_space' shares no weights"),
        ("cells", {"num_classes": 10}, "end at features"),
        ("elastic", {"widht": 3}, "widht"),
        ("elasticc", {}, "did you mean 'elastic'"),
    ],
)
def test_a_name_or_option_that_means_no_shared_network_is_refused(name, given, told):
    with pytest.raises(ArchloomError, match=told):
        archloom.supernet(name, host=host(Wired()), **given)


def test_a_space_that_is_made_is_refused_with_the_function_that_takes_one():
    with pytest.raises(
        ConfigError, match=r"by name, not of a Wired.*shared_network\(space, seed, num_classes\)"
    ):
        archloom.supernet(Wired(), num_classes=10)


# -- training from scratch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.9, "label_smoothing": 0.1, "mixup": 0.2}])
def test_a_network_with_an_auxiliary_head_is_trained_with_it_and_judged_without(recipe):
    task, space = tiny_task(), Auxiliary()
    path = Architecture({"first": "k1", "second": "k3"})

    def trained(weight):
        model = assemble(space, path, task, ModelParts(), seed=0)
        model.loss.weight = weight
        epochs = list(train(model, task, Recipe(epochs=2, batch_size=16, weight_decay=0.0, **recipe), seed=0))
        return model, epochs[-1]

    (without, _), (model, last) = trained(0.0), trained(0.4)
    untrained = assemble(space, path, task, ModelParts(), seed=0)
    assert torch.equal(without.backbone.early.weight, untrained.backbone.early.weight)
    assert not torch.equal(model.backbone.early.weight, untrained.backbone.early.weight)
    assert not torch.equal(model.backbone.stem.weight, without.backbone.stem.weight)
    assert 0 <= last.metrics["validation.accuracy"] <= 100
    assert last.network.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


class Deep(Cells):
    """Three copies of the two cells, searched in a network that has them once."""

    @property
    def proxy(self) -> Cells:
        return Cells(in_channels=self.in_channels)

    def wire(self, layers: Any) -> Any:
        once = super().wire(layers)
        return torch.nn.Sequential(once, *(copy.deepcopy(once.body) for _ in range(2)))


class Proxied:
    @archloom.hookimpl
    def register_search_spaces(self, register: Any) -> None:
        register("deep", Deep)


@pytest.mark.parametrize("method", [CREAM, FBNET])
def test_a_space_with_a_proxy_is_searched_in_the_proxy_and_built_in_full(method, tmp_path):
    found = search(configured("deep", method), tmp_path / "run", host=host(Proxied()))
    assert [trial.status for trial in found.trials] == ["ok", "ok"]
    assert not (tmp_path / "run" / "inherited.safetensors").exists()
    assert not found.problems
    digits = archloom.make(host(), "task", "digits")
    for trial in found.trials:
        built = assemble(Deep(), trial.architecture, digits, ModelParts(), seed=0)
        assert trial.metrics["macs"] == archloom.count(built, (1, 8, 8)).macs
    network = archloom.build(tmp_path / "run", host=host(Proxied()))
    assert len(network.backbone) == 3
    again = resume(tmp_path / "run", host=host(Proxied()))
    assert [comparable(t) for t in again.trials] == [comparable(t) for t in found.trials]


def test_a_proxy_with_other_choices_is_refused_before_anything_runs(tmp_path):
    class Other(Cells):
        proxy = Elastic()

    class Registers:
        @archloom.hookimpl
        def register_search_spaces(self, register: Any) -> None:
            register("other", Other)

    with pytest.raises(SpaceError, match="proxy has other choices"):
        search(configured("other", FBNET), tmp_path / "run", host=host(Registers()))
    assert not (tmp_path / "run").exists()
