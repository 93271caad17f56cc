"""What each candidate of each layer costs: from a latency table, or counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from archloom import ConfigError, Model, ModelParts
from archloom.documents import parse_json, read_text
from archloom.latency import LatencyTable, Setting, Timing, build_table
from archloom.weight_sharing import option_costs

Unit = Literal["us", "ms", "K", "M"]
PER_MILLISECOND: Mapping[str, float] = {"us": 1000.0, "ms": 1.0}
PER_MAC: Mapping[str, float] = {"K": 1e-3, "M": 1e-6}


@dataclass(frozen=True)
class CostTable:
    """choice -> the cost of each option in `unit`; `base` is what every architecture pays."""

    unit: Unit
    costs: Mapping[str, Sequence[float]]
    base: float

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """choice -> (n,), float32."""
        return {name: torch.tensor(cost, device=device) for name, cost in self.costs.items()}

    @property
    def cheapest(self) -> float:
        """The cost of the cheapest architecture; NaN where the table has a NaN."""
        lowest = [min(cost) if all(c == c for c in cost) else float("nan") for cost in self.costs.values()]
        return self.base + sum(lowest)

    @property
    def dearest(self) -> float:
        """The cost of the dearest architecture."""
        return self.base + sum(max(cost) for cost in self.costs.values())


def latency_costs(table: LatencyTable, space: Any, unit: Unit) -> CostTable:
    """A latency table's medians in microseconds or milliseconds."""
    if unit not in PER_MILLISECOND:
        raise ConfigError(f"a latency has unit {' or '.join(PER_MILLISECOND)}, not '{unit}'")
    factor = PER_MILLISECOND[unit]
    names = [choice.name for choice in space.choices if choice.name in table.check(space).layers]
    costs = {name: [factor * cost for cost in table.costs(name)] for name in names}
    return CostTable(unit, costs, factor * table.base)


def given_costs(
    path: str,
    space: Any,
    shape: tuple[int, ...],
    num_classes: int,
    parts: ModelParts,
    unit: Unit,
) -> CostTable:
    """Latency by a file's table, which must hold for the space at this geometry."""
    table = read_table(path, space).check(space, shape, num_classes, parts)
    return latency_costs(table, space, unit)


def measured_costs(
    space: Any,
    shape: tuple[int, ...],
    num_classes: int,
    parts: ModelParts,
    device: torch.device,
    recorded: Callable[[str, Callable[[], Any]], Any],
    unit: Unit,
) -> CostTable:
    """Latency on this device, measured once in the run's life."""
    made = recorded(
        "latency_table",
        lambda: build_table(space, shape, num_classes, parts=parts, device=device).to_json(),
    )
    return latency_costs(LatencyTable.from_json(made, "the run's latency table"), space, unit)


def counted_costs(model: Model, shape: tuple[int, ...], unit: Unit) -> CostTable:
    """Multiply-adds in thousands or millions, of a model whose backbone is the space's supernet."""
    if unit not in PER_MAC:
        raise ConfigError(f"multiply-adds have unit {' or '.join(PER_MAC)}, not '{unit}'")
    counted = option_costs(model, shape)
    options = counted.by_decision()
    costs = {name: [PER_MAC[unit] * macs for macs in each] for name, each in options.items()}
    total = PER_MAC[unit] * (counted.base + sum(each[0] for each in options.values()))
    return CostTable(unit, costs, total - sum(cost[0] for cost in costs.values()))


# -- the reference code's text format: a line of names, then one line of microseconds for each layer -------


def read_table(path: str | Path, space: Any) -> LatencyTable:
    """A latency table from archloom's JSON, or from the text format of the reference code.

    The text format has neither stem nor head, no spread and no setting. Raises ConfigError for a file
    that is neither, or that does not have the space's layers and candidates in the space's order.
    """
    text = read_text(path, "the latency table")
    if text.lstrip().startswith("{"):
        return LatencyTable.from_json(parse_json(text, f"the latency table {path}"), str(path)).check(space)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(rows) != len(space.choices):
        raise ConfigError(
            f"the latency table {path} has {len(rows)} layers, the space has {len(space.choices)}"
        )
    entries: dict[str, Timing] = {}
    layers: dict[str, dict[str, str]] = {}
    for choice, row in zip(space.choices, rows, strict=True):
        try:
            milliseconds = [float(word) / 1000 for word in row]
        except ValueError as error:
            raise ConfigError(f"the latency table {path}, {choice.name}: {error}") from error
        if len(milliseconds) != len(names) or not all(0 <= t < float("inf") for t in milliseconds):
            raise ConfigError(
                f"the latency table {path}, {choice.name}: there must be {len(names)} times, not {row}"
            )
        layers[choice.name] = {name: f"{choice.name} {name}" for name in names}
        entries |= {
            f"{choice.name} {n}": Timing(t, t, t, 1) for n, t in zip(names, milliseconds, strict=True)
        }
    unknown = Setting(device="unknown", dtype="float32", batch=1, threads=0, torch="unknown")
    return LatencyTable(entries, layers, [], unknown, source=str(path)).check(space)


def write_reference_table(table: LatencyTable, path: str | Path) -> None:
    """Write the medians in the reference code's text format; stem, head and spread have no place in it."""
    names = [list(options) for options in table.layers.values()]
    if any(other != names[0] for other in names):
        raise ConfigError("the text format has one list of candidates; this table's layers differ in theirs")
    rows = [" ".join(repr(1000 * cost) for cost in table.costs(name)) for name in table.layers]
    Path(path).write_text("\n".join([" ".join(names[0]), *rows]) + "\n", encoding="utf-8")
