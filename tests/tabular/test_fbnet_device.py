from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from archloom import testing
from archloom.errors import ConfigError, SpaceError
from archloom.estimator import Context
from archloom.model import ModelParts
from archloom.space import sample
from archloom_fbnet import FBNetSpace
from archloom_tabular.fbnet_device import DeviceTable, FBNetDevice

MEASURED = json.loads((Path(__file__).parent.parent / "data" / "fbnet_device_latency.json").read_text())
DEVICES = ["eyeriss", "fpga", "pixel3", "raspi4"]
# HW-NAS-Bench's own example notebook, CIFAR-100: its look-up tables added up for all layers at block 0, for the
# last at block 1, and for the last two at block 1
NOTEBOOK = {
    "raspi4": (17.618579145142576, 17.505280663142912, 17.43969264414045),
    "pixel3": (7.788973100000002, 7.673164100000002, 7.596349100000001),
    "eyeriss": (3.9408960000000004, 3.9004160000000003, 3.8665600000000007),
    "fpga": (10.739520000000002, 10.347840000000001, 10.07136),
}


def context(space: Any, side: int = 32) -> Context:
    task = testing.tiny_task((3, side, side))
    recorded = lambda name, measure: measure()
    return Context(space, task, ModelParts(), 0, torch.device("cpu"), "float32", recorded)


class TestOnADevice(testing.EstimatorContract):
    factory, options = FBNetDevice, {"device": "pixel3"}

    def space(self) -> Any:
        return FBNetSpace(form="cifar")

    def task(self) -> Any:
        return testing.tiny_task((3, 32, 32))


@pytest.mark.parametrize("device", DEVICES)
def test_measured_networks_are_reproduced(device):
    space = FBNetSpace(form="cifar")
    options = space.choices[0].options
    estimator, around = FBNetDevice(device=device), context(space)
    assert len(MEASURED["arch"]) == 300
    for code, latency in zip(MEASURED["arch"], MEASURED["latency_ms"][device], strict=True):
        architecture = space.architecture([options[int(digit)] for digit in code])
        assert estimator.estimate(architecture, around)[f"latency.{device}"] == pytest.approx(
            latency, abs=1e-5
        )


@pytest.mark.parametrize("device", DEVICES)
def test_the_benchmarks_own_totals_are_reproduced(device):
    table = DeviceTable.shipped(device)
    for ones, total in enumerate(NOTEBOOK[device]):
        blocks = [table.blocks[0]] * (22 - ones) + [table.blocks[1]] * ones
        assert table.latency(blocks) == pytest.approx(total, abs=1e-8)


def test_what_the_numbers_do_not_hold_for_is_refused():
    estimator = FBNetDevice(device="fpga")
    imagenet, cifar, small = (FBNetSpace(form=form) for form in ("imagenet", "cifar", "small"))
    tiny = testing.TinySpace()
    skips = imagenet.architecture(["skip"] * 22)
    with pytest.raises(ConfigError, match="form 'imagenet'"):
        estimator.estimate(skips, context(imagenet))
    with pytest.raises(ConfigError, match="at 64x64"):
        estimator.estimate(skips, context(cifar, side=64))
    with pytest.raises(ConfigError, match="form 'small'"):
        estimator.estimate(small.architecture(["skip"] * 7), context(small))
    with pytest.raises(SpaceError, match="22 layers; this architecture has 6"):
        estimator.estimate(sample(tiny, random.Random(0)), context(tiny))
    with pytest.raises(SpaceError, match="no block 'ir_k7_e6'"):
        estimator.table.latency(["skip"] * 21 + ["ir_k7_e6"])
    with pytest.raises(
        ConfigError, match="knows no device 'toaster'; it knows eyeriss, fpga, pixel3, raspi4"
    ):
        DeviceTable.shipped("toaster")
