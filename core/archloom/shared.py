"""Shared networks: one module that holds every network of a space, each of whose weights many of them use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .architecture import Architecture, Choice, Option
from .drawing import own_rng
from .errors import SpaceError
from .mixing import Mixture, Selection
from .ops import mixed_sum
from .space import Chain, check, decide, draw, first_option, violations
from .wiring import chosen, decision_of, is_chain, is_wired, layers_of, outputs_of


@runtime_checkable
class SharedNetwork(Protocol):
    """An `nn.Module` that holds every network of a space.

    mixable: decision -> how many options of it can be run at once, as a weighted sum; empty where none can. A decision
    is a choice, or one of the space's `relaxed`.
    `network(x, architecture)` runs one path; `network(x, {decision: Mixture or position})` runs a mixture, where
    `mixable` is not empty.
    """

    @property
    def mixable(self) -> Mapping[str, int]: ...

    def __call__(self, x: Tensor, selection: Selection, /) -> Any: ...

    def extract(self, architecture: Architecture, /) -> nn.Module:
        """One architecture as a network of its own: `forward(x)`, with copies of the weights or of slices of them.

        torch.fx and torch.jit.script take it. The shared network is untouched.
        """
        ...

    def path_parameters(self, architecture: Architecture, /) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that one path uses, or uses a part of, under their names in `named_parameters()`."""
        ...


def proxy_of(space: Any) -> Any:
    """The space whose shared network is trained: the smaller `proxy` of a space that has one, else the space itself.

    A proxy has the same choices, so that an architecture means a network of both; a SpaceError where it has others.
    """
    proxy = getattr(space, "proxy", None)
    if proxy is None:
        return space
    if list(proxy.choices) != list(space.choices):
        raise SpaceError(
            f"{type(space).__name__}.proxy has other choices than the space; an architecture that is found in the "
            "proxy must be one of the space"
        )
    if bool(getattr(proxy, "owns_head", False)) != bool(getattr(space, "owns_head", False)):
        raise SpaceError(
            f"{type(space).__name__} and its proxy differ in owns_head; their networks must end alike"
        )
    return proxy


def offers(space: Any) -> set[str]:
    """What a space offers to those who need it: "supernet", where a shared network can be made of it; "differentiable",
    where options of that can be run as a weighted sum."""
    space = proxy_of(space)
    own = callable(getattr(space, "shared", None))
    if not (own or is_wired(space) or is_chain(space)):
        return set()
    # a network of its own shares slices of one tensor, as a rule, and says so where it can mix them
    return {"supernet", "differentiable"} if getattr(space, "differentiable", not own) else {"supernet"}


def an_architecture(space: Any) -> Architecture:
    """One architecture of a space, to try things with: the first option of each choice where the space allows that."""
    first = decide(space, first_option)
    if not violations(space, first):
        return first
    for allowed in draw(space, 1, random.Random(0)):
        return allowed
    raise SpaceError(
        f"{type(space).__name__} forbids nearly all of its architectures; express its rules by choices"
    )


def shared_network(space: Any, seed: int, num_classes: int | None = None) -> Any:
    """The `SharedNetwork` of a space, or of its `proxy`: its own where it has `shared`, else a `Supernet`.

    Weights follow `seed`.

    num_classes: of a space with `owns_head`, how many outputs the network has.
    """
    space = proxy_of(space)
    own = getattr(space, "shared", None)
    if own is None:
        return Supernet(space, seed, num_classes)
    with own_rng(seed, "supernet"):
        made = own(seed, *outputs_of(space, num_classes))
    if not isinstance(made, nn.Module) or not isinstance(made, SharedNetwork):
        wanted = [n for n in ("mixable", "extract", "path_parameters") if not hasattr(made, n)]
        raise SpaceError(
            f"{type(space).__name__}.shared gave a {type(made).__name__}, which is no shared network: it lacks "
            f"{', '.join(wanted) or 'being an nn.Module'} (see archloom.shared.SharedNetwork)"
        )
    return made


def relaxed(space: Any) -> dict[str, int]:
    """The architecture parameters of a space: decision -> how many numbers. Its own `relaxed`, else one number for each
    option of each choice that fills a layer."""
    space = proxy_of(space)
    own = getattr(space, "relaxed", None)
    if own is not None:
        return dict(own)
    with own_rng(0, "relaxed"), torch.device("meta"):
        layers = layers_of(space) if is_wired(space) or is_chain(space) else {}
    deciding = set(layers.values())
    return {choice.name: len(choice.options) for choice in space.choices if choice.name in deciding}


def derive(space: Any, probabilities: Mapping[str, Sequence[float]]) -> Architecture:
    """The architecture that architecture parameters mean: the space's own `derive`, else the likeliest option of each
    choice, the first of equal ones."""
    own = getattr(space, "derive", None)
    if own is not None:
        return check(space, own(probabilities))
    undecided = [choice.name for choice in space.choices if choice.name not in probabilities]
    if undecided:
        raise SpaceError(
            f"no probabilities say which option of {', '.join(undecided)} is meant; fix it in the space, or give the "
            "space derive(probabilities)"
        )

    def likeliest(choice: Choice) -> Option:
        p = probabilities[choice.name]
        return choice.options[max(range(len(p)), key=p.__getitem__)]

    return decide(space, likeliest)


ABSENT = -1
"""The position of a layer that a path leaves out."""


class SharedChoice(nn.Module):
    """All candidates of one layer, each with its own weights; None stands for an option without a module.

    `selection` says what is run, a position or a `Mixture`, and is set by the supernet alone, for the time of a call:
    the network around takes images only. The layer gives None where nothing of it is run.
    """

    def __init__(self, options: Sequence[nn.Module | None]) -> None:
        super().__init__()
        held: Any = options  # None is held as well as a module
        self.options = nn.ModuleList(held)
        self.selection: int | Mixture | None = None

    def forward(self, *inputs: Tensor) -> Tensor | None:
        selection = self.selection
        if selection is None:
            raise SpaceError(
                "a supernet runs what it is given: supernet(x, architecture), or a Mixture or position of each decision"
            )
        if not isinstance(selection, Mixture):
            option = None if selection == ABSENT else self.options[selection]
            return None if option is None else option(*inputs)
        outputs = [
            option(*inputs) if option is not None and position in selection.active else None
            for position, option in enumerate(self.options)
        ]
        if selection.active and all(output is None for output in outputs):
            return None
        return mixed_sum(outputs, selection.weights)


class SharedChain(Chain):
    """Layers in sequence; one that a path leaves out passes its input on."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            given = layer(x)
            x = x if given is None else given
        return x


class Supernet(nn.Module):
    """The shared network of a space whose layers stand in a chain or are wired: every candidate is a module.

    `supernet(x, architecture)` runs one path, `supernet(x, {decision: Mixture or position})` a mixture.
    `layers`: decision -> the names of its options, for those that fill layers. Weights are drawn from `seed`. A space
    that has neither `around` nor `wire` is refused. num_classes: of a space with `owns_head`.
    """

    def __init__(self, space: Any, seed: int, num_classes: int | None = None) -> None:
        super().__init__()
        if not (is_wired(space) or is_chain(space)):
            raise SpaceError(
                f"{type(space).__name__} shares no weights: a supernet needs its 'candidate' and 'around', or its "
                "'layers', 'candidate' and 'wire'"
            )
        self.space, self._outputs = space, outputs_of(space, num_classes)
        with own_rng(seed, "supernet"):
            made = _wired_layers(space) if is_wired(space) else _chain_layers(space)
            shared = {layer: SharedChoice(candidates) for layer, (_, candidates) in made.items()}
            self.network: nn.Module = _network(space, shared, self._outputs)
        self._decisions = {layer: decision for layer, (decision, _) in made.items()}
        self.layers = {d.name: [str(option) for option in d.options] for d in self._decisions.values()}
        self._shared, self._keys = shared, _keys(self.network, shared)
        if hasattr(self.network, "auxiliary_weight"):
            self.auxiliary_weight = self.network.auxiliary_weight

    @property
    def decisions(self) -> dict[str, str]:
        """layer -> the decision that fills it."""
        return {layer: decision.name for layer, decision in self._decisions.items()}

    def choice(self, layer: str) -> SharedChoice:
        """The candidates of a layer."""
        return self._shared[layer]

    @property
    def mixable(self) -> dict[str, int]:
        """decision -> the number of its options; empty where the space says that they cannot be mixed."""
        if not getattr(self.space, "differentiable", True):
            return {}
        return {decision: len(options) for decision, options in self.layers.items()}

    @contextmanager
    def running(self, selection: Selection) -> Iterator[nn.Module]:
        """Inside the block `network(x)` runs what `selection` says."""
        selected = self._selected(selection)
        for layer, shared in self._shared.items():
            shared.selection = selected[layer]
        try:
            yield self.network
        finally:
            for shared in self._shared.values():
                shared.selection = None

    def forward(self, x: Tensor, selection: Selection) -> Any:
        with self.running(selection) as network:
            return network(x)

    def _selected(self, selection: Selection) -> Mapping[str, int | Mixture]:
        """layer -> what is run of it."""
        if isinstance(selection, Architecture):
            return self.positions(selection)
        lacking = [decision for decision in self.layers if decision not in selection]
        if lacking:
            raise SpaceError(
                f"the selection says nothing about {', '.join(lacking[:4])}; give each decision a position or a Mixture"
            )
        return {layer: selection[decision.name] for layer, decision in self._decisions.items()}

    def positions(self, architecture: Architecture) -> dict[str, int]:
        """layer -> the position of the option that an architecture puts there; `ABSENT` where it leaves it out."""
        filled = chosen(self.space, architecture) if is_wired(self.space) else architecture
        return {
            layer: decision.index(filled[layer]) if layer in filled else ABSENT
            for layer, decision in self._decisions.items()
        }

    def path_parameters(self, architecture: Architecture) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that one path uses: those outside of the layers, and of the chosen candidates."""
        used = set(self._child_keys(architecture).values())
        return ((f"network.{name}", p) for name, p in self.network.named_parameters() if name in used)

    def extract(self, architecture: Architecture) -> nn.Module:
        """`space.build(architecture)` with this supernet's weights copied into it; the supernet is untouched."""
        architecture = check(self.space, architecture)
        with own_rng(0, "extract"):
            child: nn.Module = self.space.build(architecture, *self._outputs)
        shared, keys = self.network.state_dict(), self._child_keys(architecture)
        if set(keys) != set(child.state_dict()):
            odd = sorted(set(keys) ^ set(child.state_dict()))[:4]
            raise SpaceError(
                f"{type(self.space).__name__}.build and its supernet disagree about {odd}: build must use the space's "
                "'candidate' and 'around', or 'wire' (space.build_chain and wiring.build_wired do)"
            )
        number = next((tensor for tensor in shared.values() if tensor.is_floating_point()), None)
        if number is not None:
            child = child.to(number.dtype)
        child.load_state_dict({ours: shared[theirs].detach().cpu().clone() for ours, theirs in keys.items()})
        return child if number is None else child.to(number.device)

    def _child_keys(self, architecture: Architecture) -> dict[str, str]:
        """key of the child's state -> key of the supernet's network."""
        run = self.positions(architecture)
        return {ours: key for key, layer, option, ours in self._keys if layer is None or run[layer] == option}


def _chain_layers(space: Any) -> dict[str, tuple[Choice, list[nn.Module | None]]]:
    """layer -> its choice, and a candidate for each option; choices without modules (a resolution) are no layers."""
    layers: dict[str, tuple[Choice, list[nn.Module | None]]] = {}
    for choice in space.choices:
        candidates = [space.candidate(choice, option) for option in choice.options]
        if all(candidate is None for candidate in candidates):
            continue
        if any(candidate is None for candidate in candidates):
            raise SpaceError(
                f"choice '{choice.name}' has a module for some of its options and none for others"
            )
        layers[choice.name] = (choice, candidates)
    return layers


def _wired_layers(space: Any) -> dict[str, tuple[Choice, list[nn.Module | None]]]:
    """layer -> its decision, and a candidate for each option, None for those without a module."""
    layers: dict[str, tuple[Choice, list[nn.Module | None]]] = {}
    for layer in space.layers:
        if "." in layer:
            raise SpaceError(
                f"layer '{layer}' of {type(space).__name__} has a dot, which no module's name can have"
            )
        decision = decision_of(space, layer)
        candidates = [space.candidate(layer, option) for option in decision.options]
        if all(candidate is None for candidate in candidates):
            raise SpaceError(
                f"layer '{layer}' of {type(space).__name__} has a module for none of its options; leave it out of "
                "'layers'"
            )
        layers[layer] = (decision, candidates)
    return layers


def _network(space: Any, shared: Mapping[str, SharedChoice], outputs: tuple[int, ...]) -> nn.Module:
    """The layers in their wiring, each of them somewhere in it."""
    if is_wired(space):
        network: nn.Module = space.wire(dict(shared), *outputs)
        inside = {id(module) for module in network.modules()}
        lost = [layer for layer, module in shared.items() if id(module) not in inside]
        if lost:
            raise SpaceError(f"the space's 'wire(layers)' does not hold {', '.join(lost[:4])} of its layers")
        return network
    body = SharedChain(shared)
    network = space.around(body, *outputs)
    if body not in network.modules():
        raise SpaceError("the space's 'around(body)' does not hold the body that it was given")
    return network


def _keys(network: nn.Module, shared: Mapping[str, SharedChoice]) -> list[tuple[str, str | None, int, str]]:
    """For each key of the network's state: its layer and the position of its option, if any, and the key that it has in
    a network with that option alone."""
    layer_of = {id(module): layer for layer, module in shared.items()}
    by_path = {
        f"{path}.options." if path else "options.": layer_of[id(module)]
        for path, module in network.named_modules(remove_duplicate=False)
        if id(module) in layer_of
    }
    found: list[tuple[str, str | None, int, str]] = []
    for key in network.state_dict():
        path = next((head for head in _heads(key) if head in by_path), None)
        if path is None:
            found.append((key, None, 0, key))
            continue
        option, _, rest = key[len(path) :].partition(".")
        found.append((key, by_path[path], int(option), f"{path.removesuffix('options.')}{rest}"))
    return found


def _heads(key: str) -> Iterator[str]:
    """What of a key ends with "options.", the shortest first."""
    end = key.find("options.")
    while end >= 0:
        yield key[: end + len("options.")]
        end = key.find("options.", end + 1)
