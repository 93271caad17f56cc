from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import TensorDataset

from archloom.architecture import Architecture, Choice
from archloom.errors import ConfigError
from archloom.estimator import Context
from archloom.latency import LatencyTable, build_table
from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.space import Around, build_chain
from archloom_estimators import (
    InheritedAccuracy,
    Macs,
    MeasuredLatency,
    Params,
    TableLatency,
    TrainedAccuracy,
)


class Blocks:
    """Two layers of kernel 1 or 7; the wide one takes measurably longer."""

    choices = (Choice("layer0", ("k1", "k7")), Choice("layer1", ("k1", "k7")))

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        return nn.Conv2d(16, 16, int(option[1]), padding=int(option[1]) // 2)

    def around(self, body: nn.Module) -> nn.Module:
        return Around(nn.Conv2d(1, 16, 3, padding=1), body)

    def build(self, architecture: Architecture) -> nn.Module:
        return build_chain(self, architecture)


class Halves:
    """A task of two classes, bright above or bright below: a few steps suffice to tell them apart."""

    name, shape, classes = "halves", (1, 8, 8), ("above", "below")

    def dataset(self, *splits, augment=False, resolution=None):
        side = resolution or 8
        y = torch.arange(64) % 2
        x = 0.3 * torch.randn(64, 1, side, side, generator=torch.Generator().manual_seed(len(splits[0])))
        x[y == 0, :, : side // 2] += 1
        x[y == 1, :, side // 2 :] += 1
        return TensorDataset(x, y)


def arch(first: str, second: str) -> Architecture:
    return Architecture({"layer0": first, "layer1": second})


def context(
    space=None, task=None, supernet=None, parts=None, recorded=lambda name, measure: measure(), seed=0
) -> Context:
    return Context(
        space or Blocks(),
        task or Halves(),
        parts or ModelParts(),
        seed,
        torch.device("cpu"),
        "float32",
        recorded,
        supernet,
    )


def test_params_and_macs_of_mobilenet_v2_are_torchvisions():
    """torchvision prints 3,504,872 parameters and 0.30 GMACs; 300,774,272 by the sum over its layers."""

    class MobileNet:
        choices = (Choice("only", ("one",)),)

        def build(self, architecture):
            return torchvision.models.mobilenet_v2(weights=None).features

    task = SimpleNamespace(name="imagenet", shape=(3, 224, 224), classes=tuple(map(str, range(1000))))
    given = context(MobileNet(), task)
    only = Architecture({"only": "one"})
    assert Params().estimate(only, given) == {"params": 3_504_872}
    assert Macs().estimate(only, given) == {"macs": 300_774_272}


def test_params_and_macs_are_those_of_the_formula_with_neck_and_head():
    given, path = context(), arch("k1", "k7")
    convolutions = 8 * 8 * (1 * 16 * 9 + 16 * 16 * 1 + 16 * 16 * 49)
    assert Macs().estimate(path, given) == {"macs": convolutions + 16 * 2}
    params = (9 * 16 + 16) + (16 * 16 + 16) + (16 * 16 * 49 + 16) + (16 * 2 + 2)
    assert Params().estimate(path, given) == {"params": params}


def test_a_measured_latency_is_positive_and_its_spread_in_order():
    metrics = MeasuredLatency(runs=15, warmup=2).estimate(arch("k1", "k7"), context())
    assert (
        0 < metrics["latency.measured.low"] <= metrics["latency.measured"] <= metrics["latency.measured.high"]
    )
    assert set(metrics) == {metric.name for metric in MeasuredLatency.metrics}


def test_a_tables_latency_is_the_sum_of_its_entries(tmp_path):
    table = build_table(Blocks(), (1, 8, 8), 2, runs=3, warmup=1)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table.to_json()))
    for first, second in (("k1", "k1"), ("k7", "k1"), ("k7", "k7")):
        expected = sum(table.entries[key].median for key in table.fixed)
        expected += table.entries[table.layers["layer0"][first]].median
        expected += table.entries[table.layers["layer1"][second]].median
        found = TableLatency(table=str(path)).estimate(arch(first, second), context())
        assert found["latency.table"] == pytest.approx(expected)


def test_a_table_that_is_not_given_is_measured_once_and_recorded():
    kept, calls = {}, []

    def recorded(name, measure):
        if name not in kept:
            calls.append(name)
            kept[name] = json.loads(json.dumps(measure()))
        return kept[name]

    first = TableLatency(runs=3).estimate(arch("k1", "k7"), context(recorded=recorded))
    second = TableLatency(runs=3).estimate(arch("k1", "k7"), context(recorded=recorded))
    assert first == second
    assert calls == ["latency_table"]
    assert LatencyTable.from_json(kept["latency_table"]).latency(arch("k1", "k7")) == first["latency.table"]


def test_a_table_of_another_space_is_refused(tmp_path):
    class Other(Blocks):
        choices = (Choice("stage", ("k1", "k7")),)

    path = tmp_path / "table.json"
    path.write_text(json.dumps(build_table(Other(), (1, 8, 8), 2, runs=2, warmup=0).to_json()))
    with pytest.raises(ConfigError, match="belongs to another space"):
        TableLatency(table=str(path)).estimate(arch("k1", "k1"), context())
    with pytest.raises(ConfigError, match=r"cannot read the latency table gone\.json"):
        TableLatency(table="gone.json")


def test_trained_accuracy_learns_and_is_a_function_of_the_trials_seed():
    estimator = TrainedAccuracy(epochs=4, batch_size=16, lr=0.05)
    first = estimator.estimate(arch("k1", "k7"), context(seed=3))
    torch.manual_seed(5)
    assert estimator.estimate(arch("k1", "k7"), context(seed=3)) == first
    assert first["accuracy.trained"] > 90
    assert estimator.epochs == 4


def test_inherited_accuracy_without_a_supernet_is_refused():
    with pytest.raises(ConfigError, match="needs a method that trains a supernet"):
        InheritedAccuracy().estimate(arch("k1", "k1"), context())


def test_all_are_registered_with_their_metrics_units_and_directions():
    host = Host()
    told = {}
    for name in ("params", "macs", "latency", "latency_table", "accuracy", "inherited_accuracy"):
        entry = host.get("estimator", name)
        told |= {metric.name: (metric.unit, metric.direction) for metric in entry.factory.metrics}
    assert told["params"] == ("parameters", "min")
    assert told["macs"] == ("MACs", "min")
    assert told["latency.measured"] == told["latency.table"] == ("ms", "min")
    assert told["accuracy.trained"] == told["accuracy.inherited"] == ("%", "max")
