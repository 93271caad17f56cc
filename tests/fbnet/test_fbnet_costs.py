from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from archloom.cost import count
from archloom.errors import ConfigError
from archloom.latency import LatencyTable, Setting, Timing
from archloom.model import ModelParts
from archloom.shared import Supernet
from archloom_fbnet.costs import (
    counted_costs,
    latency_costs,
    measured_costs,
    read_table,
    write_reference_table,
)
from archloom_fbnet.space import FBNetSpace

TINY: dict[str, Any] = {"stages": [[16, 1, 1], [24, 2, 2]], "candidates": ["ir_k3_e1", "ir_k3_s2", "skip"]}


def tiny_table(factor: float = 1.0) -> LatencyTable:
    options = TINY["candidates"]
    entries = {
        f"layer{layer} {o}": Timing(factor * (layer + i + 0.5), 0, 99, 9)
        for layer in range(3)
        for i, o in enumerate(options)
    }
    layers = {f"layer{layer}": {o: f"layer{layer} {o}" for o in options} for layer in range(3)}
    entries["stem"] = Timing(factor * 7.0, 7.0, 7.0, 9)
    return LatencyTable(entries, layers, ["stem"], Setting("cpu", "float32", 1, 2, "2"))


def test_counted_macs_sum_to_those_of_any_path():
    space = FBNetSpace(**TINY, form="small", head_width=32)
    supernet = Supernet(space, 0)
    path = space.architecture(["skip", "ir_k3_s2", "ir_k3_e1"])
    model = ModelParts().assemble(supernet, shape=(3, 16, 16), num_classes=10, selection=(path,))
    table = counted_costs(model, (3, 16, 16), "M")
    for ops in (["skip"] * 3, ["ir_k3_e1", "skip", "ir_k3_s2"], ["ir_k3_s2", "ir_k3_e1", "skip"]):
        positions = [TINY["candidates"].index(op) for op in ops]
        total = table.base + sum(table.costs[f"layer{i}"][p] for i, p in enumerate(positions))
        assert total * 1e6 == pytest.approx(count(model, (3, 16, 16), space.architecture(ops)).macs)


def test_a_measured_table_is_measured_once_and_holds_stem_and_head():
    space, kept = FBNetSpace(**TINY, form="small", head_width=32), {}

    def recorded(name: str, measure: Any) -> Any:
        if name not in kept:
            kept[name] = json.loads(json.dumps(measure()))
        return kept[name]

    arguments = (space, (3, 8, 8), 10, ModelParts(), torch.device("cpu"), recorded)
    in_us, in_ms = measured_costs(*arguments, "us"), measured_costs(*arguments, "ms")
    assert list(kept) == ["latency_table"]
    assert in_us.base == pytest.approx(1000 * in_ms.base)
    assert in_us.base > 0
    for name in space.layers:
        assert in_us.costs[name] == pytest.approx([1000 * c for c in in_ms.costs[name]])
        assert all(c > 0 for c in in_us.costs[name])


def test_the_unit_of_a_latency_is_a_time():
    table = latency_costs(tiny_table(), FBNetSpace(**TINY), "us")
    assert table.costs["layer1"] == pytest.approx([1500, 2500, 3500])
    assert table.base == pytest.approx(7000)
    assert table.cheapest == pytest.approx(7000 + 500 + 1500 + 2500)
    with pytest.raises(ConfigError, match="not 'M'"):
        latency_costs(tiny_table(), FBNetSpace(**TINY), "M")


def test_both_file_formats_are_read(tmp_path):
    space = FBNetSpace(**TINY)
    (tmp_path / "ours.json").write_text(json.dumps(tiny_table().to_json()))
    write_reference_table(tiny_table(), tmp_path / "theirs.txt")
    ours, theirs = read_table(tmp_path / "ours.json", space), read_table(str(tmp_path / "theirs.txt"), space)
    assert (tmp_path / "theirs.txt").read_text().splitlines()[0] == "ir_k3_e1 ir_k3_s2 skip"
    for name in space.layers:
        assert theirs.costs(name) == pytest.approx(ours.costs(name), rel=1e-15)
    assert (ours.base, theirs.base) == (7.0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ir_k3_e1 ir_k3_s2 skip\n1 2 3\n1 2 3\n", "has 2 layers, the space has 3"),
        ("ir_k3_e1 ir_k3_s2 skip\n1 2 3\n1 2\n1 2 3\n", "layer1: there must be 3 times"),
        ("ir_k3_e1 ir_k3_s2 skip\n1 2 3\n1 2 x\n1 2 3\n", "layer1: could not convert"),
        ("ir_k3_e1 ir_k3_s2 skip\n1 2 3\n1 2 nan\n1 2 3\n", "layer1: there must be 3 times"),
        ("ir_k3_s2 ir_k3_e1 skip\n1 2 3\n1 2 3\n1 2 3\n", "options for 'layer0'"),
        ("", "has 0 layers"),
        ("{", "is no JSON"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_the_place(content, message, tmp_path):
    path = tmp_path / "table"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_table(path, FBNetSpace(**TINY))


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the latency table"):
        read_table(tmp_path / "nowhere.txt", FBNetSpace(**TINY))
