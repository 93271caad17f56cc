"""The columns of a verdict's tables, each in one place: what it is called, and how it is measured and printed.

    COSTS       what a trained network costs; a column that is added here stands in the terminal, in the report and in
                result.json
    ACCURACY    what networks are judged by where the task sorts images into classes; `judged_by` of any other

No torch at import: reports are written without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from .cost import Cost
    from .model import Model


@dataclass(frozen=True)
class Tested:
    """A trained network that its costs are measured of. shape: (C, H, W) of an image; example: one image, (1, C, H, W),
    on `device`."""

    model: Model
    shape: tuple[int, ...]
    example: torch.Tensor
    device: torch.device

    @cached_property
    def cost(self) -> Cost:
        """Its params and MACs."""
        from .cost import count

        return count(self.model, self.shape)


@dataclass(frozen=True)
class Column:
    """A figure of the networks of a verdict.

    metric: its name among a training's metrics. decimals: how many are printed. summary: what stands for several
    trainings. measure: gives it, and any metrics beside it; None where another column's does. ends: the metrics
    between which most of its values lie, and what these ends are. axis: its title in the plot against what networks
    are judged by; without one it has no plot. key: its older name in result.json, where it stands there twice. noun:
    what sentences call it, where that is not its title.
    """

    metric: str
    title: str
    unit: str = "1"
    decimals: int = 2
    summary: Literal["mean", "median"] = "mean"
    measure: Callable[[Tested], Mapping[str, float]] | None = None
    ends: tuple[str, str, str] | None = None
    axis: str = ""
    key: str = ""
    noun: str = ""

    def text(self, value: float | None) -> str:
        """A value as it is printed; "-" for none."""
        return "-" if value is None else f"{value:,.{self.decimals}f}"


def _counted(network: Tested) -> dict[str, float]:
    return {"params": network.cost.params, "macs": network.cost.macs}


def _timed(network: Tested) -> dict[str, float]:
    from .latency import measure

    timing = measure(network.model, network.example, device=network.device)
    return {
        "latency.measured": timing.median,
        "latency.measured.low": timing.low,
        "latency.measured.high": timing.high,
    }


_ENDS = ("latency.measured.low", "latency.measured.high", "10th to 90th percentile")

COSTS: tuple[Column, ...] = (
    Column("macs", "MACs", decimals=0, measure=_counted, axis="MACs", key="macs"),
    Column("params", "params", decimals=0, key="params"),
    # the median, since one disturbed timing would rule the mean
    Column(
        "latency.measured",
        "latency ms",
        unit="ms",
        summary="median",
        measure=_timed,
        ends=_ENDS,
        axis="measured latency, ms",
        key="latency",
        noun="measured latency",
    ),
)
"""In the order of the tables."""


def costs_of(network: Tested) -> dict[str, float]:
    """All that the columns measure of a trained network."""
    metrics: dict[str, float] = {}
    for column in COSTS:
        if column.measure is not None:
            metrics |= column.measure(network)
    return metrics


@dataclass(frozen=True)
class Judged:
    """The metric that networks are judged by, and the words for it.

    of: what a difference is one of ("points of test accuracy"). better, worse, alike: what a network is. margin: two
    values are alike where their whole difference, with its 95 % interval, is below it; None for a hundredth of the
    random networks' mean. cost: what they cost is compared by.
    """

    column: Column
    direction: Literal["max", "min"]
    noun: str
    of: str
    better: str
    worse: str
    alike: str
    margin: float | None = None
    cost: Column = COSTS[0]

    @property
    def costs(self) -> tuple[Column, ...]:
        """What a table shows of a group's costs: the columns of all, and `cost` where it is none of them."""
        return COSTS if self.cost.metric in [column.metric for column in COSTS] else (*COSTS, self.cost)

    @property
    def metric(self) -> str:
        """Its name among a training's metrics."""
        return self.column.metric

    def to_json(self) -> dict[str, Any]:
        """Name, unit and direction, and the cost where that is not MACs: `judged_by` makes it from these."""
        name = self.metric.removeprefix("test.")
        cost = {"cost": {"name": self.cost.metric, "unit": self.cost.unit}}
        plain = {"name": name, "unit": self.column.unit, "direction": self.direction}
        return plain if self.cost.metric == "macs" else plain | cost


AS_ACCURATE = 1.0
"""Two accuracies are alike where their whole difference, with its 95 % interval, is below so many points."""

ACCURACY = Judged(
    Column("test.accuracy", "test top-1 %", unit="%", axis="test top-1, %", key="accuracy"),
    "max",
    "accuracy",
    "points of test accuracy",
    "more accurate",
    "less accurate",
    "as accurate",
    AS_ACCURATE,
)


def judged_by(
    name: str, unit: str, direction: Literal["max", "min"], cost: Mapping[str, str] | None = None
) -> Judged:
    """What networks are judged by on a task whose first metric this is. cost: name and unit of what they cost is
    compared by; None for MACs."""
    judged = _reached(name, unit, direction)
    return judged if cost is None else replace(judged, cost=_cost(**cost))


def _cost(name: str, unit: str) -> Column:
    known = {column.metric: column for column in COSTS}
    title = name if unit in ("", "1") else f"{name} {unit}"
    return known[name] if name in known else Column(name, title, unit, decimals=4, noun=name)


def _reached(name: str, unit: str, direction: Literal["max", "min"]) -> Judged:
    if (name, unit, direction) == ("accuracy", "%", "max"):
        return ACCURACY
    plain = unit in ("", "1")
    column = Column(
        f"test.{name}",
        f"test {name}" if plain else f"test {name} {unit}",
        unit=unit,
        decimals=2 if unit == "%" else 4,
        axis=f"test {name}" if plain else f"test {name}, {unit}",
    )
    return Judged(
        column,
        direction,
        name,
        f"in test {name}" if plain else f"{unit} of test {name}",
        f"better in {name}",
        f"worse in {name}",
        f"as good in {name}",
    )
