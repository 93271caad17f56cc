"""Where the candidates of a space stand in its networks: the shapes that each is given and gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .errors import ConfigError
from .model import ModelParts, output_shape
from .shared import Supernet
from .wiring import is_chain

_SHAPES = re.compile(r"(\d+(?:x\d+)*) -> (\d+(?:x\d+)*)$")


@dataclass(frozen=True)
class Geometry:
    """What sizes a latency table holds for.

    layers: choice -> option -> "16x8x8 -> 24x4x4", or None where that is not known. fixed: likewise of stem, tail,
    and neck and head.
    """

    layers: Mapping[str, Mapping[str, str | None]]
    fixed: Sequence[str | None]

    @classmethod
    def of(cls, layers: Mapping[str, Mapping[str, str]], fixed: Sequence[str]) -> Geometry:
        """From the keys of a table's entries, which end with the shapes."""
        return cls(
            {name: {option: _shapes(key) for option, key in of.items()} for name, of in layers.items()},
            [_shapes(key) for key in fixed],
        )

    @property
    def classes(self) -> int | None:
        """How many classes the head gives."""
        last = self.fixed[-1] if self.fixed else None
        return int(last.rpartition(" -> ")[2].rpartition("x")[2]) if last else None

    def differs(self, other: Geometry) -> str:
        """The first place where the two have other shapes, with both; empty where nowhere or not known."""
        rows = list(zip(("the stem", "the tail", "the head"), self.fixed, other.fixed, strict=False))
        for name, options in self.layers.items():
            theirs = other.layers.get(name, {})
            rows += [(f"{name}, {option}", mine, theirs.get(option)) for option, mine in options.items()]
        return next((f"{place}: {a}, here {b}" for place, a, b in rows if a and b and a != b), "")

    def __str__(self) -> str:
        names, stem = list(self.layers), self.fixed[0] if self.fixed else None
        layers = f"{len(names)} layers, {names[0]} to {names[-1]}" if names else "no layers"
        images = f", for images of {stem.partition(' -> ')[0]}" if stem else ""
        return f"{layers}{images}" + (f" and {self.classes} classes" if self.classes else "")


def _shapes(key: str) -> str | None:
    found = _SHAPES.search(key)
    return found[0] if found else None


Place = tuple[str, nn.Module]  # the entry's key, and the very module that stands there


def places(
    space: Any,
    shape: tuple[int, ...],
    num_classes: int,
    parts: ModelParts | None,
    device: torch.device,
) -> tuple[dict[str, dict[str, Place]], list[Place], dict[str, nn.Module]]:
    """choice -> option -> place; stem, tail, and neck and head; and for each key the first of its modules."""
    with device if device.type == "meta" else nullcontext():
        return _places(space, shape, num_classes, parts or ModelParts(), device)


def check_images(shape: tuple[int, ...]) -> None:
    """A ConfigError where inputs of `shape` are no images, of which alone there are latency tables."""
    if len(shape) != 3:
        raise ConfigError(
            f"latency tables are of images (channels, height, width), and these inputs have shape {shape}; measure "
            "whole networks: estimator latency"
        )


def _places(
    space: Any, shape: tuple[int, ...], num_classes: int, parts: ModelParts, device: torch.device
) -> tuple[dict[str, dict[str, Place]], list[Place], dict[str, nn.Module]]:
    if not is_chain(space):
        raise ConfigError(
            f"a latency table sums the layers of a chain, and {type(space).__name__} has no 'candidate' and 'around'; "
            "measure whole networks: estimator latency"
        )
    check_images(shape)
    parts = replace(
        parts, loss=nn.CrossEntropyLoss
    )  # which takes no time here, and fits any number of outputs
    supernet = Supernet(space, seed=0)
    first = dict.fromkeys(supernet.layers, 0)
    model = parts.assemble(supernet, shape=shape, num_classes=num_classes, selection=(first,))
    network: Any = supernet.network
    if not (hasattr(network, "stem") and hasattr(network, "tail")):
        raise ConfigError(
            f"{type(space).__name__}.around must give a module with 'stem', 'body' and 'tail' "
            "(archloom.space.Around does) for a latency table"
        )
    model.to(device).to(memory_format=torch.channels_last).eval()
    modules: dict[str, nn.Module] = {}

    def place(
        name: str, module: nn.Module, shape_in: tuple[int, ...], where: str
    ) -> tuple[Place, tuple[int, ...]]:
        shape_out = output_shape(module, shape_in)[1:]
        key = f"{name} {_by(shape_in)} -> {_by(shape_out)}"
        if repr(modules.setdefault(key, module)) != repr(module):
            key = f"{where} {key}"  # two modules of one name and shape that are built differently
            modules[key] = module
        return (key, module), shape_out

    stem, current = place("stem", network.stem, shape, "stem")
    layers: dict[str, dict[str, Place]] = {}
    for choice in space.choices:
        if choice.name in supernet.layers:
            candidates = getattr(network.body, choice.name).options
            found = [
                place(str(option), module, current, choice.name)
                for option, module in zip(choice.options, candidates, strict=True)
            ]
            names = map(str, choice.options)
            layers[choice.name] = {name: one for name, (one, _) in zip(names, found, strict=True)}
            current = found[0][1]
    tail, current = place("tail", network.tail, current, "tail")
    head, _ = place("neck and head", nn.Sequential(model.neck, model.head), current, "head")
    return layers, [stem, tail, head], modules


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
