"""SynFlow: the flow through the network's synapses, without data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from archloom.architecture import Architecture
from archloom.estimator import STATIC, Context, Metric

from .common import finite, fresh, gradients, scored_weights


def synflow(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """sum over the weights of S(theta) = dR/dtheta * theta, R = 1^T f(1; |theta|) (Tanaka et al., eq. 1 and 2).

    shape: (C, H, W) of the image of ones. The model is changed: its weights become positive and of double
    precision, since R is a product over the layers and leaves single precision in deep networks. BatchNorm is in
    evaluation mode, where at initialization it passes its input on.
    """
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    weights = scored_weights(model)
    ones = torch.ones(1, *shape, dtype=torch.float64, device=weights[0].device)
    r = model(ones).sum()
    return sum(float((g * w).detach().sum()) for g, w in zip(gradients(r, weights), weights, strict=True))


class SynFlow:
    """The sum of all weights' synaptic saliencies; it sees no image, and is positive.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (NeurIPS 2020), eq. 1 and 2; of a whole network: Abdelfattah et al. (ICLR 2021), eq. 1.
    """

    metrics = (Metric("synflow", "score", "max"),)
    expense, needs = STATIC, ()

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        score = synflow(fresh(architecture, context), context.shape(architecture))
        return finite("synflow", score, "the product over the layers leaves double precision")
