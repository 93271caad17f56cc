"""The operations inside a block, and the one place that says how each is computed.

Every function names the PyTorch expression that it equals. Three of them keep less for the backward pass
than that expression does; `plain=True` asks for the expression itself. Whoever looks sees the expression:
while a graph is made, under transforms, and where a module has a hook, the expression is what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from archloom import ops
from archloom.graphs import unhooked

from .padding import Pair, is_tracing, pad_behind

SLICE_BYTES = 4 * 2**20
"""On the CPU, work on larger tensors goes in slices of about this size, which stay in the cache."""


def may_fuse(x: Tensor) -> bool:
    """Whether forms that save memory or time may be used: not while a graph is made or modes or hooks look on."""
    return not (
        is_tracing()
        or type(x) is not Tensor
        or x.is_meta
        or x.dim() != 4
        or _has_any_global_hook()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def unwatched(*modules: nn.Module) -> bool:
    """Whether the modules' work may be done without calling them: no hook, and no forward put in their place."""
    return all(map(unhooked, modules))


def is_ordinary(bn: nn.Module) -> bool:
    """Whether `bn` is a BatchNorm with scale and shift that nobody watches: what it gives is a tensor of its own."""
    return type(bn) is nn.BatchNorm2d and bn.weight is not None and bn.bias is not None and unwatched(bn)


def slices(x: Tensor, bytes_per_image: int) -> Iterator[slice]:
    """The batch of x in parts of about SLICE_BYTES; in one part off the CPU."""
    n = len(x)
    size = n if x.device.type != "cpu" else max(1, min(n, SLICE_BYTES // max(1, bytes_per_image)))
    parts = max(1, -(-n // max(1, size)))
    size = -(-n // parts)  # of equal length, so that they reuse the same memory
    return (slice(i * size, min((i + 1) * size, n)) for i in range(parts))


def bn_swish(x: Tensor, bn: nn.Module, margin: Pair = (0, 0), *, plain: bool = False) -> Tensor:
    """`F.pad(F.silu(bn(x)), (0, margin[1], 0, margin[0]))`, (N, C, H, W) -> (N, C, H + margin, W + margin).

    In training it keeps x alone for the backward pass, where the expression keeps x and bn(x): by the compiled
    kernel where there is one, else and where there is a margin to write by PyTorch's operations in slices.
    """
    fuses = may_fuse(x) and is_ordinary(bn)
    if not fuses or plain or not (torch.is_grad_enabled() and _in_training(bn, x.dtype)):
        return pad_behind(F.silu(bn(x), inplace=fuses and not torch.is_grad_enabled()), margin)
    assert isinstance(bn, nn.BatchNorm2d)  # is_ordinary saw to it
    if x.numel() < 2 * x.shape[1]:
        raise ValueError(f"BatchNorm in training needs more than one value per channel, got {tuple(x.shape)}")
    if margin == (0, 0) and ops.has_kernels(x):
        return ops.bn_swish(x, bn)
    if bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    return _BatchNormSwish.apply(
        x, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.momentum, bn.eps, margin
    )


def pooled(x: Tensor) -> Tensor:
    """`x.mean((2, 3), keepdim=True)`, (N, C, H, W) -> (N, C, 1, 1).

    As a sum where a gradient is wanted: the sum's is a view, the mean's a tensor of x's size. Half precision
    would overflow.
    """
    if torch.is_grad_enabled() and may_fuse(x) and x.dtype in (torch.float32, torch.float64):
        return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return x.mean((2, 3), keepdim=True)


def scale_gate(x: Tensor, logits: Tensor, *, plain: bool = False) -> Tensor:
    """`x * torch.sigmoid(logits)`, logits (N, C, 1, 1); plain: the expression itself."""
    if plain or not (torch.is_grad_enabled() and may_fuse(x)):
        return x * torch.sigmoid(logits)
    return ops.scale_gate(x, logits)


def drop_connect_add(x: Tensor, skip: Tensor, rate: float, training: bool) -> Tensor:
    """`x * mask / (1 - rate) + skip`, mask (N, 1, 1, 1) zero with probability `rate`;
    `x + skip` in eval mode.

    Draws from PyTorch's global generator, as dropout does.
    """
    if not training or rate == 0.0:
        return x + skip
    keep = 1.0 - rate
    mask = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep if keep > 0.0 else 1.0)
    return torch.addcmul(skip, x, mask)


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that equals `bn(conv(x))` in eval mode."""
    assert bn.running_mean is not None  # may_fold saw to both
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return conv.weight * scale.view(-1, 1, 1, 1), torch.addcmul(bn.bias, bn.running_mean, scale, value=-1)


def may_fold(conv: nn.Module, bn: nn.Module) -> bool:
    """Whether `folded` says what the two modules do: ordinary ones, in eval mode, with nobody watching."""
    return (
        is_ordinary(bn)
        and unwatched(conv)
        and not bn.training
        and bn.running_mean is not None
        and bn.running_var is not None
        and conv.bias is None
        and conv.weight.dtype == bn.weight.dtype == bn.running_var.dtype
    )


def _in_training(bn: nn.Module, dtype: torch.dtype) -> bool:
    """Whether an ordinary BatchNorm takes the batch's statistics in `dtype` and keeps them."""
    return bool(
        bn.training
        and bn.weight.dtype == dtype
        and bn.track_running_stats
        and bn.running_mean is not None
        and bn.running_var is not None
        and bn.momentum is not None
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
        ctx.save_for_backward(x, gamma, beta, mean, invstd, a, b)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, invstd, a, b = ctx.saved_tensors
        grad = grad[..., : x.shape[2], : x.shape[3]]
        if (
            torch.is_grad_enabled()
            or is_legacy_batchedtensor(grad)
            or torch._C._are_functorch_transforms_active()
        ):  # asked for again, or of many gradients at once: by operations that PyTorch can follow
            return *_bn_swish_backward(x, gamma, beta, ctx.eps, grad), None, None, None, None, None
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


def _bn_swish_backward(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `F.silu(F.batch_norm(x, ...))` for x, gamma and beta, which have gradients themselves."""
    over = (0, 2, 3)
    centred = x - x.mean(over, keepdim=True)
    invstd = torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    xhat = centred * invstd
    z = xhat * _per_channel(gamma) + _per_channel(beta)
    s = torch.sigmoid(z)
    dz = grad * (s * (1 + z * (1 - s)))
    along = dz * xhat
    dx = dz - dz.mean(over, keepdim=True) - xhat * along.mean(over, keepdim=True)
    return dx * (invstd * _per_channel(gamma)), along.sum(over), dz.sum(over)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
