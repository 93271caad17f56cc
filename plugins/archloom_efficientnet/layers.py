"""The operations inside a block, and the one place that says how each is computed.

Every function names the PyTorch expression that it equals. Three of them keep less for the backward pass
than that expression does; `plain=True` asks for the expression itself, which exporters can follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from archloom import kernels, ops

from .padding import Pair, is_tracing, pad_behind

SLICE_BYTES = 4 * 2**20
"""On the CPU, work on larger tensors goes in slices of about this size, which stay in the cache."""


def may_fuse(x: Tensor) -> bool:
    """Whether the forms that save memory may be used here: not while a graph is traced for elsewhere."""
    return not (is_tracing() or x.is_meta)


def slices(x: Tensor, bytes_per_image: int) -> Iterator[slice]:
    """The batch of x in parts of about SLICE_BYTES; in one part off the CPU."""
    n = len(x)
    size = n if x.device.type != "cpu" else max(1, min(n, SLICE_BYTES // max(1, bytes_per_image)))
    parts = max(1, -(-n // max(1, size)))
    size = -(-n // parts)  # of equal length, so that they reuse the same memory
    return (slice(i * size, min((i + 1) * size, n)) for i in range(parts))


def swish(x: Tensor) -> Tensor:
    """`F.silu(x)`; in place where nothing can ask for a gradient. x must be the caller's own."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() or is_tracing()))


def bn_swish(x: Tensor, bn: nn.Module, margin: Pair = (0, 0), *, plain: bool = False) -> Tensor:
    """`F.pad(F.silu(bn(x)), (0, margin[1], 0, margin[0]))`, (N, C, H, W) -> (N, C, H + margin, W + margin).

    In training it keeps x alone for the backward pass, where the expression keeps x and bn(x): by the compiled
    kernel where there is one, else and where there is a margin to write by PyTorch's operations in slices.
    """
    if plain or not (torch.is_grad_enabled() and may_fuse(x) and _in_training(bn, x.dtype)):
        return pad_behind(swish(bn(x)), margin)
    assert isinstance(bn, nn.BatchNorm2d)  # _in_training saw to it
    if x.numel() < 2 * x.shape[1]:
        raise ValueError(f"BatchNorm in training needs more than one value per channel, got {tuple(x.shape)}")
    if margin == (0, 0) and x.device.type in kernels.status().devices:
        return ops.bn_swish(x, bn)
    if bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    return _BatchNormSwish.apply(
        x, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.momentum, bn.eps, margin
    )


def scale_gate(x: Tensor, logits: Tensor, *, plain: bool = False) -> Tensor:
    """`x * torch.sigmoid(logits)`, logits (N, C, 1, 1); in place where nothing can ask for a gradient.

    plain: the expression itself.
    """
    if plain or not may_fuse(x):
        return x * torch.sigmoid(logits)
    return ops.scale_gate(x, logits) if torch.is_grad_enabled() else x.mul_(torch.sigmoid(logits))


def drop_connect_add(x: Tensor, skip: Tensor, rate: float, training: bool) -> Tensor:
    """`x * mask / (1 - rate) + skip`, mask (N, 1, 1, 1) zero with probability `rate`;
    `x + skip` in eval mode.

    Draws from PyTorch's global generator, as dropout does.
    """
    if not training or rate == 0.0:
        return x + skip if torch.is_grad_enabled() or is_tracing() else x.add_(skip)
    keep = 1.0 - rate
    mask = x.new_empty((len(x), 1, 1, 1)).bernoulli_(keep).div_(keep or 1.0)
    return torch.addcmul(skip, x, mask)


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that equals `bn(conv(x))` in eval mode."""
    assert bn.running_mean is not None  # may_fold saw to both
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return conv.weight * scale.view(-1, 1, 1, 1), torch.addcmul(bn.bias, bn.running_mean, scale, value=-1)


def may_fold(conv: nn.Module, bn: nn.Module) -> bool:
    """Whether `folded` says what the two modules do: ordinary ones, in eval mode, with nobody listening."""
    return (
        type(bn) is nn.BatchNorm2d
        and not bn.training
        and bn.running_mean is not None
        and bn.affine
        and conv.bias is None
        and not (conv._forward_hooks or conv._forward_pre_hooks or bn._forward_hooks or bn._forward_pre_hooks)
    )


def _in_training(bn: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `bn` is an ordinary BatchNorm, not hooked, that takes the batch's statistics in `dtype`."""
    return (
        type(bn) is nn.BatchNorm2d
        and bn.training
        and bn.affine
        and bn.weight.dtype == dtype
        and bn.track_running_stats
        and bn.momentum is not None
        and not (bn._forward_hooks or bn._forward_pre_hooks)
    )


class _BatchNormSwish(torch.autograd.Function):
    """z = a x + b with a = gamma / sqrt(var + eps), b = beta - mean a; y = z sigmoid(z), then the margin.

    Only x is kept; z is computed again in the backward pass, in the memory that becomes x's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        margin: Pair,
    ) -> Tensor:
        n, c, h, w = x.shape
        mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        invstd = torch.rsqrt(var + eps)
        a = gamma * invstd
        b = torch.addcmul(beta, mean, a, value=-1)
        y = torch.empty(
            (n, c, h + margin[0], w + margin[1]),
            dtype=x.dtype,
            device=x.device,
            memory_format=_format(x),
        )
        inner = y[..., :h, :w]
        y[..., h:, :], y[..., w:] = 0, 0
        _a, _b = _per_channel(a), _per_channel(b)
        for part in slices(x, y[0].nbytes):
            torch.addcmul(_b, x[part], _a, out=inner[part])
            F.silu(inner[part], inplace=True)
        ctx.save_for_backward(x, gamma, mean, invstd, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, invstd, a, b = ctx.saved_tensors
        grad = grad[..., : x.shape[2], : x.shape[3]]
        dz = torch.empty_like(x)
        _a, _b = _per_channel(a), _per_channel(b)
        for part in slices(x, x[0].nbytes):
            z = torch.addcmul(_b, x[part], _a, out=dz[part])
            torch.ops.aten.silu_backward(grad[part], z, grad_input=z)  # z is dz from here
        # on the CPU the sums alone: PyTorch's own gradient of x would be paged into memory of its own
        on_cpu = x.device.type == "cpu"
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dz, x, gamma, None, None, mean, invstd, True, 0.0, [not on_cpu, True, True]
        )
        if not on_cpu:
            return dx, dgamma, dbeta, None, None, None, None, None
        # dx = a (dz - mean(dz) - xhat mean(dz xhat)) = a dz + p x + q
        count = x.numel() // x.shape[1]
        p = -a * invstd * dgamma / count
        _p, _q = _per_channel(p), _per_channel(-a * dbeta / count - p * mean)
        dx = dz
        for part in slices(x, x[0].nbytes):
            dx[part].mul_(_a).addcmul_(x[part], _p).add_(_q)
        return dx, dgamma, dbeta, None, None, None, None, None


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
