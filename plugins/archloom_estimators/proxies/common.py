"""What the proxies share: the network at initialization, the batch that it sees, and which weights are scored."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archloom import Architecture, ConfigError, Context, Model, SearchError, batches
from archloom.space import side_of

BATCH_SEED = 0
"""The batch is the same for every network, whatever the seed of its weights: only then can scores be compared."""


def fresh(architecture: Architecture, context: Context) -> Model:
    """The network with weights from the estimate's seed. BatchNorm takes the batch's statistics; nothing else is
    in training mode, since no proxy is a function of dropped units."""
    model = context.assemble(architecture).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return model


def first_batch(
    architecture: Architecture, context: Context, size: int, *, distinct: bool = False
) -> tuple[Tensor, Tensor]:
    """`size` images (N, C, H, W) of the weights split, not augmented, and their labels (N,).

    A ConfigError where the split has fewer; with `distinct` it must be at least two.
    """
    least = 2 if distinct else 1
    if size < least:
        raise ConfigError(f"a proxy's batch_size must be at least {least}, not {size}")
    shape = context.shape(architecture)
    resolution = side_of(shape, context.task)
    data = context.task.dataset("weights", resolution=resolution)
    if len(data) < size:  # type: ignore[arg-type]
        raise ConfigError(
            f"a proxy's batch of {size} images is more than task '{context.task.name}' has in its weights split "
            f"({len(data)}); lower batch_size"  # type: ignore[arg-type]
        )
    stream = batches(
        data, size, seed=BATCH_SEED, shuffle=True, device=context.device, workers=0, channels_last=False
    )
    return next(iter(stream))


def scored_weights(model: nn.Module) -> list[Tensor]:
    """The weights of all convolutions and linear layers, which are what the pruning criteria score.

    Biases and norm layers are left out, and weights that are not trained.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    weights = [m.weight for m in model.modules() if isinstance(m, kinds) and m.weight.requires_grad]
    if not weights:
        raise SearchError("the network has no convolution and no linear layer to be scored")
    return weights


def gradients(value: Tensor, tensors: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """d value / d tensor for each; zeros where `value` does not depend on it."""
    found = torch.autograd.grad(value, tensors, allow_unused=True, create_graph=create_graph)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def finite(name: str, value: float, why: str) -> dict[str, float]:
    """The estimate; a SearchError that says why where it is no number to compare."""
    if not math.isfinite(value):
        raise SearchError(f"{name} is {value}: {why}")
    return {name: value}
