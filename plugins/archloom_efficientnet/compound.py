"""Compound scaling (section 3.3 of the paper): depth, width and resolution grow together. Without torch.

    depth d = alpha^phi, width w = beta^phi, resolution r = gamma^phi                          (eq. 3)
    such that alpha beta^2 gamma^2 ~ 2 and alpha, beta, gamma >= 1

A network's multiply-adds grow with d w^2 r^2, so that each step of phi about doubles them. Step 1 of the
method finds alpha, beta and gamma at phi = 1 by a small grid search; step 2 keeps them and raises phi.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archloom import ConfigError

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""What the paper's search found for EfficientNet-B0."""


def round_filters(filters: float, divisor: int = 8, least: int | None = None) -> int:
    """Channels as a multiple of `divisor`: the nearest, never below `least` nor below 90 per cent."""
    rounded = max(least or divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def round_repeats(repeats: float) -> int:
    """Blocks of a stage, rounded up; what floating point leaves of a whole number is none."""
    return math.ceil(round(repeats, 9))


@dataclass(frozen=True)
class Scale:
    """Factors on depth, width and resolution, with the rounding of each.

    divisor: channels are multiples of it. side_divisor: so are the images' sides.
    """

    depth: float
    width: float
    resolution: float
    divisor: int = 8
    side_divisor: int = 1

    def blocks(self, repeats: int) -> int:
        """A stage's blocks, scaled and rounded up."""
        return round_repeats(self.depth * repeats)

    def channels(self, filters: int) -> int:
        """Channels, scaled, to the nearest multiple of the divisor, not below 90 per cent of what is due."""
        return round_filters(self.width * filters, self.divisor)

    def side(self, pixels: int) -> int:
        """An image's side in pixels, scaled, to the nearest multiple, half up."""
        return max(1, math.floor(self.resolution * pixels / self.side_divisor + 0.5)) * self.side_divisor


def compound(
    phi: float,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    *,
    divisor: int = 8,
    side_divisor: int = 1,
) -> Scale:
    """The scale at `phi` (eq. 3); ConfigError where a coefficient is below 1, or phi below 0."""
    low = [name for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)) if value < 1]
    if low or phi < 0:
        told = f"{', '.join(low)} must be at least 1" if low else f"phi must be at least 0, not {phi}"
        raise ConfigError(f"compound scaling: {told}; it enlarges a network")
    if divisor < 1 or side_divisor < 1:
        raise ConfigError(f"compound scaling: divisors are at least 1, not {divisor} and {side_divisor}")
    return Scale(alpha**phi, beta**phi, gamma**phi, divisor, side_divisor)


def cost_factor(alpha: float, beta: float, gamma: float) -> float:
    """alpha beta^2 gamma^2: by how much a network's multiply-adds grow from one phi to the next."""
    return alpha * beta**2 * gamma**2


def axis(step: float, most: float) -> tuple[float, ...]:
    """1, 1 + step ... up to `most`: one coefficient's values on the grid."""
    if not 0 < step <= 1:
        raise ConfigError(f"compound scaling: the grid's step lies between 0 and 1, not at {step}")
    return tuple(round(1 + i * step, 10) for i in range(math.floor((most - 1) / step + 1e-9) + 1))


def grid(
    alphas: Sequence[float], betas: Sequence[float], gammas: Sequence[float], tolerance: float = 0.1
) -> Iterator[tuple[float, float, float]]:
    """Every (alpha, beta, gamma) with |alpha beta^2 gamma^2 - 2| <= tolerance, in order."""
    for coefficients in itertools.product(alphas, betas, gammas):
        if feasible(*coefficients, tolerance):
            yield coefficients


def feasible(alpha: float, beta: float, gamma: float, tolerance: float) -> bool:
    """Whether the coefficients about double the cost."""
    return abs(cost_factor(alpha, beta, gamma) - 2) <= tolerance + 1e-9
