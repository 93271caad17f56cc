"""Necks: what lies between the feature map and the head. Of a tuple each map is taken by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archloom import ConfigError, Features


class Identity(nn.Module):
    """The features as they are, for a backbone that already gives (N, C)."""

    def forward(self, x: Features) -> Features:
        return x


class GeneralizedMean(nn.Module):
    """(N, C, H, W) -> (N, C): (mean of x^p)^(1/p), with x bounded below by `eps` (Radenovic et al., 1711.02512, eq. 3).

    p = 1 is the average of positive maps, and p -> infinity the maximum. It is learned unless `learned` is false.
    """

    def __init__(self, *, p: float = 3.0, eps: float = 1e-6, learned: bool = True) -> None:
        super().__init__()
        if p <= 0 or eps <= 0:
            raise ConfigError(f"GeneralizedMean: p and eps must be positive, not {p} and {eps}")
        self.p, self.eps = nn.Parameter(torch.tensor(float(p)), requires_grad=learned), eps

    def forward(self, x: Features) -> Features:
        return self._mean(x) if isinstance(x, Tensor) else tuple(map(self._mean, x))

    def _mean(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)
