"""How the layers of a space become a network: what may fill each layer, and what an architecture puts there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .architecture import Architecture, Choice, Option
from .errors import SpaceError


def is_wired(space: Any) -> bool:
    """Whether the space wires its layers itself, with `layers`, `candidate` and `wire`."""
    return all(hasattr(space, name) for name in ("layers", "candidate", "wire"))


def is_chain(space: Any) -> bool:
    """Whether the space's layers stand in a chain, with `candidate` and `around`."""
    return all(callable(getattr(space, name, None)) for name in ("candidate", "around")) and not is_wired(
        space
    )


def outputs_of(space: Any, num_classes: int | None) -> tuple[int, ...]:
    """The further argument of whoever makes a network of `space`: the number of its outputs where it owns its head."""
    if not getattr(space, "owns_head", False):
        return ()
    if num_classes is None:
        raise SpaceError(
            f"the networks of {type(space).__name__} own their head (owns_head): say how many outputs they have"
        )
    return (num_classes,)


def decision_of(space: Any, layer: str) -> Choice:
    """What fills a layer of a wired space: a choice, or an architecture parameter, whose options are its positions."""
    decision = space.layers[layer]
    for choice in space.choices:
        if choice.name == decision:
            found: Choice = choice
            return found
    count = getattr(space, "relaxed", {}).get(decision)
    if count is None:
        raise SpaceError(
            f"{type(space).__name__}.layers: layer '{layer}' is filled by '{decision}', which is neither a choice nor "
            "one of 'relaxed'"
        )
    return Choice(decision, tuple(range(count)))


def chosen(space: Any, architecture: Architecture) -> dict[str, Option]:
    """layer -> the option that fills it in an architecture; a layer that it leaves out is absent.

    Of a wired space. Its own `chosen(architecture)` says so; where it has none, each layer has its choice's option.
    """
    own = getattr(space, "chosen", None)
    if own is None:
        names = {choice.name for choice in space.choices}
        apart = next((layer for layer, decision in space.layers.items() if decision not in names), None)
        if apart is not None:
            raise SpaceError(
                f"layer '{apart}' of {type(space).__name__} is filled by an architecture parameter, and nothing says "
                "what an architecture puts there; give the space chosen(architecture) -> {layer: position}"
            )
        return {
            layer: architecture[decision]
            for layer, decision in space.layers.items()
            if decision in architecture
        }
    found: dict[str, Option] = dict(own(architecture))
    if unknown := sorted(set(found) - set(space.layers)):
        raise SpaceError(f"{type(space).__name__}.chosen names {unknown[:4]}, which are none of its layers")
    return found


def build_wired(space: Any, architecture: Architecture, num_classes: int | None = None) -> nn.Module:
    """`build` for a space that wires its layers itself: of each layer the chosen candidate, where it has a module.

    num_classes: of a space with `owns_head`, how many outputs the network has.
    """
    modules: dict[str, nn.Module] = {}
    for layer, option in chosen(space, architecture).items():
        module = space.candidate(layer, option)
        if module is not None:
            modules[layer] = module
    network: nn.Module = space.wire(modules, *outputs_of(space, num_classes))
    return network


def layers_of(space: Any) -> Mapping[str, str]:
    """layer -> the decision that fills it. In a chain a layer bears the name of its choice."""
    if is_wired(space):
        return dict(space.layers)
    return {c.name: c.name for c in space.choices if space.candidate(c, c.options[0]) is not None}
