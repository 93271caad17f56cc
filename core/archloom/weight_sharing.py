"""What methods that train a shared network have in common: units that can be resumed, costs of options, and a bilevel
step's other half held still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .architecture import Architecture
from .cost import count, macs_of_call
from .errors import SpaceError
from .model import Model, call_on_meta, evaluating, meta_image
from .shared import ABSENT, Supernet, an_architecture

Shape = tuple[int, ...]
P = TypeVar("P", bound=str)


# -- units that can be resumed ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Span(Generic[P]):
    """What is trained between two yields of `fit`: the steps start..stop of one pass of one epoch.

    phase: which pass. before: the steps of all earlier spans. epochs: how many are done after this one, in parts too.
    last: whether the epoch ends here.
    """

    epoch: int
    phase: P
    start: int
    stop: int
    before: int
    epochs: float
    last: bool


def spans(
    epochs: int,
    steps: Mapping[P, int],
    unit_steps: int,
    phases: Callable[[int], Sequence[P]] | None = None,
) -> list[Span[P]]:
    """All spans of a training in order, each of at most `unit_steps` steps.

    steps: phase -> the steps of one pass. phases: the passes of an epoch, in order; by default one of each phase.
    """
    found: list[Span[P]] = []
    before = 0
    for epoch in range(epochs):
        passes = tuple(steps) if phases is None else phases(epoch)
        total, done = sum(steps[phase] for phase in passes), 0
        for phase in passes:
            for start in range(0, steps[phase], unit_steps):
                stop = min(start + unit_steps, steps[phase])
                done += stop - start
                found.append(Span(epoch, phase, start, stop, before, epoch + done / total, done == total))
                before += stop - start
    return found


# -- a bilevel step ---------------------------------------------------------------------------------------


@contextmanager
def held_still(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside the block these parameters have no gradients: in a step for the others they are neither needed nor
    computed. Those that were frozen before stay so after it; gradients that were there are gone."""
    held = list(parameters)
    moving = [parameter for parameter in held if parameter.requires_grad]
    for parameter in held:
        parameter.grad = None
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


# -- costs of options -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptionCosts:
    """Multiply-adds (`archloom.cost.MACS`) of a space's networks for one image, as sums over their layers.

    base: what every path pays. layers: layer -> the cost of each option of its decision, 0 without a module. decisions:
    layer -> its decision. They add up as long as no option changes the shape that another layer sees.
    """

    base: int
    layers: Mapping[str, tuple[int, ...]]
    decisions: Mapping[str, str]

    def of(self, positions: Mapping[str, int]) -> int:
        """The cost of a path: layer -> the position of its option (`Supernet.positions`)."""
        return self.base + sum(
            0 if positions[layer] == ABSENT else costs[positions[layer]]
            for layer, costs in self.layers.items()
        )

    def by_decision(self) -> dict[str, tuple[int, ...]]:
        """decision -> what each option costs in all layers that it fills."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, costs in self.layers.items():
            before = found.get(self.decisions[layer], (0,) * len(costs))
            found[self.decisions[layer]] = tuple(a + b for a, b in zip(before, costs, strict=True))
        return found


def option_costs(model: Model, shape: Shape, path: Architecture | None = None) -> OptionCosts:
    """What each option of each layer costs, for inputs of `shape` ((C, H, W) of images), by traces alone.

    model: what `assemble_shared` gives, of a `Supernet`; the slices of another shared network have no costs of their
    own, which is a SpaceError (count a path whole: `count(model, shape, path)`). path: the one that is counted whole,
    by default that of the first options.
    """
    supernet = model.backbone
    if not isinstance(supernet, Supernet):
        raise SpaceError(
            f"the options of {type(supernet).__name__} are no modules of their own, so that none has a cost of its own"
        )
    path = an_architecture(supernet.space) if path is None else path
    layers = {
        layer: tuple(
            sum(_macs(option, inputs) for inputs in calls) for option in supernet.choice(layer).options
        )
        for layer, calls in _calls(model, supernet, shape, path).items()
    }
    costs = OptionCosts(0, layers, supernet.decisions)
    base = count(model, shape, path).macs - costs.of(supernet.positions(path))
    return OptionCosts(base, layers, supernet.decisions)


def _macs(option: nn.Module | None, inputs: Sequence[Any]) -> int:
    return (
        0 if option is None or not any(True for _ in option.parameters()) else macs_of_call(option, *inputs)
    )


def _calls(model: Model, supernet: Supernet, shape: Shape, path: Architecture) -> dict[str, list[Any]]:
    """layer -> the inputs of each of its calls, on the meta device."""
    calls: dict[str, list[Any]] = {layer: [] for layer in supernet.decisions}
    hooks = [
        supernet.choice(layer).register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs))
        for layer, seen in calls.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            call_on_meta(model, meta_image(model, shape), path)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
