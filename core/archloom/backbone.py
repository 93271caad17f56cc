"""A search space's network as a backbone: inner maps, weights to start from, parts that stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .errors import ConfigError, nearest
from .model import Features, Model
from .space import WeightFormat, weight_formats
from .steps import stages, steps
from .weights import Weights, load_weights, read, split_format
from .zoo import Found

OPTIONS = ("weights", "frozen", "out_indices")
"""The options of such a backbone that are not its space's."""


@dataclass(frozen=True)
class Backbone:
    """A module, other implementations' weight formats that fit it, and the names of its frozen parts."""

    module: nn.Module
    formats: tuple[WeightFormat, ...] = ()
    frozen: tuple[str, ...] = field(default=())


def backbone_of(found: Found, options: Mapping[str, Any], shape: tuple[int, ...], who: str) -> Backbone:
    """The network of `found`, for images of `shape` (C, H, W).

    options, all optional. weights: a file of the whole network's, or of the backbone's alone. out_indices: a position,
    which gives one map, or a list, which gives a tuple: of the resolutions that the network passes through, the last
    map of each; -1 is the last. frozen: names of submodules that are not trained.
    """
    _check(options, who)
    if getattr(found.space, "owns_head", False):
        raise ConfigError(
            f"{who}: the networks of {type(found.space).__name__} own their head, so that none is a backbone; take "
            "the whole network (archloom.build), or a space whose networks end at features"
        )
    network = found.space.build(found.architecture)
    formats = weight_formats(found.space, found.architecture)
    if options.get("weights") is not None:
        load_backbone(network, formats, options["weights"])
    frozen = tuple(known_parts(network, options.get("frozen") or (), who))
    if options.get("out_indices") is None:
        return Backbone(network, formats, frozen)
    return Backbone(
        Maps(network, shape, options["out_indices"], who), (), tuple(f"network.{n}" for n in frozen)
    )


def _check(options: Mapping[str, Any], who: str) -> None:
    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    indices, frozen = options.get("out_indices"), options.get("frozen")
    if not (
        indices is None or whole(indices) or (isinstance(indices, Sequence) and all(map(whole, indices)))
    ):
        raise ConfigError(f"{who}: out_indices is a position or a list of them, not {indices!r}")
    if frozen is not None and (isinstance(frozen, str) or not all(isinstance(name, str) for name in frozen)):
        raise ConfigError(f"{who}: frozen is a list of submodules' names, not {frozen!r}")


def known_parts(network: nn.Module, names: Iterable[str], who: str) -> list[str]:
    """The names, each of a submodule; a ConfigError for one that is none."""
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            near = nearest(name, known)
            told = (
                f"did you mean '{near}'?"
                if near
                else f"it has {', '.join(n for n, _ in network.named_children())}"
            )
            raise ConfigError(f"{who} has no submodule '{name}' to freeze; {told}")
    return list(names)


def load_backbone(network: nn.Module, formats: tuple[WeightFormat, ...], weights: str) -> None:
    """Load a file's backbone: of a whole network whatever follows it is left out."""
    whole = Model(network, nn.Identity(), nn.Identity(), nn.Identity())
    whole.weight_formats = formats
    named, file = split_format(weights)
    given = read(file)
    own = whole.state_dict()
    names = {theirs for known in formats for ours in own if (theirs := known.theirs(ours)) is not None} | set(
        own
    )
    kept = {key: value for key, value in given.state.items() if key in names} or given.state
    load_weights(whole, Weights(kept, given.header, given.where), named)


class Maps(nn.Module):
    """A network that gives inner maps: (N, C, H, W) at one of the resolutions that it passes through, or several."""

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], out_indices: int | Sequence[int], who: str
    ) -> None:
        super().__init__()
        self.network = network
        found = [step for step in steps(network, shape) if step.name]
        ends = [step.name for step in stages(found)]
        if not ends:
            raise ConfigError(f"{who} is no chain of steps, so it has no inner maps; leave out_indices out")
        self.single = isinstance(out_indices, int)
        wanted = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if not wanted or not all(-len(ends) <= index < len(ends) for index in wanted):
            raise ConfigError(
                f"{who}: out_indices are of 0..{len(ends) - 1}, or from the end, not {out_indices}"
            )
        self.taken = tuple(ends[index] for index in wanted)
        names = [step.name for step in found]
        self.steps = tuple(names[: 1 + max(names.index(name) for name in self.taken)])

    def forward(self, x: Tensor) -> Features:
        maps: dict[str, Tensor] = {}
        for name in self.steps:
            x = self.network.get_submodule(name)(x)
            if name in self.taken:
                maps[name] = x if name == self.steps[-1] else x.clone()  # a step behind may work in place
        return maps[self.taken[0]] if self.single else tuple(maps[name] for name in self.taken)
