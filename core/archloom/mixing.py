"""What of a shared network is run: one path, or a mixture of options; and the draws that weigh a mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .architecture import Architecture


@dataclass(frozen=True)
class Mixture:
    """How the options of one decision are weighted: `weights` (n,), and the positions that are run."""

    weights: Tensor
    active: tuple[int, ...]


Selection = Architecture | Mapping[str, int | Mixture]
"""One path (an architecture, or an option's position for each decision), or a mixture for each decision."""

Draw = Callable[[Tensor, float, torch.Generator | None], Mixture]
"""theta (n,), temperature, generator -> Mixture. The whole difference between differentiable methods."""


def _gumbel(theta: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of theta's shape, drawn on the CPU so that every device draws the same."""
    uniform = torch.rand(theta.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(min=1e-20)))
    return noise.to(theta.device, theta.dtype)


def softmax(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """DARTS: w = softmax(theta / tau), no noise; every candidate is run."""
    return Mixture(F.softmax(theta / temperature, dim=0), tuple(range(len(theta))))


def gumbel_softmax(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """FBNet, SNAS: w = softmax((theta + g) / tau), g ~ Gumbel(0, 1); every candidate is run."""
    weights = F.softmax((theta + _gumbel(theta, generator)) / temperature, dim=0)
    return Mixture(weights, tuple(range(len(theta))))


def straight_through(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
    """GDAS: the Gumbel softmax's largest entry as one, the others as zero; one path is run.

    In the backward pass every weight is the soft one, as in PyTorch's gumbel_softmax(hard=True): a cost that is a sum
    over all candidates gets the gradient of its expectation. The loss reaches the weight of the one that was run.
    """
    soft = gumbel_softmax(theta, temperature, generator).weights
    chosen = int(soft.detach().argmax())
    hard = torch.zeros_like(soft)
    hard[chosen] = 1
    return Mixture(hard - soft.detach() + soft, (chosen,))


def top_k(k: int) -> Draw:
    """The k largest entries of the Gumbel softmax, scaled to sum one; k paths are run.

    At k = 1 it is `straight_through`: scaling would make the single weight a constant.
    """
    if k == 1:
        return straight_through

    def draw(theta: Tensor, temperature: float, generator: torch.Generator | None = None) -> Mixture:
        soft = gumbel_softmax(theta, temperature, generator).weights
        active = torch.topk(soft.detach(), min(k, len(theta))).indices.sort().values
        kept = torch.zeros_like(soft).index_fill(0, active, 1.0)
        return Mixture(soft * kept / (soft * kept).sum(), tuple(active.tolist()))

    return draw
