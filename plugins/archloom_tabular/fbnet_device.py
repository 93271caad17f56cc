"""What networks of the FBNet space cost on four devices, from published measurements of their layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from archloom import STATIC, Architecture, ConfigError, Context, Metric, SpaceError

Device = Literal["eyeriss", "fpga", "pixel3", "raspi4"]
FORMAT = "archloom FBNet device table 1"
RESOLUTION = 32


@dataclass(frozen=True)
class DeviceTable:
    """latency(architecture) = base_ms + sum over the layers l of table_ms[l][block of l], in milliseconds."""

    blocks: Sequence[str]
    base_ms: float
    table_ms: Sequence[Sequence[float]]

    @classmethod
    def shipped(cls, device: str) -> DeviceTable:
        """The table of one device; a ConfigError that lists the devices where there is none."""
        data = json.loads(
            resources.files(__package__).joinpath("fbnet_devices.json").read_text(encoding="utf-8")
        )
        if device not in data["devices"]:
            raise ConfigError(
                f"fbnet_device knows no device '{device}'; it knows {', '.join(data['devices'])}"
            )
        return cls(blocks=data["blocks"], **data["devices"][device])

    def latency(self, blocks: Sequence[Any]) -> float:
        """Milliseconds of a network given by its layers' blocks, in order; a SpaceError for another space's."""
        if len(blocks) != len(self.table_ms):
            raise SpaceError(
                f"the device tables are of the FBNet space with {len(self.table_ms)} layers; this architecture "
                f"has {len(blocks)} decisions"
            )
        unknown = [block for block in blocks if block not in self.blocks]
        if unknown:
            raise SpaceError(
                f"the device tables have no block '{unknown[0]}'; they have {', '.join(self.blocks)}"
            )
        costs = (row[self.blocks.index(block)] for row, block in zip(self.table_ms, blocks, strict=True))
        return self.base_ms + sum(costs)


class FBNetDevice:
    """Milliseconds on a device, as HW-NAS-Bench's measured layers add up, for the FBNet space's CIFAR form.

    device: "eyeriss" (an ASIC, simulated), "fpga", "pixel3" (a phone) or "raspi4". Batch 1, 32x32 images, 100
    classes. Spaces of another form and images of another size are refused: the numbers do not hold for them.
    """

    expense, needs = STATIC, ()

    def __init__(self, *, device: Device) -> None:
        self.table = DeviceTable.shipped(device)
        self.metrics = (Metric(f"latency.{device}", "ms", "min"),)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        form = getattr(context.space, "form", "cifar")
        resolution = context.shape(architecture)[1:]
        if form != "cifar" or resolution != (RESOLUTION, RESOLUTION):
            raise ConfigError(
                f"fbnet_device holds for the FBNet space's form 'cifar' at {RESOLUTION}x{RESOLUTION}, not for "
                f"form '{form}' at {resolution[0]}x{resolution[1]}; measure a table of your own with "
                "`archloom latency build`"
            )
        blocks = [architecture[choice.name] for choice in context.space.choices]
        return {self.metrics[0].name: self.table.latency(blocks)}
