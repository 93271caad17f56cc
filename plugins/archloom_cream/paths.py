"""Which path a step trains: a function of (seed, step), within a range of costs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from archloom import (
    Architecture,
    Choice,
    ConfigError,
    Model,
    Option,
    SearchError,
    SpaceError,
    Supernet,
    Task,
    count,
    decide,
    input_shape,
    sample,
    violations,
)
from archloom.space import changed, first_option
from archloom.weight_sharing import OptionCosts, option_costs

Sampling = Literal["uniform", "given", "board"]
MAX_DRAWS = 2000
"""After so many draws in a row outside of the range, the range is refused."""

Shape = tuple[int, ...]


class PathCosts:
    """MACs of the whole network of each path: from a table of every option of every layer, by tracing alone.

    The table is made once for each image shape that the space can choose. A path costs what all pay and what its
    options cost; where that does not add up, because an option of one layer changes what another sees, the space is
    refused. A shared network without layers of its own options (of sliced weights) has each path counted whole.
    """

    def __init__(self, model: Model, space: Any, task: Task) -> None:
        self.model, self.space, self.task = model, space, task
        self.supernet = model.backbone if isinstance(model.backbone, Supernet) else None
        self._tables: dict[Shape, OptionCosts] = {}
        self._counted: dict[Architecture, int] = {}
        drawn = sample(space, random.Random(0))
        counted = count(model, self.shape(drawn), drawn).macs
        if counted != self(drawn):
            raise SpaceError(
                f"the costs of this space's paths do not add up ({self(drawn):,} MACs by its options, {counted:,} "
                f"as a whole, for {drawn}): an option changes the shape that another layer sees. Cream needs "
                "options of a choice with one output shape"
            )

    def shape(self, architecture: Architecture) -> Shape:
        """(C, H, W) of the images that a path is given."""
        return input_shape(self.space, architecture, self.task)

    def __call__(self, architecture: Architecture) -> int:
        if self.supernet is not None:
            return self._table(architecture).of(self.supernet.positions(architecture))
        if architecture not in self._counted:
            counted = count(self.model, self.shape(architecture), architecture)
            self._counted[architecture] = counted.macs
        return self._counted[architecture]

    def bounds(self) -> tuple[float, float]:
        """No path has fewer or more MACs than these two; 0 and infinity where paths are counted whole."""
        if self.supernet is None:
            return 0, math.inf
        totals: list[int] = []
        decided = set(self.supernet.layers)
        dependent = {c.name for c in self.space.choices if not decided.isdisjoint(c.when or {})}
        for architecture in self.settings():
            table = self._table(architecture)
            costs = [
                # a layer that depends on another one may be there or not
                [*options, *([0] if name in dependent or name not in architecture else [])]
                for name, options in table.by_decision().items()
                if name in architecture or name in dependent or hasattr(self.space, "chosen")
            ]
            totals += [table.base + sum(map(f, costs)) for f in (min, max)]
        return min(totals), max(totals)

    def settings(self) -> list[Architecture]:
        """One path for each option of each choice that is no layer (a resolution, say); where there are no layers, one
        for each option of each choice."""
        first = decide(self.space, first_option)
        if self.supernet is None:
            options = [(choice, option) for choice in self.space.choices for option in choice.options]
            varied = [changed(self.space, first, c, option) for c, option in options if c.name in first]
            return list(dict.fromkeys([first, *varied]))
        found = [first]
        for choice in (choice for choice in self.space.choices if choice.name not in self.supernet.layers):
            found = [
                changed(self.space, a, choice, option) if choice.name in a else a
                for a in found
                for option in (choice.options if choice.name in a else [None])
            ]
        return found

    def _table(self, architecture: Architecture) -> OptionCosts:
        shape = self.shape(architecture)
        if shape not in self._tables:
            self._tables[shape] = option_costs(self.model, shape)
        return self._tables[shape]


@dataclass(frozen=True)
class Sampler:
    """Draws paths: uniformly, by given probabilities, or by how often options stand on the board.

    macs: (low, high), in force on every draw; None where all costs are allowed. probabilities: option -> how
    likely, of each choice's options in proportion.
    """

    space: Any
    costs: PathCosts
    sampling: Sampling = "uniform"
    macs: tuple[float, float] | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.macs is not None:
            low, high = self.macs
            cheapest, dearest = self.costs.bounds()
            if not 0 <= low <= high or cheapest > high or dearest < low:
                raise ConfigError(
                    f"macs = [{low:g}, {high:g}] holds no path: the space's networks have {cheapest:,} to "
                    f"{dearest:,} MACs at this task's images; give a range [low, high] that meets these"
                )
        if (self.sampling == "given") != bool(self.probabilities):
            raise ConfigError(
                "sampling 'given' and 'probabilities' go together: probabilities: {option: how likely, ...}"
            )
        if self.sampling == "given":
            self._check_probabilities()

    def _check_probabilities(self) -> None:
        options = {str(option) for choice in self.space.choices for option in choice.options}
        given = set(self.probabilities)
        if given != options or min(self.probabilities.values()) < 0:
            raise ConfigError(
                "'probabilities' gives every option of the space a number of 0 or more; lacking: "
                f"{sorted(options - given) or 'none'}, unknown: {sorted(given - options) or 'none'}"
            )
        for choice in self.space.choices:
            if sum(self.probabilities[str(option)] for option in choice.options) <= 0:
                raise ConfigError(f"'probabilities' leaves '{choice.name}' no option")

    def allows(self, macs: int) -> bool:
        """Whether a cost lies within the range."""
        return self.macs is None or self.macs[0] <= macs <= self.macs[1]

    def draw(self, rng: random.Random, histogram: Mapping[Option, int]) -> Architecture:
        """One path within the range. histogram: option -> how often it stands on the board, may be empty."""
        weights = {choice.name: self._weights(choice, histogram) for choice in self.space.choices}
        nearest: int | None = None
        for _ in range(MAX_DRAWS):
            drawn = decide(self.space, lambda choice: rng.choices(choice.options, weights[choice.name])[0])
            macs = self.costs(drawn)
            if self.allows(macs) and not violations(self.space, drawn):
                return drawn
            if nearest is None or self._distance(macs) < self._distance(nearest):
                nearest = macs
        raise SearchError(
            f"{MAX_DRAWS} paths in a row were outside of macs = {list(self.macs or ())} or forbidden by the space; "
            f"the nearest has {nearest or 0:,} MACs. Widen the range, or sample uniformly"
        )

    def _distance(self, macs: int) -> float:
        low, high = self.macs or (macs, macs)
        return max(low - macs, macs - high, 0)

    def _weights(self, choice: Choice, histogram: Mapping[Option, int]) -> Sequence[float]:
        weights = [1.0] * len(choice.options)
        if self.sampling == "given":
            weights = [self.probabilities[str(option)] for option in choice.options]
        elif self.sampling == "board":
            counted = [float(histogram.get(option, 0)) for option in choice.options]
            weights = counted if sum(counted) else weights
        return weights
