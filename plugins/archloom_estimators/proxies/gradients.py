"""Proxies from the gradient of the loss on one batch: its norm, SNIP, GraSP and Fisher.

L is the model's loss, averaged over the batch; theta are the weights of convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from archloom import STATIC, Architecture, ConfigError, Context, Metric

from .common import finite, first_batch, fresh, gradients, scored_weights

Aggregation = Literal["blockswap", "abdelfattah"]
"""How the scores of channels become one of a network; see `fisher`."""

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


def fisher(model: nn.Module, images: Tensor, labels: Tensor, aggregation: Aggregation = "blockswap") -> float:
    """sum over layers and channels c of Delta_c = 1 / (2 N) sum_n (sum_ij a_nij g_nij)^2 (Turner et al., eq. 3).

    a is the output of a convolution or linear layer, g = dL / da; n counts the images, i and j the places of a
    channel. aggregation: "blockswap" takes each channel once; "abdelfattah" once for each weight of its filter, as
    the code of Abdelfattah et al. does.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append((module, output))
        return output.clone()  # what follows may work in place: on the copy

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, kinds)]
    try:
        loss = model.loss(model(images), labels)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    total = 0.0
    found = gradients(loss, [output for _, output in outputs])
    for (module, a), g in zip(outputs, found, strict=True):
        channels = _per_channel((a * g).detach().double(), isinstance(module, nn.Linear), len(images))
        times = 1 if aggregation == "blockswap" else module.weight.numel() // channels.shape[1]  # type: ignore[operator]
        total += float(times * channels.square().sum() / (2 * len(images)))
    return total


def _per_channel(product: Tensor, last: bool, images: int) -> Tensor:
    """(images, channels): summed over the places. The channels' axis is the last of a linear layer, else the second;
    several rows for each image, as tokens that were flattened into the batch, are places of it."""
    rows = (
        product.reshape(len(product), -1, product.shape[-1]).sum(1) if last and product.ndim > 2 else product
    )
    rows = rows.flatten(2).sum(2) if rows.ndim > 2 else rows
    several = len(rows) != images and len(rows) % images == 0
    return rows.reshape(images, -1, rows.shape[1]).sum(1) if several else rows


class GradientNorm:
    """The norm of the loss's gradient at initialization, on one batch of `batch_size` images.

    Source: Abdelfattah et al. (ICLR 2021), section 3.2: the Euclidean norms of the layers' gradients, summed.
    """

    metrics = (Metric("grad_norm", "score", "max"),)
    expense, needs = STATIC, ("task",)

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
    expense, needs = STATIC, ("task",)

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
    expense, needs = STATIC, ("task",)

    def __init__(self, *, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        x, y = first_batch(architecture, context, self.batch_size)
        return finite("grasp", grasp(model.loss(model(x), y), scored_weights(model)), EXPLODED)


class Fisher:
    """How much the loss changes as single channels are taken away, on one batch of `batch_size` images.

    aggregation: how the channels of all convolutions and linear layers become one number. "blockswap": their sum,
    after Turner et al., "BlockSwap" (ICLR 2020), eq. 3. "abdelfattah": their sum with each channel counted once for
    each weight of its filter, as the code of Abdelfattah et al. (ICLR 2021) does. A channel's own score: Theis et al.
    (arXiv 1801.05787).
    """

    metrics = (Metric("fisher", "score", "max"),)
    expense, needs = STATIC, ("task",)

    def __init__(self, *, batch_size: int = 32, aggregation: Aggregation = "blockswap") -> None:
        if aggregation not in get_args(Aggregation):
            raise ConfigError(
                f"fisher: aggregation is one of {', '.join(get_args(Aggregation))}, not '{aggregation}'"
            )
        self.batch_size, self.aggregation = batch_size, aggregation

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = fresh(architecture, context)
        scored_weights(model)  # refuses a network that has nothing to score
        x, y = first_batch(architecture, context, self.batch_size)
        return finite("fisher", fisher(model, x, y, self.aggregation), EXPLODED)
