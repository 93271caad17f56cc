"""Step 1 of compound scaling as a search space: alpha, beta and gamma over any base network.

The base may be of any space that offers `scaled` (see `archloom.space`): a published network, a found one,
or stages of one's own. A strategy proposes coefficients, each is built at phi = 1, and whatever estimator
the search was given judges it. `family` is step 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from archloom import (
    Architecture,
    Choice,
    ConfigError,
    Host,
    SearchSpace,
    SpaceError,
    check,
    find,
    input_shape,
    make,
)
from archloom.documents import read_json

from .compound import Scale, axis, compound, cost_factor, feasible, grid

if TYPE_CHECKING:
    from archloom import Task


class ScalingSpace:
    """Compound scaling's coefficients alpha (depth), beta (width), gamma (resolution) over a base network.

    base: a network by name, an architecture file, a run folder, or inline, as {space: {type: ...},
        architecture: {...}}. base_options: of a named or stored base's space.
    phi: at which the networks are built; the search's is 1.
    step: of the grid, on which alpha goes from 1 to 2 and beta and gamma to the square root of 2.
    alpha, beta, gamma: values instead of the grid's.
    tolerance: how far alpha beta^2 gamma^2 may lie from 2.
    width_divisor, side_divisor: channels and images' sides are multiples of these.
    up_to: the largest phi of the family that the found coefficients give.
    """

    def __init__(
        self,
        host: Host | None = None,
        *,
        base: str | dict[str, Any] = "efficientnet-b0",
        base_options: dict[str, Any] | None = None,
        phi: float = 1.0,
        step: float = 0.05,
        alpha: list[float] | None = None,
        beta: list[float] | None = None,
        gamma: list[float] | None = None,
        tolerance: float = 0.1,
        width_divisor: int = 8,
        side_divisor: int = 1,
        up_to: int = 7,
    ) -> None:
        self._host, self._base, self._base_options = host, base, dict(base_options or {})
        self.phi, self.tolerance, self.up_to = phi, tolerance, up_to
        self.width_divisor, self.side_divisor = width_divisor, side_divisor
        root = math.sqrt(2 + tolerance)
        values = {
            "alpha": tuple(alpha or axis(step, 2 + tolerance)),
            "beta": tuple(beta or axis(step, root)),
            "gamma": tuple(gamma or axis(step, root)),
        }
        self.choices: Sequence[Choice] = [
            Choice(name, tuple(float(v) for v in given)) for name, given in values.items()
        ]
        compound(phi, *map(min, values.values()), divisor=width_divisor, side_divisor=side_divisor)
        if next(grid(values["alpha"], values["beta"], values["gamma"], tolerance), None) is None:
            raise SpaceError(
                f"no alpha, beta, gamma of this grid has alpha beta^2 gamma^2 within {tolerance} of 2; make the "
                "step smaller or the tolerance larger"
            )

    @cached_property
    def base(self) -> tuple[SearchSpace, Architecture]:
        """The base network's space and architecture. Found when it is first needed, not before."""
        host = self._host or Host()
        if isinstance(self._base, Mapping) and "format" not in self._base:
            if set(self._base) != {"space", "architecture"}:
                raise ConfigError(
                    "scaling: an inline base is {space: {type: ...}, architecture: {choice: option}}, not "
                    f"{{{', '.join(map(str, self._base))}}}"
                )
            space: SearchSpace = make(host, "space", self._base["space"], "scaling: base.space")
            return space, check(space, Architecture.from_json(self._base["architecture"]))
        found = find(self._base, host, self._base_options)
        return found.space, found.architecture

    def scale(self, architecture: Architecture) -> Scale:
        """Factors and rounding of one decision, at this space's phi."""
        alpha, beta, gamma = _coefficients(architecture)
        return compound(
            self.phi, alpha, beta, gamma, divisor=self.width_divisor, side_divisor=self.side_divisor
        )

    def build(self, architecture: Architecture) -> nn.Module:
        """The base network, scaled: (N, C, H, W) -> the base's feature map with more channels."""
        space, base = self.base
        scaled = getattr(space, "scaled", None)
        if scaled is None:
            raise SpaceError(
                f"scaling: {type(space).__name__} does not say how its networks grow; it needs a method "
                "scaled(architecture, width, depth). Choose a base of another space"
            )
        scale = self.scale(architecture)
        network: nn.Module = scaled(base, scale.channels, scale.blocks)
        return network

    def input_shape(self, architecture: Architecture, task: Task) -> tuple[int, ...]:
        """What the base network is given (its own resolution, else the task's), with both sides scaled."""
        channels, height, width = input_shape(*self.base, task)
        scale = self.scale(architecture)
        return channels, scale.side(height), scale.side(width)

    def violations(self, architecture: Architecture) -> list[str]:
        """That the cost must about double."""
        coefficients = _coefficients(architecture)
        if feasible(*coefficients, self.tolerance):
            return []
        return [f"alpha beta^2 gamma^2 is {cost_factor(*coefficients):.3f}, not 2 +- {self.tolerance:g}"]

    def family(self, architecture: Architecture) -> Mapping[str, Mapping[str, Any]]:
        """The same coefficients at phi = 0 (the base) to `up_to`: step 2 of the method."""
        base = self._portable()
        return {f"phi-{phi}": {"phi": float(phi), "base": base} for phi in range(self.up_to + 1)}

    def _portable(self) -> str | dict[str, Any]:
        """The base without a path, so that what is written down about it does not need the file any more."""
        if not isinstance(self._base, str):
            return self._base
        path = Path(self._base)
        path = path / "architecture.json" if path.is_dir() else path
        return read_json(path, "the base's architecture") if path.is_file() else self._base


def _coefficients(architecture: Architecture) -> tuple[float, float, float]:
    alpha, beta, gamma = (float(architecture[name] or 0) for name in ("alpha", "beta", "gamma"))
    return alpha, beta, gamma
