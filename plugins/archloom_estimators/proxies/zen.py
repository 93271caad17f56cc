"""Zen-Score: how much a small change of the image changes the feature map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archloom import STATIC, Architecture, ConfigError, Context, Metric, torch_rng

from .common import finite, fresh

RESIDUAL = ("residual", "has_skip", "has_residual")
"""Attributes by which blocks say that they add their input; see `without_residuals`."""


def without_residuals(network: nn.Module) -> nn.Module:
    """Algorithm 1, line 1: blocks that say by one of `RESIDUAL`, a bool, that they add their input no longer do.

    A network whose blocks say it otherwise keeps its residual connections. Returns the network.
    """
    for module in network.modules():
        for name in RESIDUAL:
            if getattr(module, name, None) is True:
                setattr(module, name, False)
    return network


def gaussian(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Algorithm 1, line 2: weights from N(0, 1), biases 0, norm layers passing their input on. Returns it."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and module.weight.requires_grad:
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) and module.affine:
                module.weight.fill_(1.0)
                module.bias.zero_()
    return network


def zen(network: nn.Module, x: Tensor, epsilon: Tensor, alpha: float) -> float:
    """log(Delta) + sum over BatchNorm layers i of log(sigma_i), for images x and noise epsilon, (N, C, H, W).

    Delta is the mean over the images of ||f(x) - f(x + alpha epsilon)||_F (line 4), f the feature map; sigma_i^2 is
    what the layer divides by for x, averaged over its channels (line 5): the score is then what it would be without
    BatchNorm, which only keeps numbers in range.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    logarithms: list[float] = []

    def keep(module: Any, inputs: tuple[Tensor, ...]) -> None:
        variance = inputs[0].transpose(0, 1).flatten(1).var(1, correction=0)  # (C,)
        logarithms.append(0.5 * math.log(float(variance.double().mean()) + module.eps))

    with torch.no_grad():
        handles = [norm.register_forward_pre_hook(keep) for norm in norms]
        try:
            f = network(x)
        finally:
            for handle in handles:
                handle.remove()
        delta = (f - network(x + alpha * epsilon)).flatten(1).double().norm(dim=1).mean()
    return float(delta.log()) + sum(logarithms)


class ZenNAS:
    """The Zen-Score of the feature map: Gaussian weights, `batch_size` Gaussian images; no data is seen.

    alpha: size of the change. The feature map is the backbone's; its blocks' residual connections are taken away
    where they have a bool attribute "residual", "has_skip" or "has_residual".
    Source: Lin et al., "Zen-NAS" (ICCV 2021, arXiv 2102.01063), algorithm 1.
    """

    metrics = (Metric("zen", "score", "max"),)
    expense, needs = STATIC, ("task",)

    def __init__(self, *, batch_size: int = 16, alpha: float = 0.01) -> None:
        if batch_size < 1 or alpha <= 0:
            raise ConfigError(
                f"zen: batch_size must be at least 1 and alpha positive, not {batch_size} and {alpha}"
            )
        self.batch_size, self.alpha = batch_size, alpha

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        generator = torch_rng(context.seed, "zen")
        network = gaussian(without_residuals(fresh(architecture, context).backbone), generator)
        shape = (self.batch_size, *context.shape(architecture))
        x, epsilon = (torch.randn(shape, generator=generator).to(context.device) for _ in range(2))  # line 3
        return finite("zen", zen(network, x, epsilon, self.alpha), "the feature map does not change at all")
