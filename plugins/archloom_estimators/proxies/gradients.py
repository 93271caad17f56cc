"""Proxies from the gradient of the loss on one batch: its norm, SNIP, GraSP and Fisher.

L is the model's loss, averaged over the batch; theta are the weights of convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archloom.architecture import Architecture
from archloom.estimator import STATIC, Context, Metric

from .common import finite, first_batch, fresh, gradients, scored_weights

EXPLODED = "the loss or its gradient is no number at initialization"


def gradient_norm(loss: Tensor, weights: list[Tensor]) -> float:
    """sum over the layers l of ||dL / dtheta_l||_2 (Abdelfattah et al., section 3.2)."""
    return sum(float(g.double().norm()) for g in gradients(loss, weights))


def snip(loss: Tensor, weights: list[Tensor]) -> float:
    """sum over the weights of S(theta) = |dL/dtheta * theta| (Abdelfattah et al., eq. 1, left)."""
    return sum(
        float((g * w).detach().double().abs().sum())
        for g, w in zip(gradients(loss, weights), weights, strict=True)
    )


def grasp(loss: Tensor, weights: list[Tensor]) -> float:
    """sum over the weights of S(theta) = -(H dL/dtheta) * theta (Abdelfattah et al., eq. 1, middle).

    H is the Hessian of L in theta. H g is the gradient of g . c at c = g, so that no Hessian is formed.
    """
    g = gradients(loss, weights, create_graph=True)
    product = sum(((each * each.detach()).sum() for each in g), start=torch.zeros((), device=loss.device))
    hg = gradients(product, weights)
    return sum(float(-(h * w).detach().double().sum()) for h, w in zip(hg, weights, strict=True))


def fisher(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """sum over layers and channels c of Delta_c = 1 / (2 N) sum_n (sum_ij a_nij g_nij)^2 (Turner et al., eq. 3).

    a is the output of a convolution or linear layer, g = dL / da; n counts the images, i and j the places of a
    channel. Abdelfattah et al., eq. 2, is the same but for the factor.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # what follows may work in place: on the copy

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, kinds)]
    try:
        loss = model.loss(model(images), labels)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    total = 0.0
    for a, g in zip(outputs, gradients(loss, outputs), strict=True):
        per_channel = (a * g).detach().double().flatten(2).sum(2) if a.ndim > 2 else (a * g).detach().double()
        total += float(per_channel.square().sum() / (2 * len(images)))
    return total


class GradientNorm:
    """The norm of the loss's gradient at initialization, on one batch of `batch_size` images.

    Source: Abdelfattah et al. (ICLR 2021), section 3.2: the Euclidean norms of the layers' gradients, summed.
    """

    metrics = (Metric("grad_norm", "score", "max"),)
    expense, needs = STATIC, ()

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, y = first_batch(architecture, context, self.batch_size)
        score = gradient_norm(model.loss(model(x), y), scored_weights(model))
        return finite("grad_norm", score, EXPLODED)


class SNIP:
    """How much the loss changes as single weights are taken away, on one batch of `batch_size` images.

    Source: Lee et al., "SNIP" (ICLR 2019), eq. 4; of a whole network: Abdelfattah et al. (ICLR 2021), eq. 1.
    """

    metrics = (Metric("snip", "score", "max"),)
    expense, needs = STATIC, ()

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, y = first_batch(architecture, context, self.batch_size)
        return finite("snip", snip(model.loss(model(x), y), scored_weights(model)), EXPLODED)


class GraSP:
    """How much the gradient's norm changes as single weights are taken away, on one batch of `batch_size` images.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow" (ICLR 2020), eq. 8,
    without its softmax temperature; of a whole network: Abdelfattah et al. (ICLR 2021), eq. 1.
    """

    metrics = (Metric("grasp", "score", "max"),)
    expense, needs = STATIC, ()

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, y = first_batch(architecture, context, self.batch_size)
        return finite("grasp", grasp(model.loss(model(x), y), scored_weights(model)), EXPLODED)


class Fisher:
    """How much the loss changes as single channels are taken away, on one batch of `batch_size` images.

    Source: Theis et al. (arXiv 1801.05787) and Turner et al., "BlockSwap" (ICLR 2020), eq. 3; of a whole network:
    Abdelfattah et al. (ICLR 2021), eq. 2.
    """

    metrics = (Metric("fisher", "score", "max"),)
    expense, needs = STATIC, ()

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        scored_weights(model)  # refuses a network that has nothing to score
        x, y = first_batch(architecture, context, self.batch_size)
        return finite("fisher", fisher(model, x, y), EXPLODED)
