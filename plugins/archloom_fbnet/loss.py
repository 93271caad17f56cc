"""What the search minimizes: cross entropy and the expected cost, joined in one of four ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archloom.errors import ConfigError

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
    return alpha * ce * torch.log(cost**beta)


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
