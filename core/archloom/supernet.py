"""A supernet: one module that holds every candidate of a space, and the draws that mix them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture
from .drawing import own_rng
from .errors import SpaceError
from .ops import mixed_sum
from .space import check


@dataclass(frozen=True)
class Mixture:
    """How one choice's candidates are weighted: `weights` (n,), and the positions that are run."""

    weights: Tensor
    active: tuple[int, ...]


Selection = Architecture | Mapping[str, int | Mixture]
"""One path (an architecture, or a position for each choice) or a mixture for each choice."""

Draw = Callable[[Tensor, float, torch.Generator | None], Mixture]
"""theta (n,), temperature, generator -> Mixture. The whole difference between differentiable methods."""


def _gumbel(theta: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of theta's shape, drawn on the CPU so that every device draws the same."""
    uniform = torch.rand(theta.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(min=1e-20)))
    return noise.to(theta.device, theta.dtype)


def softmax(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """DARTS: w = softmax(theta / tau), no noise; every candidate is run."""
    return Mixture(F.softmax(theta / temperature, dim=0), tuple(range(len(theta))))


def gumbel_softmax(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """FBNet, SNAS: w = softmax((theta + g) / tau), g ~ Gumbel(0, 1); every candidate is run."""
    weights = F.softmax((theta + _gumbel(theta, generator)) / temperature, dim=0)
    return Mixture(weights, tuple(range(len(theta))))


def straight_through(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """GDAS: the Gumbel softmax's largest entry as one, the others as zero; one path is run.

    In the backward pass every weight is the soft one, as in PyTorch's gumbel_softmax(hard=True): a cost that is a sum
    over all candidates gets the gradient of its expectation. The loss reaches the weight of the one that was run.
    """
    soft = gumbel_softmax(theta, temperature, generator).weights
    chosen = int(soft.detach().argmax())
    hard = torch.zeros_like(soft)
    hard[chosen] = 1
    return Mixture(hard - soft.detach() + soft, (chosen,))


def top_k(k: int) -> Draw:
    """The k largest entries of the Gumbel softmax, scaled to sum one; k paths are run.

    At k = 1 it is `straight_through`: scaling would make the single weight a constant.
    """
    if k == 1:
        return straight_through

    def draw(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
        soft = gumbel_softmax(theta, temperature, generator).weights
        active = torch.topk(soft.detach(), min(k, len(theta))).indices.sort().values
        kept = torch.zeros_like(soft).index_fill(0, active, 1.0)
        return Mixture(soft * kept / (soft * kept).sum(), tuple(active.tolist()))

    return draw


class SharedChoice(nn.Module):
    """All candidates of one choice, each with its own weights."""

    def __init__(self, options: list[nn.Module]) -> None:
        super().__init__()
        self.options = nn.ModuleList(options)

    def forward(self, x: Tensor, selection: int | Mixture) -> Tensor:
        if not isinstance(selection, Mixture):
            return self.options[selection](x)
        outputs = [
            option(x) if position in selection.active else None
            for position, option in enumerate(self.options)
        ]
        return mixed_sum(outputs, selection.weights)


class SharedChain(nn.Module):
    """The supernet's body: `SharedChoice`s in sequence, each under the name of its choice.

    `selection` says what is run, and is set by the supernet alone: the network around the body takes images only.
    """

    def __init__(self, layers: Mapping[str, SharedChoice]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.selection: Mapping[str, int | Mixture] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.selection is None:
            raise SpaceError(
                "a supernet runs what it is given: supernet(x, architecture), or a position or Mixture for each choice"
            )
        for name, layer in self.named_children():
            x = layer(x, self.selection[name])
        return x


class Supernet(nn.Module):
    """Every candidate of `space` in one module, ending at the feature map.

    `supernet(x, architecture)` runs one path, `supernet(x, {choice: Mixture or position})` a mixture.
    Weights are drawn from `seed`. A space without `candidate` and `around` is refused.
    """

    def __init__(self, space: Any, seed: int) -> None:
        super().__init__()
        if not (hasattr(space, "candidate") and hasattr(space, "around")):
            raise SpaceError(
                f"{type(space).__name__} shares no weights: a supernet needs its 'candidate' and 'around'"
            )
        self.space = space
        layers: dict[str, SharedChoice] = {}
        with own_rng(seed, "supernet"):
            for choice in space.choices:
                options = [space.candidate(choice, option) for option in choice.options]
                if all(option is None for option in options):
                    continue  # no layer: a resolution, say
                if any(option is None for option in options):
                    raise SpaceError(
                        f"choice '{choice.name}' has a module for some of its options and none for others"
                    )
                layers[choice.name] = SharedChoice(options)
            body = SharedChain(layers)
            self.network: nn.Module = space.around(body)
        self.layers = {name: [str(o) for o in c.options] for c in space.choices if (name := c.name) in layers}
        self._prefix = _path_of(self.network, body)

    def forward(self, x: Tensor, selection: Selection) -> Tensor:
        body: Any = self.network.get_submodule(self._prefix[:-1])
        body.selection = self.positions(selection) if isinstance(selection, Architecture) else selection
        try:
            return self.network(x)
        finally:
            body.selection = None

    def positions(self, architecture: Architecture) -> dict[str, int]:
        """The index of each decision that is a layer."""
        return {c.name: c.index(architecture[c.name]) for c in self.space.choices if c.name in self.layers}

    def path_parameters(self, architecture: Architecture) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that one path uses: stem, tail and the chosen candidates."""
        used = set(self._child_keys(architecture).values())
        return ((name, p) for name, p in self.network.named_parameters() if name in used)

    def extract(self, architecture: Architecture) -> nn.Module:
        """`space.build(architecture)` with this supernet's weights copied into it; the supernet is untouched."""
        architecture = check(self.space, architecture)
        with own_rng(0, "extract"):
            child: nn.Module = self.space.build(architecture)
        shared = self.network.state_dict()
        keys = self._child_keys(architecture, child)
        child.load_state_dict({ours: shared[theirs].detach().cpu().clone() for ours, theirs in keys.items()})
        return child.to(next(iter(shared.values())).device)

    def _child_keys(self, architecture: Architecture, child: nn.Module | None = None) -> dict[str, str]:
        """key of the child's state -> key of the supernet's network."""
        chosen = self.positions(architecture)
        keys = {}
        for key in self.network.state_dict():
            if not key.startswith(self._prefix):
                keys[key] = key
                continue
            layer, _, option, rest = key[len(self._prefix) :].split(".", 3)
            if chosen[layer] == int(option):
                keys[f"{self._prefix}{layer}.{rest}"] = key
        if child is not None and set(keys) != set(child.state_dict()):
            odd = sorted(set(keys) ^ set(child.state_dict()))[:4]
            raise SpaceError(
                f"{type(self.space).__name__}.build and its supernet disagree about {odd}: build must use "
                "'candidate' and 'around' (space.build_chain does)"
            )
        return keys


def _path_of(network: nn.Module, body: nn.Module) -> str:
    for name, module in network.named_modules():
        if module is body:
            return f"{name}." if name else ""
    raise SpaceError("the space's 'around(body)' does not hold the body that it was given")
