"""What a fused operation has to know of a BatchNorm: whether calling it does nothing but normalize by the batch,
its two parameters, and its running statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..graphs import unhooked

TENSORS = frozenset((Tensor, nn.Parameter))
"""The types whose operations are PyTorch's own; another subclass wants to see every one of them."""

_DIMENSIONS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}
_REDUCED = frozenset((torch.bfloat16, torch.float16))
_FORWARD = _BatchNorm.forward


def normalizes_batch(norm: _BatchNorm, x: Tensor) -> bool:
    """Whether `norm(x)` is the normalization of x by its batch's statistics, and does nothing besides.

    What PyTorch would refuse, or would take in another way, is left to it: other dimensions, numbers of channels,
    types or devices, a single value per channel, another class, hooks.
    """
    kind = type(norm)
    return (
        norm.training
        and kind in _DIMENSIONS
        and x.dim() in _DIMENSIONS[kind]
        and kind.forward is _FORWARD
        and unhooked(norm)
        and x.numel() > x.shape[1]
        and _fits(norm, x)
    )


def _fits(norm: _BatchNorm, x: Tensor) -> bool:
    """Whether parameters and statistics are those of x's channels, on its device, in one type that goes with x's."""
    parameters, buffers = norm._parameters, norm._buffers
    if "weight" not in parameters or "bias" not in parameters:
        return False  # they come from somewhere else
    held: list[Tensor | None] = [parameters["weight"], parameters["bias"]]
    if norm.track_running_stats:
        mean, var = buffers.get("running_mean"), buffers.get("running_var")
        if mean is None or var is None:
            return False
        held += (mean, var)
    device, channels, dtype, kinds = x.device, x.shape[1], None, TENSORS
    for tensor in held:
        if tensor is None:
            continue
        if dtype is None:
            dtype = tensor.dtype
        if (
            tensor.dtype is not dtype
            or tensor.numel() != channels
            or tensor.device != device
            or type(tensor) not in kinds
        ):
            return False
    return dtype is None or dtype is x.dtype or (dtype is torch.float32 and x.dtype in _REDUCED)


def affine_parameters(norm: _BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and beta, (C,); ones and zeros for those that `norm` has not."""
    gamma: Tensor | None
    beta: Tensor | None
    gamma, beta = norm._parameters["weight"], norm._parameters["bias"]
    if gamma is None:
        gamma = torch.ones(x.shape[1], device=x.device)
    if beta is None:
        beta = torch.zeros(x.shape[1], device=x.device)
    return gamma, beta


@torch.no_grad()
def track(norms: Sequence[_BatchNorm], mean: Tensor, var: Tensor, population: int) -> None:
    """Running statistics as BatchNorm keeps them: r <- (1 - m) r + m new, the variance unbiased.

    mean, var: (N, C), the batch's, var biased. Momentum None is the cumulative average.
    """
    factor = population / (population - 1)
    running: dict[float, list[Tensor]] = {}
    new: dict[float, list[Tensor]] = {}
    for norm, norm_mean, norm_var in zip(norms, mean.unbind(0), (var * factor).unbind(0), strict=True):
        if not norm.track_running_stats:
            continue
        buffers = norm._buffers
        kept_mean, kept_var = buffers["running_mean"], buffers["running_var"]
        assert kept_mean is not None  # normalizes_batch saw to both
        assert kept_var is not None
        batches, momentum = buffers.get("num_batches_tracked"), norm.momentum
        if batches is not None:
            batches.add_(1)
        if momentum is None:  # without a count PyTorch keeps the statistics as they are
            momentum = 0.0 if batches is None else 1 / float(batches)
        if kept_mean.dtype is not norm_mean.dtype:
            norm_mean, norm_var = norm_mean.to(kept_mean.dtype), norm_var.to(kept_mean.dtype)
        running.setdefault(momentum, []).extend((kept_mean, kept_var))
        new.setdefault(momentum, []).extend((norm_mean, norm_var))
    for momentum, kept in running.items():
        torch._foreach_lerp_(kept, new[momentum], momentum)
