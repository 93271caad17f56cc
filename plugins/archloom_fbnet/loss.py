"""What the search minimizes: cross entropy and the expected cost, joined in one of four ways.

With a large beta or alpha the loss, or the square of its gradient that Adam keeps, leaves float32, and theta would
stand still. Adam's step does not depend on the gradient's size, so that the loss of theta's pass is then taken times a
power of two (`Scaled`), and weight decay and epsilon with it: steps are those that exact arithmetic would make.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archloom import ConfigError

logger = logging.getLogger("archloom")

Form = Literal["paper", "reference", "additive", "target"]


def expected_cost(weights: Mapping[str, Tensor], costs: Mapping[str, Tensor], base: float = 0.0) -> Tensor:
    """LAT(a) = base + sum over l and i of m_(l,i) * LAT(b_(l,i))  (paper, eq. 9). A scalar.

    weights: choice -> m (n,). costs: choice -> (n,), in any unit. base: what every architecture pays.
    """
    return base + torch.stack([(weights[name] * cost).sum() for name, cost in costs.items()]).sum()


def paper_loss(ce: Tensor, cost: Tensor, alpha: float, beta: float) -> Tensor:
    """CE * alpha * log(LAT)^beta  (paper, eq. 2). beta sets the trade-off; alpha only scales.

    The logarithm makes the unit matter: the same network weighs differently in microseconds and in
    milliseconds, and a cost of one unit or less has no loss at all.
    """
    return ce * alpha * torch.log(cost) ** beta


def reference_loss(ce: Tensor, cost: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * CE * log(LAT^beta), as the reference code has it. Only the product alpha * beta matters."""
    return alpha * ce * log_of_power(cost, beta)


def log_of_power(cost: Tensor, beta: float) -> Tensor:
    """log(cost^beta); beta log(cost) where the power leaves float32."""
    powered = cost**beta
    if beta > 1 and not bool(powered.detach().isfinite()):
        return beta * torch.log(cost)
    return torch.log(powered)


def additive_loss(ce: Tensor, cost: Tensor, alpha: float) -> Tensor:
    """CE + alpha * LAT."""
    return ce + alpha * cost


def target_loss(ce: Tensor, cost: Tensor, target: float, beta: float) -> Tensor:
    """CE * (LAT / T)^beta: MnasNet's reward (Tan et al., CVPR 2019, eq. 2) as a loss."""
    return ce * (cost / target) ** beta


@dataclass(frozen=True)
class Objective:
    """One of the four losses with its numbers. `cost` in `unit`."""

    form: Form
    unit: str
    alpha: float
    beta: float
    target: float | None = None

    def __post_init__(self) -> None:
        if self.form == "target" and not (self.target and self.target > 0):
            raise ConfigError(f"loss 'target' needs a target cost in {self.unit}: target=...")
        if self.form != "target" and self.target is not None:
            raise ConfigError(f"loss '{self.form}' has no target; leave it out, or use loss='target'")
        if self.alpha <= 0 or self.beta < 0:
            raise ConfigError(f"alpha must be positive and beta not negative, not {self.alpha}, {self.beta}")

    def __call__(self, ce: Tensor, cost: Tensor) -> Tensor:
        match self.form:
            case "paper":
                return paper_loss(ce, cost, self.alpha, self.beta)
            case "reference":
                return reference_loss(ce, cost, self.alpha, self.beta)
            case "additive":
                return additive_loss(ce, cost, self.alpha)
            case "target":
                assert self.target is not None  # held by __post_init__
                return target_loss(ce, cost, self.target, self.beta)

    def check(self, cheapest: float) -> None:
        """Refuse costs for which the loss is not defined everywhere: NaN, or a logarithm below zero.

        cheapest: the cost of the cheapest architecture; by eq. 9 no mixture is below it.
        """
        if not math.isfinite(cheapest):
            raise ConfigError(
                f"the cheapest architecture costs {cheapest} {self.unit}; the table has no number"
            )
        if self.form in ("paper", "reference") and cheapest <= 1:
            raise ConfigError(
                f"the cheapest architecture costs {cheapest:g} {self.unit}, and loss '{self.form}' needs a "
                "positive log(cost); choose a smaller unit, or loss='additive' or 'target'"
            )


LARGEST, SMALLEST = 48.0, -24.0
"""Binary exponents of a loss between which theta's Adam has room in float32, its square included."""
MIDDLE = 24.0
"""What a loss beyond `LARGEST` is brought to."""
POWER = 120.0
"""The binary exponent up to which a power of the cost is taken in float32."""


class Scaled:
    """An objective times 2^exponent, 0 where it needs no scaling; then it is the objective to the bit.

    dearest: the cost of the dearest architecture. A loss too small for Adam's epsilon is made larger, since alpha is
    to do no more than scale; `decay` and `eps` then stay as they are.
    """

    def __init__(self, objective: Objective, dearest: float) -> None:
        self.objective = objective
        top, beta = self._base(dearest), objective.beta
        power = 0.0 if objective.form == "additive" or top <= 0 else beta * math.log2(top)
        # what a power in float32 cannot hold is left out of it: (x / top)^beta instead of x^beta
        self._top, self._left_out = (
            (top, power) if power > POWER and objective.form != "reference" else (1.0, 0.0)
        )
        size = self._size(dearest, power)
        self.exponent = 0
        if size > LARGEST:
            self.exponent = round(MIDDLE - size)
        elif size < SMALLEST:
            self.exponent = min(round(-size), 1000)
        smaller = min(1.0, 2.0**self.exponent)
        self.decay, self.eps = smaller, max(1e-8 * smaller, 1e-30)

    def _base(self, dearest: float) -> float:
        """What beta is the power of."""
        o = self.objective
        if o.form == "target":
            return dearest / float(o.target or 1)
        return math.log(dearest) if o.form == "paper" and dearest > 1 else dearest

    def _size(self, dearest: float, power: float) -> float:
        """The binary exponent that the loss, or its slope, has at the dearest architecture, with a CE of 1."""
        alpha, slope = math.log2(self.objective.alpha), math.log2(max(1.0, self.objective.beta))
        match self.objective.form:
            case "paper":
                return alpha + power + slope
            case "reference":
                return alpha + slope + math.log2(max(math.log(dearest), 1e-9)) if dearest > 1 else 0.0
            case "additive":
                return max(0.0, alpha + math.log2(max(dearest, 1e-300)))
            case "target":
                return power + slope

    def __call__(self, ce: Tensor, cost: Tensor) -> Tensor:
        o, factor = self.objective, 2.0**self.exponent
        if not self.exponent and not self._left_out:
            return o(ce, cost)
        match o.form:
            case "additive":
                return ce * factor + (o.alpha * factor) * cost
            case "reference":
                return (o.alpha * factor) * ce * log_of_power(cost, o.beta)
            case "paper" | "target":
                base = torch.log(cost) if o.form == "paper" else cost / float(o.target or 1)
                alpha = o.alpha if o.form == "paper" else 1.0
                if self._left_out:
                    return (
                        ce
                        * 2.0 ** (math.log2(alpha) + self.exponent + self._left_out)
                        * (base / self._top) ** o.beta
                    )
                return ce * (alpha * factor) * base**o.beta

    def true(self, loss: float) -> float:
        """The objective itself, of what a call gave; infinite beyond what a float holds."""
        try:
            return loss * 2.0**-self.exponent
        except OverflowError:
            return math.inf


class Stillness:
    """Says once when a pass has left P_theta where it was, so that nothing is searched."""

    def __init__(self, theta: Mapping[str, Tensor], lr: float) -> None:
        self._theta, self._least, self._said = theta, 1e-4 * lr, False
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Remember where theta stands; a constant added to all of a layer changes no probability."""
        self._before = [(theta - theta.mean()).detach() for theta in self._theta.values()]

    def end(self, pass_number: int) -> None:
        """Compare; one warning in the life of a process."""
        pairs = zip(self._theta.values(), self._before, strict=True)
        moved = max(float(((theta - theta.mean()).detach() - before).abs().max()) for theta, before in pairs)
        if moved < self._least and not self._said and any(len(theta) > 1 for theta in self._theta.values()):
            self._said = True
            logger.warning(
                "theta stood still in the pass of epoch %d: no probability changed, and the search finds what it began "
                "with; change theta_lr, loss, alpha or beta",
                pass_number + 1,
            )
