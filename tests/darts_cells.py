"""The search network of DARTS (Liu et al., ICLR 2019) as a space that wires its layers: cells, edges, shared alphas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from archloom import Architecture, Choice, build_wired
from archloom.graphs import typed

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NODES = 4
EDGES = [(source, node) for node in range(NODES) for source in range(2 + node)]
"""The edges of a cell in their order: from which of the cell's states, 0 and 1 its inputs, to which node."""


class Rectified(nn.Module):
    """ReLU first, then what is given."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), *layers)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """A depthwise convolution, 1x1, BatchNorm."""
    padding = dilation * (kernel // 2)
    first = nn.Conv2d(
        channels, channels, kernel, stride, padding, dilation=dilation, groups=channels, bias=False
    )
    return [first, nn.Conv2d(channels, channels, 1, bias=False), norm(channels)]


class FactorizedReduce(nn.Module):
    """Half of the pixels, by two 1x1 convolutions that look at different ones."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.bn = norm(c_out)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def operation(name: str, channels: int, stride: int) -> nn.Module | None:
    kernel = int(name[-1]) if name[-1].isdigit() else 0
    match name.partition("_")[0]:
        case "max":
            return nn.Sequential(nn.MaxPool2d(kernel, stride, 1), norm(channels))
        case "avg":
            return nn.Sequential(nn.AvgPool2d(kernel, stride, 1, count_include_pad=False), norm(channels))
        case "skip":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "sep":
            second = [nn.ReLU(), *depthwise(channels, kernel, 1)]
            return Rectified(*depthwise(channels, kernel, stride), *second)
        case "dil":
            return Rectified(*depthwise(channels, kernel, stride, dilation=2))
    return None


class Cell(nn.Module):
    """Two maps in, four nodes; a node is the sum of its edges, the cell their concatenation."""

    def __init__(self, edges: Mapping[str, nn.Module], before: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = before, last
        self.edges = nn.ModuleDict(dict(edges))
        ends = [EDGES[int(name.rpartition("_")[2])] for name in edges]
        self.sources = [source for source, _ in ends]
        self.targets = [2 + node for _, node in ends]

    @typed
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        states = [self.preprocess0(x), self.preprocess1(y)]
        for number, edge in enumerate(self.edges.values()):
            given = edge(states[self.sources[number]])
            if given is not None:
                if self.targets[number] == len(states):
                    states.append(given)
                else:
                    states[self.targets[number]] = states[self.targets[number]] + given
        return torch.cat(states[2:], dim=1)


class Network(nn.Module):
    """The stem and the cells, each fed by the two before it; (N, C, H, W) -> the last cell's map."""

    def __init__(self, stem: nn.Module, cells: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.cells = stem, nn.ModuleList(cells)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = y = self.stem(x)
        for cell in self.cells:
            x, y = y, cell(x, y)
        return y


class DartsCells:
    """Cells of two kinds, whose edges share alphas: `relaxed` has one row of eight for each edge of each kind.

    An architecture says of each node of a kind which two edges it keeps, stronger first, and their operations.
    """

    def __init__(self, *, channels: int = 4, cells: int = 4, in_channels: int = 3) -> None:
        self.channels, self.in_channels = channels, in_channels
        self.kinds = ["reduce" if cell in (cells // 3, 2 * cells // 3) else "normal" for cell in range(cells)]
        self.choices = [
            choice
            for kind in ("normal", "reduce")
            for node in range(NODES)
            for slot in range(2)
            for choice in (
                Choice(f"{kind}{node}_op{slot}", OPERATIONS[1:]),
                Choice(f"{kind}{node}_from{slot}", tuple(range(2 + node))),
            )
        ]
        self.relaxed = {
            f"{kind}_{edge}": len(OPERATIONS) for kind in ("normal", "reduce") for edge in range(len(EDGES))
        }
        self.layers = {
            f"cell{cell}_{edge}": f"{kind}_{edge}"
            for cell, kind in enumerate(self.kinds)
            for edge in range(len(EDGES))
        }

    def width(self, cell: int) -> int:
        """The channels of a cell's edges."""
        return self.channels * 2 ** self.kinds[: cell + 1].count("reduce")

    def candidate(self, layer: str, option: int) -> nn.Module | None:
        cell, edge = int(layer.removeprefix("cell").partition("_")[0]), int(layer.rpartition("_")[2])
        stride = 2 if self.kinds[cell] == "reduce" and EDGES[edge][0] < 2 else 1
        return operation(OPERATIONS[option], self.width(cell), stride)

    def wire(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        stem = nn.Sequential(
            nn.Conv2d(self.in_channels, 3 * self.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(3 * self.channels),
        )
        cells, before, last = [], 3 * self.channels, 3 * self.channels
        for number in range(len(self.kinds)):
            width = self.width(number)
            shrunk = number > 0 and self.kinds[number - 1] == "reduce"
            first = FactorizedReduce(before, width) if shrunk else self._square(before, width)
            edges = {name: layer for name, layer in layers.items() if name.startswith(f"cell{number}_")}
            cells.append(Cell(edges, first, self._square(last, width)))
            before, last = last, NODES * width
        return Network(stem, cells)

    def _square(self, c_in: int, c_out: int) -> nn.Module:
        return Rectified(nn.Conv2d(c_in, c_out, 1, bias=False), norm(c_out))

    def violations(self, architecture: Architecture) -> list[str]:
        names = [f"{kind}{node}" for kind in ("normal", "reduce") for node in range(NODES)]
        return [
            f"both edges of {name} come from {architecture[f'{name}_from0']}"
            for name in names
            if architecture[f"{name}_from0"] == architecture[f"{name}_from1"]
        ]

    def chosen(self, architecture: Architecture) -> dict[str, int]:
        kept = {
            f"{kind}_{EDGES.index((architecture[f'{kind}{node}_from{slot}'], node))}": OPERATIONS.index(
                architecture[f"{kind}{node}_op{slot}"]
            )
            for kind in ("normal", "reduce")
            for node in range(NODES)
            for slot in range(2)
        }
        return {layer: kept[decision] for layer, decision in self.layers.items() if decision in kept}

    def derive(self, probabilities: Mapping[str, Sequence[float]]) -> Architecture:
        """Each node keeps the two edges with the likeliest operations, "none" left out of account."""
        decided = {}
        for kind in ("normal", "reduce"):
            for node in range(NODES):
                edges = {
                    source: list(probabilities[f"{kind}_{EDGES.index((source, node))}"])[1:]
                    for source in range(2 + node)
                }
                for slot, source in enumerate(sorted(edges, key=lambda source: -max(edges[source]))[:2]):
                    best = edges[source].index(max(edges[source]))
                    decided[f"{kind}{node}_op{slot}"] = OPERATIONS[1 + best]
                    decided[f"{kind}{node}_from{slot}"] = source
        return Architecture(decided)

    def build(self, architecture: Architecture) -> nn.Module:
        return build_wired(self, architecture)
