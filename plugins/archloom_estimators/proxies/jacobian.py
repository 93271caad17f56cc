"""Jacobian covariance: do different images pull the output in different directions?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archloom import STATIC, Architecture, Context, Metric

from .common import finite, first_batch, fresh

K = 1e-5
"""Added to the eigenvalues, as in the paper."""


def jacobian(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C H W): for each image the gradient of the sum of all logits with respect to its pixels."""
    images = images.detach().clone().requires_grad_()
    (j,) = torch.autograd.grad(model(images).sum(), images)
    return j.flatten(1)


def score(j: Tensor) -> float:
    """S = -sum_i [log(sigma_i + k) + 1 / (sigma_i + k)], sigma the eigenvalues of J's correlation matrix."""
    sigma = torch.linalg.eigvalsh(torch.corrcoef(j.double())).clamp(min=0.0)  # below 0 by rounding alone
    return float(-((sigma + K).log() + 1 / (sigma + K)).sum())


class JacobianCovariance:
    """How little the Jacobians of `batch_size` images are correlated with one another.

    Source: Mellor et al., "Neural Architecture Search without Training", the first version (arXiv 2006.04647v1),
    section 3; Abdelfattah et al. (ICLR 2021) call it jacob_cov. Where the batch has BatchNorm's statistics, an
    image also acts on the others' logits, as there.
    """

    metrics = (Metric("jacob_cov", "score", "max"),)
    expense, needs = STATIC, ("task",)

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, _ = first_batch(architecture, context, self.batch_size, distinct=True)
        j = jacobian(model, x)
        if not bool((j.std(1) > 0).all()):
            return finite("jacob_cov", float("nan"), "some image's pixels all have the same gradient")
        return finite("jacob_cov", score(j), "the gradient is no number at initialization")
