"""NASWOT: do different images switch on different units?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archloom import STATIC, Architecture, Context, Metric, SearchError

from .common import finite, first_batch, fresh

GATES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.ELU)
"""Activations that are on where their input is positive, and off or nearly so elsewhere."""


def kernel(model: nn.Module, images: Tensor) -> Tensor:
    """K_H (N, N): in how many units two images agree, N_A - d_H(c_i, c_j) (Mellor et al., eq. 2).

    c_i is the code of image i: for each unit before an activation, whether it is positive. Raises SearchError
    where the model has no activation module.
    """
    k = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        c = (inputs[0].detach().flatten(1) > 0).float()  # (N, units)
        k.add_((c @ c.T + (1 - c) @ (1 - c).T).double())

    gates = [m for m in model.modules() if isinstance(m, GATES)]
    if not gates:
        raise SearchError(
            "naswot needs activations that are modules (nn.ReLU and its like), and the network has none"
        )
    handles = [gate.register_forward_pre_hook(add) for gate in gates]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return k


class NASWOT:
    """The logarithm of the determinant of how alike the activation codes of `batch_size` images are.

    Large where each image has a code of its own; where two images share one it is minus infinity, and the estimate
    fails. Source: Mellor et al., "Neural Architecture Search without Training" (ICML 2021), eq. 2 and 3.
    """

    metrics = (Metric("naswot", "score", "max"),)
    expense, needs = STATIC, ("task",)

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, _ = first_batch(architecture, context, self.batch_size, distinct=True)
        _, logarithm = torch.linalg.slogdet(kernel(model, x))  # s = log |K_H|   (eq. 3)
        return finite(
            "naswot", float(logarithm), f"of {len(x)} images two have the same code; lower batch_size"
        )
