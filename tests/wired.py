"""Small spaces whose shared networks are not chains that end at a feature map; several tests share them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom.architecture import Architecture, Choice
from archloom.graphs import is_scripting, typed
from archloom.space import Around, build_chain, check
from archloom.wiring import build_wired

WIDTH = 4


def operation(name: str) -> nn.Module | None:
    """(N, 4, H, W) -> the same; None for "none"."""
    if name == "none":
        return None
    if name == "skip":
        return nn.Identity()
    conv = nn.Conv2d(WIDTH, WIDTH, int(name[1:]), padding=int(name[1:]) // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(WIDTH))


class Cell(nn.Module):
    """Three nodes; the edge whose name ends with "02" leads from node 0 to node 2. A node is the sum of its edges."""

    def __init__(self, edges: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(dict(edges))
        self.sources = [int(name[-2]) for name in edges]
        self.targets = [int(name[-1]) for name in edges]

    @typed
    def forward(self, x: Tensor) -> Tensor:
        nodes = [x, torch.zeros_like(x), torch.zeros_like(x)]
        for number, edge in enumerate(self.edges.values()):
            given = edge(nodes[self.sources[number]])
            if given is not None:  # in the supernet, where nothing stands there
                nodes[self.targets[number]] = nodes[self.targets[number]] + given
        return nodes[1] + nodes[2]


class Cells:
    """Edges of two cells that share their architecture parameters; each node keeps the strongest of its edges.

    An architecture says of node 1 which operation its edge has, of node 2 also which node the edge comes from.
    """

    operations = ("none", "skip", "k1", "k3")
    edges = ("01", "02", "12")

    def __init__(self, *, in_channels: int = 1) -> None:
        self.in_channels = in_channels
        kept = self.operations[1:]
        self.choices = [Choice("op1", kept), Choice("op2", kept), Choice("from2", (0, 1))]
        self.relaxed = {f"edge{edge}": len(self.operations) for edge in self.edges}
        self.layers = {f"c{cell}_{edge}": f"edge{edge}" for cell in range(2) for edge in self.edges}

    def candidate(self, layer: str, option: int) -> nn.Module | None:
        return operation(self.operations[option])

    def wire(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        cells = [Cell({n: m for n, m in layers.items() if n.startswith(f"c{cell}")}) for cell in range(2)]
        return Around(nn.Conv2d(self.in_channels, WIDTH, 3, padding=1), nn.Sequential(*cells))

    def chosen(self, architecture: Architecture) -> dict[str, int]:
        kept = {"01": architecture["op1"], f"{architecture['from2']}2": architecture["op2"]}
        return {f"c{c}_{edge}": self.operations.index(op) for c in range(2) for edge, op in kept.items()}

    def derive(self, probabilities: Mapping[str, Any]) -> Architecture:
        best = {
            edge: max(range(1, 4), key=lambda i, p=probabilities[f"edge{edge}"]: p[i]) for edge in self.edges
        }
        strength = {edge: probabilities[f"edge{edge}"][i] for edge, i in best.items()}
        source = 0 if strength["02"] >= strength["12"] else 1
        kept = (self.operations[best["01"]], self.operations[best[f"{source}2"]], source)
        return Architecture(dict(zip(("op1", "op2", "from2"), kept, strict=True)))

    def build(self, architecture: Architecture) -> nn.Module:
        return build_wired(self, check(self, architecture))


class Sliced(nn.Module):
    """conv -> BatchNorm -> ReLU -> mean -> linear, of which a path takes the first channels."""

    def __init__(self, widths: tuple[int, ...], in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, max(widths), 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(max(widths))
        self.classifier = nn.Linear(max(widths), num_classes)
        self.mixable: dict[str, int] = {}

    def forward(self, x: Tensor, selection: Architecture) -> Tensor:
        n, norm = selection["width"], self.norm
        x = F.conv2d(x, self.conv.weight[:n], padding=1)
        x = F.batch_norm(
            x, norm.running_mean[:n], norm.running_var[:n], norm.weight[:n], norm.bias[:n], self.training
        )
        return F.linear(F.relu(x).mean((2, 3)), self.classifier.weight[:, :n], self.classifier.bias)

    def extract(self, architecture: Architecture) -> nn.Module:
        n, own = architecture["width"], self.state_dict()
        child = classifier(n, self.conv.in_channels, len(self.classifier.bias))
        child.load_state_dict(
            {
                key: own[key][:, :n]
                if key == "classifier.weight"
                else own[key][tuple(slice(s) for s in value.shape)]
                for key, value in child.state_dict().items()
            }
        )
        return child.to(self.conv.weight.device)

    def path_parameters(self, architecture: Architecture) -> Iterator[tuple[str, nn.Parameter]]:
        return self.named_parameters()


class Narrow(nn.Module):
    """A path of `Sliced` as a network of its own."""

    def __init__(self, width: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, num_classes)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def classifier(width: int, in_channels: int, num_classes: int) -> nn.Module:
    return Narrow(width, in_channels, num_classes)


class Elastic:
    """A classifier of 2, 4 or 6 channels that owns its head; all of them share the first channels."""

    owns_head = True

    def __init__(self, *, in_channels: int = 1) -> None:
        self.in_channels = in_channels
        self.choices = [Choice("width", (2, 4, 6))]

    def build(self, architecture: Architecture, num_classes: int) -> nn.Module:
        return Narrow(architecture["width"], self.in_channels, num_classes)

    def shared(self, seed: int, num_classes: int) -> nn.Module:
        return Sliced((2, 4, 6), self.in_channels, num_classes)


class WithAuxiliary(nn.Module):
    """A wired network that owns its head, and in training gives the logits of its first layer as well."""

    auxiliary_weight = 0.3

    def __init__(self, layers: Mapping[str, nn.Module], in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, WIDTH, 1)
        self.layers = nn.ModuleDict(dict(layers))
        self.early = nn.Linear(WIDTH, num_classes)
        self.classifier = nn.Linear(WIDTH, num_classes)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.layers["first"](self.stem(x))
        logits = self.classifier(self.layers["second"](x).mean((2, 3)))
        if not is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half of a condition
            if self.training:
                return logits, self.early(x.mean((2, 3)))
        return logits


class Auxiliary:
    """Two layers with an auxiliary head between them."""

    owns_head = True

    def __init__(self, *, in_channels: int = 1) -> None:
        self.in_channels = in_channels
        self.choices = [Choice("first", ("k1", "k3")), Choice("second", ("k1", "k3"))]
        self.layers = {"first": "first", "second": "second"}

    def candidate(self, layer: str, option: str) -> nn.Module | None:
        return operation(option)

    def wire(self, layers: Mapping[str, nn.Module], num_classes: int) -> nn.Module:
        return WithAuxiliary(layers, self.in_channels, num_classes)

    def build(self, architecture: Architecture, num_classes: int) -> nn.Module:
        return build_wired(self, architecture, num_classes)


class Deep:
    """A chain of one to three layers; the kernel of a layer is decided only where the depth has it."""

    def __init__(self, *, in_channels: int = 1) -> None:
        self.in_channels = in_channels
        self.choices = [
            Choice("depth", (1, 2, 3), ordered=True),
            Choice("kernel0", ("k1", "k3")),
            Choice("kernel1", ("k1", "k3"), when={"depth": (2, 3)}),
            Choice("kernel2", ("k1", "k3"), when={"depth": (3,)}),
        ]

    def candidate(self, choice: Choice, option: Any) -> nn.Module | None:
        return None if choice.name == "depth" else operation(option)

    def around(self, body: nn.Module) -> nn.Module:
        return Around(nn.Conv2d(self.in_channels, WIDTH, 1), body)

    def build(self, architecture: Architecture) -> nn.Module:
        return build_chain(self, architecture)


class TokenNetwork(nn.Module):
    """(N, C, H, W) -> tokens (N, H W / 16, 4)."""

    def __init__(self, layers: Mapping[str, nn.Module], in_channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, WIDTH, 4, stride=4)
        self.mlps = nn.ModuleDict(dict(layers))

    @typed
    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for mlp in self.mlps.values():
            x = x + mlp(x)
        return x


class TokenMean(nn.Module):
    """(N, tokens, C) -> (N, C)."""

    @typed
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Tokens:
    """Patches of 4 x 4 pixels as tokens, and two layers with a hidden width to choose."""

    recommended_model: Mapping[str, Any] = {}

    def __init__(self, *, in_channels: int = 1) -> None:
        self.in_channels = in_channels
        self.choices = [Choice("hidden0", (4, 8)), Choice("hidden1", (4, 8))]
        self.layers = {"mlp0": "hidden0", "mlp1": "hidden1"}

    def candidate(self, layer: str, option: int) -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, option), nn.GELU(), nn.Linear(option, WIDTH)
        )

    def wire(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        return TokenNetwork(layers, self.in_channels)

    def build(self, architecture: Architecture) -> nn.Module:
        return build_wired(self, architecture)
